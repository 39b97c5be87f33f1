"""The main job as a user runs it: train.py and deploy.py of a real project, by real processes."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import kerakit
from pages import Page
from projects import Project, write_image

# ------------------------------------------------------------------------------------------------------------- what is there


def test_a_run_holds_what_it_promises(trained: Project, trained_once: Path) -> None:
    run = trained.path / "progress" / "test"
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["input_size"], config["weights"]) == (
        "small_cnn",
        [16, 12],
        "none",
    )
    assert config["class_names"] == ["apple", "pear"]
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    kept = json.loads((run / "ckpt" / "index.json").read_text())
    best_three = sorted(rows, key=lambda row: float(row["val_loss"]))[:3]
    assert [c["epoch"] for c in kept] == [int(row["epoch"]) for row in best_three]
    assert {c["file"] for c in kept} == {p.name for p in (run / "ckpt").glob("*.h5")}
    assert list((run / "logs" / "train").iterdir())
    expect_a_page_of_the_run(
        run, len(rows), kept[0], kerakit.DataReader(trained_once.parent / "photos")
    )
    for mode in ("train", "val"):
        with Image.open(run / "plots" / f"{mode}_batch.png") as picture:
            assert picture.width >= 160


def expect_a_page_of_the_run(
    run: Path, epochs: int, best: dict[str, Any], reader: kerakit.DataReader
) -> None:
    page = Page(run / "report.html")
    page.expect_it_loads_nothing()
    assert page.headings == [
        "Curves",
        "The first batches",
        "2 classes",
        "Next",
        "Settings",
        "Made with",
    ]
    assert f"best epoch {best['epoch']} of {epochs}, chosen by val_loss" in page.text
    assert f"{best['value']:.4g}" in page.text
    assert (
        sum(element.attrib["class"] == "validation" for element in page.root.iter("circle"))
        == 2 * epochs
    )
    counts = [reader.counts(mode) for mode in ("train", "val", "test")]
    assert page.tables()[-1][1:] == [
        [n, *(str(c[i]) for c in counts), ""] for i, n in enumerate(reader.class_names)
    ]
    assert "python deploy.py --read_from progress/test --save_to deploy/test" in page.section(
        "Next"
    )
    assert "batch size 4" in page.section("Settings")
    assert len(page.images()) == 2


def test_what_is_delivered_is_proven(trained: Project, trained_once: Path) -> None:
    result = trained.deploy()
    assert result.code == 0, result.err
    folder = trained.path / "deploy" / "test"
    assert {p.name for p in folder.iterdir()} == {
        "model.h5",
        "model_float32.tflite",
        "model.tflite",
        "labels.txt",
        "report.json",
        "device",
        "report.html",
    }
    assert (folder / "labels.txt").read_text() == "apple\npear\n"
    report = json.loads((folder / "report.json").read_text())
    rows: dict[str, Any] = {row["format"]: row for row in report["formats"]}
    for name in ("h5", "float32", "int8"):
        assert rows[name]["status"] == "delivered"
        content = (folder / rows[name]["file"]).read_bytes()
        assert rows[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert rows[name]["bytes"] == len(content)
        assert rows[name]["latency_ms"] > 0
        assert rows[name]["measured"]["agreement"] == 1.0 or name == "int8"
    reader = kerakit.DataReader(trained_once.parent / "photos")
    assert rows["int8"]["details"]["calibration"]["images"] == len(reader.indices("train"))
    assert not [one for one in rows["int8"]["details"]["health"] if one["level"] == "error"]
    assert "device: a folder for the device; its program found the scores of" in result.out
    assert rows["edgetpu"]["status"] == "skipped"
    assert "edgetpu_compiler --show_operations model.tflite" in rows["edgetpu"]["reason"]
    assert rows["h5"]["measured"]["accuracy"] == report["keras_accuracy"] == 1.0
    assert (
        "in deploy/test; all that was measured is in deploy/test/report.json, to look at in deploy/test/report.html"
        in result.out
    )
    page = Page(folder / "report.html")
    page.expect_it_loads_nothing()
    assert "progress/test, checkpoint epoch-0" in page.text
    assert "passed no file loses more than 1.00%" in page.text


def test_the_delivered_int8_file_tells_the_classes_apart(trained: Project, tmp_path: Path) -> None:
    """The held-out shares of the report are not taken on trust: unseen images, raw bytes, LiteRT alone."""
    from ai_edge_litert.interpreter import Interpreter
    from PIL import Image

    result = trained.deploy("--formats", "int8")
    assert (result.code, result.err) == (0, "")
    interpreter = Interpreter(str(trained.path / "deploy" / "test" / "model.tflite"))
    interpreter.allocate_tensors()
    right = 0
    for i in range(40):
        path = write_image(tmp_path / "unseen.png", seed=90_000 + i, size=(16, 12), hue=i % 2)
        interpreter.set_tensor(
            interpreter.get_input_details()[0]["index"], np.asarray(Image.open(path))[None]
        )
        interpreter.invoke()
        right += (
            interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].argmax()
            == i % 2
        )
    assert right >= 38


def test_a_run_repeated_is_the_same_run(trained: Project) -> None:
    again = trained.train(
        "--jitter", "--num_epochs", 4, "--batch_size", 4, save_to="progress/again"
    )
    assert again.code == 0, again.err
    first, second = (
        (trained.path / "progress" / name / "history.csv").read_text() for name in ("test", "again")
    )
    assert first == second


def test_training_goes_on_from_a_checkpoint(trained: Project) -> None:
    result = trained.train("--from_ckpt", "progress/test", save_to="progress/more")
    assert result.code == 0, result.err
    before, after = (
        float(
            next(
                csv.DictReader(
                    (trained.path / "progress" / name / "history.csv").read_text().splitlines()
                )
            )["loss"]
        )
        for name in ("test", "more")
    )
    assert after < before


def test_the_edge_tpu_asked_for_by_name_must_be_had(
    trained: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = trained.deploy("--formats", "edgetpu")
    assert result.code == 1
    assert "edgetpu_compiler is not installed" in result.out
    assert "not delivered: edgetpu" in result.err


def test_a_cache_changes_nothing_but_the_time(project: Project) -> None:
    histories = []
    for name, args in (
        ("plain", []),
        ("first", ["--cache", "disk"]),
        ("second", ["--cache", "disk"]),
        ("ram", ["--cache", "ram"]),
    ):
        result = project.train("--jitter", "--num_epochs", 2, *args, save_to=f"progress/{name}")
        assert result.code == 0, result.err
        histories.append((project.path / "progress" / name / "history.csv").read_text())
    assert len(set(histories)) == 1
    assert (
        sum(p.stat().st_size for p in (project.path / ".cache").rglob("*.pixels"))
        >= 40 * 16 * 12 * 3
    )


# -------------------------------------------------------------------------------------------------------------- interruption


def test_ctrl_c_keeps_what_was_saved_and_says_how_to_go_on(project: Project) -> None:
    command = [
        sys.executable,
        "train.py",
        "--save_to",
        "progress/test",
        "--model",
        "small_cnn",
        "--input_size",
        "16,12",
    ]
    process = subprocess.Popen(
        [*command, "--num_epochs", "10000"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background may have it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    history = project.path / "progress" / "test" / "history.csv"
    limit = time.monotonic() + 120
    while not history.exists() and time.monotonic() < limit:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "to look at: progress/test/report.html" in out
    assert (
        Page(project.path / "progress" / "test" / "report.html").text.count("interrupted 20") == 1
    )
    assert "interrupted" in err
    assert "--from_ckpt progress/test --save_to progress/test-2" in err
    assert "Traceback" not in err
    assert project.deploy("--formats", "keras").code == 0
