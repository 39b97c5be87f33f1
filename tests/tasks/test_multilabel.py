"""Multi-label: metrics, precision-recall curves of the report."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from kerakit.report.page import Note, SideBySide
from kerakit.report.precision_recall import RECALLS
from kerakit.tasks import MultiLabel


def measured(seed: int, count: int) -> tuple[MultiLabel, np.ndarray, np.ndarray]:
    """A task with thresholds, scores with ties, and labels; the last class has no images."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < [0.5, 0.2, 0]).astype(np.float32)
    labels[0, :2] = 1
    scores = np.round(np.clip(0.3 * labels + 0.7 * rng.random(labels.shape), 0, 1), 1)
    task = MultiLabel(["cat", "dog", "never"])
    task.calibrate(scores, labels)
    return task, scores, labels


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(2, 60))
def test_curves_are_the_highest_precision_from_each_recall_on(seed: int, count: int) -> None:
    task, scores, labels = measured(seed, count)
    curves = task._curves(scores, labels)
    assert list(curves) == ["cat", "dog"]
    for i, curve in enumerate(curves.values()):
        true = labels[:, i] > 0
        pairs = []
        for threshold in np.unique(scores[:, i]):
            present = scores[:, i] >= threshold
            pairs.append(
                ((present & true).sum() / true.sum(), (present & true).sum() / present.sum())
            )
        for at, precision in zip(RECALLS, curve.precision, strict=True):
            # At recall 0, nothing is predicted: precision 1, as scikit-learn defines it.
            best = max(p for r, p in [*pairs, (0, 1)] if r >= at - 1e-9)
            assert precision == pytest.approx(best)
        if curve.threshold is not None:
            recall, precision = curve.threshold
            assert precision <= curve.precision[int(recall * 100)] + 1e-9
    table = task.details(scores, labels)["classes"]
    assert [one.average_precision for one in curves.values()] == table["average_precision"][:2]


def test_the_report_shows_curves_and_names_the_rule_of_the_thresholds() -> None:
    task, scores, labels = measured(0, 40)
    assert list(task.plot(scores, labels)) == ["precision_recall"]
    curves, table = task.report({"Keras": scores, "int8": scores}, labels)
    side = curves.blocks[0]
    assert isinstance(side, SideBySide)
    assert [name for name, _ in side.columns] == ["Keras", "int8"]
    note = table.blocks[-1]
    assert isinstance(note, Note)
    assert "maximizes F1 on validation images" in note.text
    assert task.plot(scores, np.zeros_like(labels)) == {}
    assert len(task.report({"Keras": scores}, np.zeros_like(labels))) == 2


def test_metrics_of_one_class_are_those_of_a_binary_classifier() -> None:
    rng = np.random.default_rng(0)
    true, scores = (rng.random((30, 1)) > 0.6).astype(np.float32), rng.random((30, 1))
    task = MultiLabel(["a"])
    metrics, details = task.score(scores, true), task.details(scores, true)["classes"]
    f1 = f1_score(true[:, 0] > 0, scores[:, 0] >= 0.5)
    assert metrics["macro_f1"] == metrics["micro_f1"] == details["f1"][0] == pytest.approx(f1)
    assert {len(column) for column in details.values()} == {1}
    # Of several classes, one with positive images.
    two = MultiLabel(["a", "never"])
    absent = np.zeros((30, 1), np.float32)
    both = two.score(np.hstack([scores, absent]), np.hstack([true, absent]))
    assert both["macro_f1"] == pytest.approx(f1)
