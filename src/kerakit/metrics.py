"""Classification metrics, each defined once, for evaluation, gate, search and reports."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ECE_BINS = 15
"""Number of equal-width confidence bins in ``expected_calibration_error``."""

_Z = 1.96
"""Quantile of the normal distribution for a 95 % interval."""

Classes = NDArray[np.int64]


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class.

    Attributes:
        images: number of images with this true label.
        precision: fraction of the predictions of this class that are correct; 0 without
            predictions.
        recall: fraction of its images that are predicted correctly; 0 without images.
        f1: harmonic mean of both.
    """

    images: int
    precision: float
    recall: float
    f1: float


def accuracy(predicted: NDArray[Any], targets: NDArray[Any]) -> float:
    """Return the fraction of equal class indices, both (n,).

    >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 2]))
    0.6666666666666666
    """
    return float(np.mean(predicted == targets))


def confusion_matrix(targets: NDArray[Any], predicted: NDArray[Any], num_classes: int) -> Classes:
    """Return the confusion matrix, int64 (classes, classes): true labels by predictions."""
    matrix = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(matrix, (targets, predicted), 1)
    return matrix


def per_class(matrix: Classes) -> list[ClassMetrics]:
    """Return precision, recall and F1 of each class of a confusion matrix."""
    correct, images, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    precision, recall = correct / np.maximum(predicted, 1), correct / np.maximum(images, 1)
    f1 = 2 * correct / np.maximum(images + predicted, 1)
    columns = zip(images, precision, recall, f1, strict=True)
    return [ClassMetrics(int(n), float(p), float(r), float(f)) for n, p, r, f in columns]


def worst_class(matrix: Classes) -> tuple[int, float]:
    """Return index and recall of the class with the lowest recall, among those with images."""
    images = matrix.sum(axis=1)
    recall = np.where(images > 0, np.diag(matrix) / np.maximum(images, 1), np.inf)
    index = int(recall.argmin())
    return index, float(recall[index])


def most_confused(matrix: Classes, limit: int) -> list[tuple[int, int, int]]:
    """Return the ``limit`` largest off-diagonal cells as (true label, prediction, images)."""
    errors = matrix - np.diag(np.diag(matrix))
    cells = np.argsort(-errors, axis=None, kind="stable")[:limit]
    rows, columns = np.unravel_index(cells, errors.shape)
    return [
        (int(r), int(c), int(errors[r, c]))
        for r, c in zip(rows, columns, strict=True)
        if errors[r, c]
    ]


def expected_calibration_error(confidence: NDArray[Any], correct: NDArray[Any]) -> float:
    """Return the ECE (Guo et al. 2017) over ECE_BINS bins, from 0 to 1.

    Args:
        confidence: scores of the predicted classes, (n,), 0 to 1.
        correct: bool (n,).
    """
    confidence = np.asarray(confidence, np.float64)
    bins = np.clip((confidence * ECE_BINS).astype(int), 0, ECE_BINS - 1)
    gaps = [abs(correct[bins == b].sum() - confidence[bins == b].sum()) for b in np.unique(bins)]
    return float(sum(gaps) / len(confidence))


def wilson_interval(fraction: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a fraction of ``count`` samples (Wilson 1927)."""
    center = (fraction + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = (
        _Z
        / (1 + _Z**2 / count)
        * math.sqrt(fraction * (1 - fraction) / count + _Z**2 / (4 * count**2))
    )
    return max(0.0, center - half), min(1.0, center + half)
