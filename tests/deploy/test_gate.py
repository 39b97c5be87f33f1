"""What is said of scores is what they say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit.deploy.gate import Gate, confidence_error

CLASSES = ("apple", "pear", "plum")
TARGETS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])


def gate(answers: list[int], max_drop: float) -> tuple[Gate, Any]:
    """A gate before which Keras is right on all but the last image, and the scores of a file with these answers."""
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    keras = np.eye(3, dtype=np.float32)[[*TARGETS[:-1], 0]]
    batches = [(images[:6], TARGETS[:6]), (images[6:], TARGETS[6:])]
    made = Gate(batches, lambda batch: keras[batch.ravel()], CLASSES, max_drop)
    return made, made.scores(lambda batch: np.eye(3, dtype=np.float32)[answers][batch.ravel()])


def test_what_is_measured() -> None:
    made, predicted = gate([0, 0, 0, 1, 1, 0, 2, 2, 2, 2], max_drop=0.1)
    measured = made.measure(predicted)
    assert made.accuracy == 0.9
    assert measured.accuracy == 0.8
    assert measured.drop == pytest.approx(0.1)
    assert measured.passed
    assert measured.agreement == 0.7
    assert (measured.worst_class, measured.worst_accuracy) == ("pear", 0.5)
    assert measured.confidence_error == pytest.approx(
        0.2
    )  # it is always sure, and right on 8 of 10


@pytest.mark.parametrize(("max_drop", "passed"), [(0.09, False), (0.1, True), (0.2, True)])
def test_the_gate(max_drop: float, passed: bool) -> None:
    made, predicted = gate([0, 0, 0, 1, 1, 0, 2, 2, 2, 2], max_drop)
    assert made.measure(predicted).passed is passed


@given(st.lists(st.tuples(st.floats(0.34375, 1, width=32), st.booleans()), min_size=1, max_size=60))
def test_the_error_of_confidence_lies_between_the_whole_gap_and_one(
    rows: list[tuple[float, bool]],
) -> None:
    """The gap of all images together is the least it can be, since gaps of bins add up to at least that."""
    confidence = np.array([row[0] for row in rows], np.float32)
    scores = np.stack([confidence, *[(1 - confidence) / 2] * 2], 1)
    targets = np.array([0 if row[1] else 1 for row in rows])
    error = confidence_error(scores, targets)
    gap = abs(float(confidence.astype(np.float64).mean()) - float((targets == 0).mean()))
    assert gap - 1e-6 <= error <= 1 + 1e-6


def test_confidences_that_are_as_often_right_as_they_say_have_no_error() -> None:
    scores = np.tile(np.array([[0.75, 0.25]], np.float32), (8, 1))
    assert confidence_error(scores, np.array([0] * 6 + [1] * 2)) == pytest.approx(0)
