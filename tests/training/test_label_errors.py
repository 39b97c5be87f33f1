"""``kerakit check --labels``: from a run to check.csv and the page."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kerakit import UserError, cli
from kerakit.data.findings import LABEL_ERROR, Finding, write_findings
from kerakit.errors import JobError
from kerakit.tasks import Classification, Detection, MultiLabel, MultiTask
from kerakit.tasks.base import Task
from kerakit.training import label_errors
from projects import Project


def read(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


def test_images_in_the_wrong_folder_are_named_first(
    project: Project, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two of 30 red images among the green ones; the features are those of EfficientNet-Lite0."""
    monkeypatch.setattr(label_errors, "_LITE_SIZE", (64, 64))
    moved = ["pear/from_apple_3.png", "pear/from_apple_8.png"]
    for name, image in zip(moved, ("03.png", "08.png"), strict=True):
        (photos / "apple" / image).rename(photos / name)
    assert project.train().code == 0
    result = project.call(
        "evaluate.py", "--read_from", "progress/test", "--check_labels", "check.csv"
    )
    assert result.code == 0, result.err
    header, *rows = read(project.path / "check.csv")
    assert header == ["path", "finding", "detail", "exclude"]
    found = [row[0] for row in rows[:2]]
    assert found
    assert set(found) <= set(moved)
    assert all(row[1] == LABEL_ERROR and row[3] == "no" for row in rows)
    assert rows[0][2].startswith("labeled pear, suggested apple (")
    assert "features: EfficientNet-Lite0 with ImageNet weights" in result.out
    assert "of 60 images have a label that is probably wrong" in result.out
    page = (project.path / "progress/test/labels.html").read_text()
    assert all(page.count(name) >= 2 for name in found)
    assert "suggested: apple" in page
    assert not (project.path / "progress/test/evaluation.json").exists()


def test_features_that_are_nan_are_an_error() -> None:
    maps = np.ones((10, 2, 2, 3), np.float32)
    maps[7, 0, 0, 1] = np.nan
    targets = np.zeros(10, np.int64)

    class Stored:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, rows: Any) -> Any:
            return maps[rows], targets[rows]

    store: Any = SimpleNamespace(shapes=[(2, 2, 3)], compute=lambda _: (Stored(),))
    batches: Any = SimpleNamespace(index=targets)
    with pytest.raises(JobError, match="NaN or infinite values for 1 of 10 images"):
        label_errors._load_features(store, [batches])


def test_a_task_without_classes_is_an_error() -> None:
    detection = Detection(["cat", "dog"])
    image = np.zeros((8, 8, 3), np.uint8)
    batches: Any = SimpleNamespace(task=detection, sample=lambda _: (image, np.zeros(3)))
    with pytest.raises(UserError, match="which the task 'detection' does not have"):
        label_errors._check_task(batches)


def test_columns_of_the_tasks() -> None:
    many = MultiLabel(["red", "big"])
    task: Task = MultiTask({"animal": Classification(["cat", "dog"]), "traits": many})
    targets = {"animal": np.array([1, 0]), "traits": np.array([[1, 0], [1, 1]], np.float32)}
    columns = task.class_columns(targets)
    assert {name: column.labels.tolist() for name, column in columns.items()} == {
        "animal": [1, 0],
        "traits/red": [1, 1],
        "traits/big": [0, 1],
    }
    assert columns["traits/red"].names == ("no", "yes")


def test_each_label_of_an_image_is_checked(capsys: pytest.CaptureFixture[str]) -> None:
    """Labels with fewer than five images are named, and not checked."""
    random = np.random.default_rng(0)
    red = np.arange(60) % 2
    features = random.normal(size=(60, 4)).astype(np.float32)
    features[:, 0] += 10 * red
    labels = np.column_stack([red, np.arange(60) < 2])
    labels[7, 0] = 1 - labels[7, 0]
    columns = MultiLabel(["red", "rare"]).class_columns(labels)
    found, agreement, skill = label_errors._check_columns(columns, features)
    first = found[7][0]
    assert next(iter(found)) == 7
    assert (first.given, first.suggested) == ("red: no", "red: yes")
    assert agreement > 0.9
    assert skill > 0.8
    noise = random.normal(size=(60, 4)).astype(np.float32)
    assert label_errors._check_columns(columns, noise)[2] < label_errors._MIN_SKILL
    assert "rare: not checked, fewer than 5 images: yes" in capsys.readouterr().out
    with pytest.raises(UserError, match="two classes of 5 images each"):
        label_errors._check_columns(MultiLabel(["rare"]).class_columns(labels[:, 1:]), features)


def test_a_project_of_an_earlier_version(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = project.path / "evaluate.py"
    script.write_text(script.read_text().replace("check_labels", "other"))
    monkeypatch.chdir(project.path)
    (project.path / "old").mkdir()
    monkeypatch.setattr(sys, "argv", ["kerakit", "check", "--labels", "old"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2
    assert "has no --check_labels: it is from an earlier version" in capsys.readouterr().err


def test_each_check_keeps_the_findings_and_edits_of_the_other(tmp_path: Path) -> None:
    path = tmp_path / "check.csv"
    write_findings(path, [Finding("a.jpg", "tiny", "8 by 8")])
    labels = [Finding(key, LABEL_ERROR, "labeled x, suggested y (90%)") for key in ("b", "c", "d")]
    write_findings(path, labels, {"a.jpg", "b", "c", "d"})
    text = path.read_text().replace(
        'b,probable label error,"labeled x, suggested y (90%)",no',
        ('b,probable label error,"labeled x, suggested y (90%)",yes'),
    )
    path.write_text(text)
    # A run that was trained without b: its label is not checked again, and c is correct now.
    sentence = write_findings(path, labels[2:], {"a.jpg", "c", "d"})
    assert "1 images have exclude = yes" in sentence
    assert {row[0]: row[3] for row in read(path)[1:]} == {"a.jpg": "no", "b": "yes", "d": "no"}
    write_findings(path, [])
    assert {row[0]: row[3] for row in read(path)[1:]} == {"b": "yes", "d": "no"}
