"""The report page of a run, from the files in its folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerakit import Run, UserError
from kerakit.files import write_json
from kerakit.report.page import Gallery, Note, Sample, Section
from kerakit.report.plots import image_grid
from kerakit.tasks import Classification
from kerakit.training.page import write_page
from pages import Page

HISTORY = [
    {"epoch": epoch, "loss": loss, "val_loss": loss + 0.1, "accuracy": 0.5, "broken": math.nan}
    for epoch, loss in enumerate((1.0, 0.5, math.nan, 0.25), 1)
]


class Weights:
    weights = ()

    def save_weights(self, path: Path) -> None:
        path.write_bytes(b"w")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run(tmp_path / "run").create()
    config = {
        "kerakit": "0",
        "model": "<mine>",
        "weights": "none",
        "phases": ["head", "finetune"],
        "class_names": ["hat", "<b>"],
    }
    write_json(made.config, config)
    made.write_history(HISTORY)
    made.add_checkpoint(Weights(), 4, 0.35)
    return made


def page(run: Run, *args: Any) -> Page:
    write_page(run, *args)
    read = Page(run.page)
    read.expect_no_requests()
    return read


def labels(read: Page) -> list[list[str | None]]:
    words = ("head", "finetune", "best", "training", "validation")
    return [
        sorted(text.text or "" for text in chart.iter("text") if text.text in words)  # type: ignore[misc]
        for chart in read.charts()
    ]


def test_a_run_without_a_report_has_its_curves(run: Run) -> None:
    read = page(run)
    assert read.headings == ["Curves", "Next", "Configuration"]
    assert "<mine>" in read.text
    assert "best epoch 4 of 4" in read.text
    assert "evaluate.py --read_from" in read.section("Next")
    # None of a metric without a finite value.
    assert labels(read) == [["best", "training", "validation"], ["best", "training"]]


def test_phases_are_marked_where_they_begin(run: Run) -> None:
    write_report(run, phase_starts=[1, 3])
    read = page(run)
    assert labels(read)[0] == ["best", "finetune", "head", "training", "validation"]
    assert "interrupted 2026-11-23 10:00 UTC, after 1 min 5 s" in read.text


def write_report(run: Run, **more: Any) -> None:
    machine = {
        "created": "2026-11-23T10:00:00+00:00",
        "machine": "m",
        "cpu": None,
        "cores": 2,
        "versions": {"keras": "3"},
    }
    training = {
        "status": "interrupted",
        "seconds": 65.0,
        "images": {"train": 3, "val": 1, "test": 0},
        "monitor": "val_loss",
    }
    classes = [
        {"class": name, "train": 1 + i, "val": i, "test": 0}
        for i, name in enumerate(("hat", "<b>"))
    ]
    report = {**machine, **training, "classes": classes, "phase_starts": [1], **more}
    write_json(run.report, report)


def test_classes_are_counted(run: Run) -> None:
    write_report(run)
    read = page(run)
    assert read.tables() == [
        [["class", "train", "val", "training images"], ["hat", "1", "0", ""], ["<b>", "2", "1", ""]]
    ]
    assert [bar.attrib["style"] for bar in read.root.iterfind(".//*[@class='bar']")] == [
        *("width:50.0%", "width:100.0%")
    ]
    assert "keras 3" in read.section("Environment")


def test_an_evaluation_is_shown_with_its_mistakes(run: Run) -> None:
    task, annotations = Classification(["hat", "<b>"]), np.array([0, 0, 1, 1])
    predictions = task.decode(np.array([[0.9, 0.1], [0.8, 0.2], [0.875, 0.125], [0.4, 0.6]]))
    evaluation = {
        "split": "test",
        "images": 4,
        "metrics": task.score(predictions, annotations),
        **task.details(predictions, annotations),
    }
    write_json(run.evaluation, evaluation)
    pixels = np.full((20, 30, 3), 7, np.uint8)
    line = f"predicted: {task.format_prediction(predictions[2])}"
    gallery = Gallery([Sample(pixels, "<b>", [line], "b/x & y.jpg")])
    sections = [*task.report({"Keras": predictions}, annotations), Section("Mistakes", [gallery])]
    read = page(run, sections)
    assert "accuracy, test 75.00 % 4 images" in read.text
    assert "Accuracy 75.00 % on 4 images" in read.section("Confusion matrix")
    assert read.tables()[0][1] == ["<b>", "hat", "1", "50.0 %"]
    (caption,) = read.captions()
    assert caption.startswith("<b> predicted: hat 8")
    assert caption.endswith("b/x & y.jpg")
    assert (np.asarray(read.images()[0]) == 7).all()
    assert "evaluate.py" not in read.section("Next")


def test_sections_of_any_task_are_shown(run: Run) -> None:
    read = page(run, [Section("Boxes", [Note("per image")])])
    assert read.section("Boxes") == "Boxes per image"


def test_the_first_rows_of_batches_are_shown(run: Run) -> None:
    grid = image_grid([np.zeros((8, 8, 3), np.uint8)] * 6, ["a"] * 6, columns=1)
    grid.save(run.plots / "train_batch.png")
    read = page(run)
    assert "training" in read.section("First batches")
    (image,) = read.images()
    assert image.height == grid.height * 4 // 6
    assert "with --" not in read.section("First batches")
    write_json(run.config, {"jitter": True, "mixup": 0.0, "cutmix": 0.2})
    assert "training, with --jitter and --cutmix" in page(run).section("First batches")


@pytest.mark.parametrize("file", ["report", "evaluation", "config"])
def test_a_damaged_file_is_named(run: Run, file: str) -> None:
    getattr(run, file).write_text("{")
    with pytest.raises(UserError, match=rf"{file}\.json is damaged"):
        write_page(run)
