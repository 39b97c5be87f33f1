"""The accuracy gate, on outputs that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit.deploy.gate import SAMPLE_IMAGES, AccuracyGate
from kerakit.tasks import Classification

CLASSES = ("apple", "pear", "plum")
TARGETS = np.array([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
PREDICTED = [0, 0, 0, 1, 1, 0, 2, 2, 2, 2]
"""Of a file with 8 of 10 correct; the Keras model has 9."""


def make_gate(max_drop: float) -> tuple[AccuracyGate, Any]:
    """A gate whose Keras accuracy is 0.9, and the predictions PREDICTED of a file."""
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    keras = np.eye(3, dtype=np.float32)[[*TARGETS[:-1], 0]]
    batches = [(images[:6], TARGETS[:6]), (images[6:], TARGETS[6:])]
    task = Classification(CLASSES)
    gate = AccuracyGate(task, batches, lambda batch: keras[batch.ravel()], max_drop)
    scores = np.eye(3, dtype=np.float32)[PREDICTED]
    return gate, gate.predict(lambda batch: scores[batch.ravel()])


def test_metrics_of_predictions() -> None:
    gate, predictions = make_gate(max_drop=0.1)
    measurement = gate.measure(predictions)
    assert gate.keras_metrics["accuracy"] == 0.9
    assert next(iter(measurement.metrics)) == gate.main_metric == "accuracy"
    assert measurement.metrics["accuracy"] == 0.8
    assert measurement.metrics["worst_class_recall"] == 0.5
    # Always fully confident, and correct on 8 of 10.
    assert measurement.metrics["ece"] == pytest.approx(0.2)
    assert measurement.drop == pytest.approx(0.1)
    assert measurement.agreement == 0.7


@pytest.mark.parametrize(("max_drop", "passed"), [(0.09, False), (0.1, True), (0.2, True)])
def test_the_gate(max_drop: float, passed: bool) -> None:
    gate, predictions = make_gate(max_drop)
    assert gate.measure(predictions).passed is passed


@pytest.mark.parametrize(
    ("predicted", "is_chance"),
    [
        ([*TARGETS[:-1], 0], False),
        ([2] * 10, True),  # the largest class
        ([1, 2, 1, 2, 0, 2, 0, 1, 0, 2], True),
    ],
)
def test_a_model_of_chance_makes_the_gate_meaningless(
    predicted: list[int], is_chance: bool
) -> None:
    images = np.arange(10, dtype=np.uint8).reshape(10, 1, 1, 1)
    scores = np.eye(3, dtype=np.float32)[predicted]
    gate = AccuracyGate(
        Classification(CLASSES), [(images, TARGETS)], lambda batch: scores[batch.ravel()], 0.01
    )
    warning = gate.describe_chance()
    assert ("the Keras model is not better than chance" in warning) == is_chance


@given(st.integers(1, 700), st.integers(1, 40))
def test_sample_images_are_evenly_spaced(count: int, batch_size: int) -> None:
    # The two bytes of an image are its sample index.
    images = np.arange(count, dtype=">u2").view(np.uint8).reshape(count, 1, 1, 2)
    targets = np.zeros(count, np.int64)
    batches = [
        (images[i : i + batch_size], targets[i : i + batch_size])
        for i in range(0, count, batch_size)
    ]
    gate = AccuracyGate(
        Classification("ab"), batches, lambda x: np.full((len(x), 2), 0.5, np.float32), 0.01
    )
    indices = gate.sample_images.reshape(-1, 2).copy().view(">u2").ravel().astype(int)
    assert len(indices) == min(count, SAMPLE_IMAGES)
    assert indices[0] == 0
    assert indices[-1] >= count - 1 - count / SAMPLE_IMAGES
    gaps = np.diff(indices)
    assert all(gaps > 0)
    assert gaps.max(initial=1) <= 2 * gaps.min(initial=count)


def test_images_by_sample_index() -> None:
    gate, _ = make_gate(0.01)
    images = gate.load_images({7, 0, 9})
    assert {index: int(pixels.item()) for index, pixels in images.items()} == {0: 0, 7: 7, 9: 9}
    assert gate.load_images([]) == {}
