"""The page of a run, from what its folder holds."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerakit import Run, UserError
from kerakit.files import write_json
from kerakit.training.page import Mistake, write_page
from pages import Page

HISTORY = [
    {"epoch": epoch, "loss": loss, "val_loss": loss + 0.1, "accuracy": 0.5}
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


def page(run: Run, mistakes: tuple[Mistake, ...] = ()) -> Page:
    write_page(run, mistakes)
    read = Page(run.page)
    read.expect_it_loads_nothing()
    return read


def test_a_run_without_a_report_has_its_curves(run: Run) -> None:
    """Runs of earlier versions have none."""
    read = page(run)
    assert read.headings == ["Curves", "Next", "Settings"]
    assert "Training of <mine>" in read.text
    assert "best epoch 4 of 4" in read.text
    assert "evaluate.py --read_from" in read.section("Next")
    assert [path.attrib["d"].count("M") for path in read.root.iter("path")] == [2, 2, 1]


def test_phases_are_marked_where_they_begin(run: Run) -> None:
    write_report(run, phase_starts=[1, 3])
    read = page(run)
    words = [
        text.text for text in read.root.iter("text") if text.text in ("head", "finetune", "best")
    ]
    assert words == ["best", "head", "finetune"] * 2
    assert "interrupted 2026-11-23 10:00 UTC, after 1 min 5 s" in read.text


def write_report(run: Run, **more: Any) -> None:
    made = {
        "created": "2026-11-23T10:00:00+00:00",
        "machine": "m",
        "cpu": None,
        "cores": 2,
        "versions": {"keras": "3"},
    }
    facts = {
        "ended": "interrupted",
        "seconds": 65.0,
        "images": {"train": 3, "val": 1, "test": 0},
        "monitor": "val_loss",
    }
    classes = [
        {"class": name, "train": 1 + i, "val": i, "test": 0}
        for i, name in enumerate(("hat", "<b>"))
    ]
    write_json(run.report, {**made, **facts, "classes": classes, "phase_starts": [1], **more})


def test_classes_are_counted(run: Run) -> None:
    write_report(run)
    read = page(run)
    assert read.tables() == [
        [["class", "train", "val", "training images"], ["hat", "1", "0", ""], ["<b>", "2", "1", ""]]
    ]


def test_the_worst_mistakes_are_shown(run: Run) -> None:
    classes = [
        {"class": name, "images": 2, "precision": 1.0, "recall": 0.5, "f1": 2 / 3}
        for name in ("hat", "<b>")
    ]
    found = {
        "split": "test",
        "images": 4,
        "accuracy": 0.75,
        "classes": classes,
        "confusion": [[2, 0], [1, 1]],
    }
    write_json(run.evaluation, found)
    pixels = np.full((20, 30, 3), 7, np.uint8)
    read = page(run, (Mistake(pixels, "<b>", "hat", 0.875, "b/x & y.jpg"),))
    said = read.section("Evaluation")
    assert "75.00% of 4 test images are right." in said
    assert "<b> answered:  hat  88% b/x & y.jpg".replace("  ", " ") in said
    assert ["<b>", "hat", "1", "50.0%"] in read.tables()[1]
    assert (np.asarray(read.images()[0]) == 7).all()
    assert "evaluate.py" not in read.section("Next")


def test_a_damaged_file_is_named(run: Run) -> None:
    run.report.write_text("{")
    with pytest.raises(UserError, match=r"report\.json is damaged"):
        write_page(run)
