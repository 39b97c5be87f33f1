"""How good, how fast and how faithful a delivered file is, on images that no training saw."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.formats.base import Predict

TIMED_RUNS = 30
"""How many single images the latency is the median of, after WARM_UP_RUNS that don't count."""
WARM_UP_RUNS = 3
FEW = 16
"""How many held-out images are kept for what needs only a few; 2.4 MB at 224 by 224."""
BINS = 15
"""Of confidences, each as wide, in ``confidence_error``."""


def scores(
    predict: Predict, batches: Iterable[tuple[Any, Any]]
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Run ``predict`` over batches of (uint8 images, targets).

    Returns:
        Scores (n, classes) and targets (n,).
    """
    parts = [(predict(images), np.asarray(targets)) for images, targets in batches]
    return np.concatenate([p for p, _ in parts]), np.concatenate([t for _, t in parts])


@dataclass(frozen=True)
class Measured:
    """What scores on the held-out images say.

    Attributes:
        accuracy: share of the images that are right.
        drop: what it loses of the Keras model's accuracy; below 0 where it gains.
        passed: whether that is within the gate.
        agreement: share of them where the class is the one that the Keras model gives.
        worst_class: the name of the class of which the least share is right; the first of several.
        worst_accuracy: that share.
        confidence_error: how far the confidences are from the shares that are right: the expected calibration error (Guo et
            al. 2017) in 15 bins, from 0 to 1.
    """

    accuracy: float
    drop: float
    passed: bool
    agreement: float
    worst_class: str
    worst_accuracy: float
    confidence_error: float


@dataclass(frozen=True)
class Answers:
    """What was answered for each of the held-out images.

    Attributes:
        classes: int64 (n,).
        confidence: the score of that class, float32 (n,).
    """

    classes: NDArray[np.int64]
    confidence: NDArray[np.float32]

    @classmethod
    def of(cls, predicted: NDArray[np.float32]) -> Answers:
        """Return what scores, (n, classes), answer."""
        return cls(predicted.argmax(1), predicted.max(1))


class Gate:
    """The held-out images, what the Keras model says of them, and how much of its accuracy a delivered file may lose.

    Args:
        held_out: batches of (uint8 images, int targets) that no training saw; iterated once for each file.
        keras: the trained model.
        class_names: in the order of the scores.
        max_drop: the largest loss of accuracy that passes, as a share of all images: 0.01 is one in a hundred.

    Attributes:
        class_names, max_drop: as given.
        reference: scores of the Keras model, float32 (n, classes).
        targets: the right classes, int64 (n,).
        accuracy: share of the images that the Keras model gets right.
        few: up to FEW of the images, evenly spaced, uint8 (n, height, width, 3).
    """

    def __init__(
        self,
        held_out: Iterable[tuple[Any, Any]],
        keras: Predict,
        class_names: Sequence[str],
        max_drop: float,
    ) -> None:
        self.max_drop = max_drop
        self._held_out, self.class_names = held_out, class_names
        few = _Few()
        self.reference, self.targets = scores(keras, few.of(held_out))
        self.few = few.images()
        self.accuracy = share_right(self.reference, self.targets)

    def scores(self, predict: Predict) -> NDArray[np.float32]:
        """Return the scores, (n, classes), that ``predict`` gives the held-out images."""
        return scores(predict, self._held_out)[0]

    def measure(self, predicted: NDArray[np.float32]) -> Measured:
        """Measure scores, (n, classes), of the held-out images."""
        right = predicted.argmax(1) == self.targets
        shares = {int(c): float(right[self.targets == c].mean()) for c in np.unique(self.targets)}
        worst = min(shares, key=lambda c: shares[c])
        accuracy = share_right(predicted, self.targets)
        drop = self.accuracy - accuracy
        return Measured(
            accuracy,
            drop,
            # A drop of exactly the limit passes, whatever the last bit of the subtraction says.
            drop <= self.max_drop + 1e-9,
            share_equal(predicted, self.reference),
            self.class_names[worst],
            shares[worst],
            confidence_error(predicted, self.targets),
        )

    def images(self, places: Collection[int]) -> dict[int, NDArray[np.uint8]]:
        """Return the images at these places, each (height, width, 3)."""
        every = itertools.chain.from_iterable(images for images, _ in self._held_out)
        wanted = itertools.islice(every, max(places, default=-1) + 1)
        return {place: pixels for place, pixels in enumerate(wanted) if place in places}


class _Few:
    """A few images of a stream of unknown length, evenly spaced: every n-th, where n doubles as they become too many."""

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []
        self._every, self._place = 1, 0

    def of(self, batches: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
        for images, targets in batches:
            for image in images:
                if self._place % self._every == 0:
                    self._kept.append(np.array(image))
                self._place += 1
                if len(self._kept) > 4 * FEW:
                    self._kept, self._every = self._kept[::2], 2 * self._every
            yield images, targets

    def images(self) -> NDArray[np.uint8]:
        places = np.linspace(0, len(self._kept) - 1, min(FEW, len(self._kept))).astype(int)
        return np.stack([self._kept[place] for place in places])


def confidence_error(predicted: NDArray[np.float32], targets: NDArray[np.int64]) -> float:
    """Return the expected calibration error of scores, (n, classes); targets (n,)."""
    confidence = predicted.max(1).astype(np.float64)
    right = predicted.argmax(1) == targets
    bins = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    gaps = [abs(right[bins == b].sum() - confidence[bins == b].sum()) for b in np.unique(bins)]
    return float(sum(gaps) / len(targets))


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
