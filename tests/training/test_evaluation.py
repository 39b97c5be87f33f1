"""``evaluate.py``: metrics, plots and page of a run."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerakit import Run
from kerakit.training import evaluation
from pages import Page
from projects import Project


def test_evaluation_of_a_run(trained: Project) -> None:
    result = trained.call("evaluate.py", "--read_from", "progress/test")
    assert result.code == 0, result.err
    run = Run(trained.path / "progress/test")
    found: dict[str, Any] = json.loads(run.evaluation.read_text())
    classes = found["classes"]
    matrix = np.zeros((len(classes["class"]),) * 2, int)
    for true, predicted, count in found["confusion_matrix"]:
        assert count > 0
        matrix[true, predicted] = count
    assert matrix.sum() == found["images"]
    accuracy = np.trace(matrix) / matrix.sum()
    assert found["metrics"]["accuracy"] == pytest.approx(accuracy)
    assert found["metrics"]["worst_class_recall"] == pytest.approx(min(classes["recall"]))
    assert classes["images"] == matrix.sum(axis=1).tolist()
    assert classes["recall"] == pytest.approx(np.diag(matrix) / matrix.sum(axis=1))
    assert f"{found['images']} {found['split']} images" in result.out
    page = Page(run.page)
    page.expect_no_requests()
    assert "recall" in page.section("Metrics per class")
    for name in ("confusion_matrix.png", "curves.png"):
        with Image.open(run.plots / name) as plot:
            assert min(plot.size) > 200
            assert len(plot.convert("RGB").getcolors(2**24) or []) > 10
    # They belong to the run: --overwrite removes them.
    run.create(overwrite=True)
    assert not run.evaluation.exists()
    assert not run.page.exists()
    assert not list(run.plots.iterdir())


def test_a_class_without_images_has_no_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    columns = {"class": ["cat", "dog"], "images": [2, 0], "recall": [0.0, 0.0]}
    evaluation._print({"accuracy": 0.0}, {"classes": columns}, "2 test images")
    cat, dog = capsys.readouterr().out.splitlines()[-3:-1]
    assert "0.0%" in cat
    assert "%" not in dog
