"""Inference over batches: the functions that run a model, whatever its runtime."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import JobError

if TYPE_CHECKING:
    import keras

PredictFn = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 images (n, height, width, 3) to float32 outputs (n, ...)."""

TIMED_RUNS = 30
"""Number of single images of which ``measure_latency_ms`` takes the median."""
WARM_UP_RUNS = 3


def keras_predict_fn(model: keras.Model) -> PredictFn:
    """Return the function that runs a Keras model on a batch of images.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    >>> keras_predict_fn(model)(np.zeros((5, 2, 2, 3), np.uint8)).shape
    (5, 12)
    """
    return lambda images: check_finite(np.asarray(model.predict_on_batch(images), np.float32))


def check_finite(outputs: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return ``outputs`` (n, ...); raise JobError if some are NaN or infinite.

    >>> check_finite(np.array([[0.5, 0.5], [np.nan, 0]], np.float32))
    Traceback (most recent call last):
    kerakit.errors.JobError: the model outputs NaN or infinite values for 1 of 2 images...
    """
    finite = np.isfinite(outputs).reshape(len(outputs), -1).all(axis=1)
    if not finite.all():
        raise JobError(
            f"the model outputs NaN or infinite values for {np.sum(~finite):,} of {len(outputs):,} "
            "images of a batch."
        )
    return outputs


def predict_batches(
    predict: PredictFn, batches: Iterable[tuple[Any, Any]]
) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Run ``predict`` over batches of (uint8 images, targets).

    Returns:
        Outputs (n, ...) and targets (n, ...), in the order of the batches.

    Raises:
        JobError: an output is NaN or infinite.
    """
    parts = [(check_finite(predict(images)), np.asarray(targets)) for images, targets in batches]
    return np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])


def measure_latency_ms(predict: PredictFn, image: NDArray[np.uint8]) -> float:
    """Return the median latency for one image, uint8 (height, width, 3), in milliseconds."""
    times = []
    for _ in range(WARM_UP_RUNS + TIMED_RUNS):
        start = time.perf_counter()
        predict(image[None])
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP_RUNS:]) * 1e3
