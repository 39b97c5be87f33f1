"""``kerakit predict`` and ``evaluate.py``: what a model says of photos, from a run and from what was delivered."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pages import Page
from projects import Project


def kerakit(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kerakit.cli", "predict", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


@pytest.fixture(scope="module")
def delivered(trained_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained project with deploy/test."""
    folder = tmp_path_factory.mktemp("delivered")
    shutil.copytree(trained_once, folder / "project")
    result = Project(folder / "project").deploy("--formats", "float32,int8")
    assert result.code == 0, result.err
    return folder / "project"


@pytest.mark.parametrize(
    "model", ["progress/test", "deploy/test", "deploy/test/model_float32.tflite"]
)
def test_it_says_what_photos_show(delivered: Path, trained_once: Path, model: str) -> None:
    photos = trained_once.parent / "photos"
    done = kerakit(model, photos, cwd=delivered)
    assert done.returncode == 0, done.stderr
    found = rows(done.stdout)
    assert [row["path"] for row in found] == [str(path) for path in sorted(photos.rglob("*.png"))]
    right = np.mean([row["label"] == Path(row["path"]).parent.name for row in found])
    assert right > 0.9
    assert all(0.4 < float(row["confidence"]) <= 1 for row in found)


def test_json_top_and_odd_names(delivered: Path, trained_once: Path, tmp_path: Path) -> None:
    source = trained_once.parent / "photos" / "apple" / "00.png"
    shutil.copy(source, tmp_path / '-it\'s "an" apple.png')
    for model in ("progress/test", "deploy/test"):
        done = kerakit(
            delivered / model, "--top", 2, "--as_json", "--", '-it\'s "an" apple.png', cwd=tmp_path
        )
        assert done.returncode == 0, done.stderr
        ((entry),) = json.loads(done.stdout)
        assert entry["path"] == '-it\'s "an" apple.png'
        assert [label["label"] for label in entry["labels"]] == ["apple", "pear"]
        assert sum(label["confidence"] for label in entry["labels"]) == pytest.approx(1, abs=0.02)


def test_a_broken_image_is_named_and_the_others_are_answered(
    delivered: Path, trained_once: Path, tmp_path: Path
) -> None:
    (tmp_path / "bad.png").write_bytes(b"bad")
    shutil.copy(trained_once.parent / "photos" / "pear" / "00.png", tmp_path / "good.png")
    for model in ("progress/test", "deploy/test"):
        done = kerakit(model, tmp_path, cwd=delivered)
        assert done.returncode == 2
        assert [Path(row["path"]).name for row in rows(done.stdout)] == ["good.png"]
        assert "bad.png" in done.stderr
        assert "1 of 2 images" in done.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["deploy/test", "gone.png"], "no file or folder gone.png"),
        (["deploy/test", "empty"], "no images"),
        (["deploy/test"], "no images were given"),
        (["empty", "x.png"], "no TensorFlow Lite model"),
        (["gone", "x.png"], "no TensorFlow Lite model"),
        (["alone.tflite", "x.png"], "no labels.txt"),
        (["broken/model.tflite", "x.png"], "damaged"),
        (["fewer/model.tflite", "x.png"], "has 1 lines"),
        (["deploy/test", "x.png", "--top", "0"], "at least 1"),
    ],
)
def test_bad_input_is_explained(
    delivered: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    shutil.copytree(delivered / "deploy", tmp_path / "deploy")
    (tmp_path / "empty").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    shutil.copy(tmp_path / "deploy/test/model.tflite", tmp_path / "alone.tflite")
    for name in ("broken", "fewer"):
        shutil.copytree(tmp_path / "deploy/test", tmp_path / name)
    (tmp_path / "broken/model.tflite").write_bytes(b"no model")
    (tmp_path / "fewer/labels.txt").write_text("apple\n")
    done = kerakit(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_without_its_project_is_explained(delivered: Path, tmp_path: Path) -> None:
    shutil.copytree(delivered / "progress" / "test", tmp_path / "run")
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    done = kerakit("run", "x.png", cwd=tmp_path)
    assert done.returncode == 2
    assert "its project is not here" in done.stderr


def test_evaluate_scores_the_held_out_images(trained: Project) -> None:
    result = trained.run("evaluate.py", "--read_from", "progress/test")
    assert result.code == 0, result.err
    run = trained.path / "progress/test"
    found: dict[str, Any] = json.loads((run / "evaluation.json").read_text())
    matrix = np.array(found["confusion"])
    assert matrix.sum() == found["images"]
    assert found["accuracy"] == pytest.approx(np.trace(matrix) / matrix.sum())
    for i, row in enumerate(found["classes"]):
        assert row["images"] == matrix[i].sum()
        assert row["recall"] == pytest.approx(matrix[i, i] / matrix[i].sum())
    assert f"{found['accuracy']:.2%} of {found['images']} test images are right" in result.out
    page = Page(run / "report.html")
    page.expect_it_loads_nothing()
    assert f"{found['accuracy']:.2%} of {found['images']} test images are right" in page.section(
        "Evaluation"
    )
    shown = [
        [r["class"], str(r["images"]), *(f"{r[key]:.2%}" for key in ("precision", "recall", "f1"))]
        for r in found["classes"]
    ]
    assert shown in [rows[1:] for rows in page.tables()]
    for name in ("confusion.png", "curves.png"):
        with Image.open(run / "plots" / name) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("RGB").getcolors(2**24) or []) > 10
    # They belong to the run: --overwrite takes them along.
    assert trained.train("--overwrite").code == 0
    assert not (run / "evaluation.json").exists()
    assert not (run / "plots/confusion.png").exists()
    assert "Evaluation" not in Page(run / "report.html").headings


def test_a_script_that_only_has_the_name_is_not_run(delivered: Path, tmp_path: Path) -> None:
    shutil.copytree(delivered / "progress" / "test", tmp_path / "run")
    (tmp_path / "predict.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    Image.new("RGB", (20, 20)).save(tmp_path / "x.png")
    assert kerakit("run", "x.png", cwd=tmp_path).returncode == 2
    assert not (tmp_path / "ran").exists()


def test_a_reader_that_has_enough_is_no_error(delivered: Path, trained_once: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "kerakit.cli",
        "predict",
        "deploy/test",
        str(trained_once.parent / "photos"),
    ]
    process = subprocess.Popen(
        command, cwd=delivered, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert "Traceback" not in err
