"""How good, how fast and how faithful a delivered file is, on images that no training saw."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.format import Predict

TIMED_RUNS = 30
"""How many single images the latency is the median of, after WARM_UP_RUNS that don't count."""
WARM_UP_RUNS = 3


def scores(predict: Predict, batches: Iterable[tuple[Any, Any]]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run ``predict`` over batches of (uint8 images, targets).

    Returns:
        Scores (n, classes) and targets (n,).
    """
    parts = [(predict(images), np.asarray(targets)) for images, targets in batches]
    return np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])


def share_right(predicted: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the share of images whose highest score is that of their class."""
    return float(np.mean(predicted.argmax(1) == targets))


def share_equal(predicted: NDArray[np.float32], reference: NDArray[np.float32]) -> float:
    """Return the share of images for which both give the same class."""
    return float(np.mean(predicted.argmax(1) == reference.argmax(1)))


def latency_ms(predict: Predict, image: NDArray[np.uint8]) -> float:
    """Return the median time for one image, uint8 (height, width, 3), in milliseconds."""
    times = []
    for _ in range(WARM_UP_RUNS + TIMED_RUNS):
        start = time.perf_counter()
        predict(image[None])
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP_RUNS:]) * 1e3
