"""The accuracy gate: exported files against the Keras model on held-out images."""

from __future__ import annotations

import itertools
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.deploy.held_out import Batches, as_device
from kerakit.inference import PredictFn, predict_batches
from kerakit.report.formatting import format_label, format_percent, format_points
from kerakit.tasks.base import Predictions, Task

SAMPLE_IMAGES = 16
"""Number of held-out images that are kept in memory; 2.4 MB at 224 by 224."""

PERMUTATIONS = 20
"""Of the targets, in the test for chance: a model of chance passes it 1 time in 21."""
PERMUTATION_SECONDS = 5.0
"""No further permutation begins after this time: metrics of boxes take seconds."""


@dataclass(frozen=True)
class Measurement:
    """Metrics of an exported file on the held-out images.

    Attributes:
        metrics: metrics of ``task.score``, the main metric first.
        drop: decrease of the main metric against the Keras model, as a fraction; negative for a
            gain.
        passed: whether ``drop`` is within the gate.
        agreement: agreement with the predictions of the Keras model, from 0 to 1.
    """

    metrics: dict[str, float]
    drop: float
    passed: bool
    agreement: float


def describe_drop(metric: str, drop: float, max_drop: float) -> str:
    """Return the reason for failing the gate.

    >>> describe_drop("accuracy", 0.021, 0.01)
    'accuracy drop 2.10 pp > 1.00 pp'
    """
    return f"{metric} drop {format_points(drop)} > {format_points(max_drop)}"


class AccuracyGate:
    """Limit on the accuracy drop of an exported file.

    Image files are read in two ways: for the Keras model as in training, for exported files as by
    the program of the device bundle. So a drop includes the difference of the pixels.

    Args:
        task: decodes and scores outputs.
        held_out: batches of images that were not trained on; iterated once per file.
        keras_predict: runs the Keras model.
        max_drop: largest decrease of the main metric that passes, as a fraction: 0.01 is 1 pp.
        output_names: names of several outputs of the model.

    Attributes:
        task: as given.
        max_drop: as given.
        output_names: as given.
        count: number of held-out images.
        reading: "device" if exported files are measured on image files as the device bundle reads
            them; "training" if on the same arrays as the Keras model.
        main_metric: key of the metric that the gate compares.
        targets: targets of the held-out images, (n, ...), one array or a dictionary.
        reference: predictions of the Keras model.
        keras_metrics: metrics of the Keras model.
        sample_images: up to SAMPLE_IMAGES held-out images, evenly spaced, uint8
            (n, height, width, 3).
    """

    def __init__(
        self,
        task: Task,
        held_out: Batches,
        keras_predict: PredictFn,
        max_drop: float,
        output_names: tuple[str, ...] = (),
    ) -> None:
        self.task, self.max_drop, self.output_names = task, max_drop, output_names
        on_device = as_device(held_out)
        self._held_out: Batches = held_out if on_device is None else on_device
        self.reading = "training" if on_device is None else "device"
        self.main_metric = task.main_metric
        sampler = _Sampler()
        outputs, self.targets = predict_batches(keras_predict, sampler.watch(held_out))
        self.count = nested.length(outputs)
        task.check_outputs(outputs)
        self.sample_images = sampler.images()
        self.reference: Predictions = task.decode(outputs)
        self.keras_metrics = task.score(self.reference, self.targets)

    def predict(self, predict: PredictFn) -> Predictions:
        """Return the decoded outputs of ``predict`` for the held-out images."""
        predictions: Predictions = self.task.decode(predict_batches(predict, self._held_out)[0])
        return predictions

    def measure(self, predictions: Predictions) -> Measurement:
        """Measure predictions for the held-out images."""
        metrics = self.task.score(predictions, self.targets)
        drop = self.keras_metrics[self.main_metric] - metrics[self.main_metric]
        # A drop of exactly the limit passes despite the rounding of the subtraction.
        passed = drop <= self.max_drop + 1e-9
        return Measurement(metrics, drop, passed, self.task.agreement(predictions, self.reference))

    def describe_chance(self) -> str:
        """Return a warning if the Keras model is not better than chance; "" otherwise.

        A permutation test: its predictions against shuffled targets. A model that always predicts
        the largest class has the same accuracy for both.
        """
        rng = np.random.default_rng(0)
        value = self.keras_metrics[self.main_metric]
        start, chance = time.monotonic(), -np.inf
        for _ in range(PERMUTATIONS):
            shuffled = nested.take(self.targets, rng.permutation(self.count))
            scored = self.task.score(self.reference, shuffled)[self.main_metric]
            chance = max(chance, scored)
            if time.monotonic() - start > PERMUTATION_SECONDS:
                break
        if value > chance:
            return ""
        metric = format_label(self.main_metric)
        return (
            f"WARNING: the accuracy gate is meaningless: the Keras model is not better than chance "
            f"({metric} {format_percent(value)}; with shuffled labels up to "
            f"{format_percent(chance)}). Train it longer, or evaluate it on more images."
        )

    def load_images(self, indices: Collection[int]) -> dict[int, NDArray[np.uint8]]:
        """Return the held-out images with these sample indices, each (height, width, 3)."""
        images = itertools.chain.from_iterable(images for images, _ in self._held_out)
        first = itertools.islice(images, max(indices, default=-1) + 1)
        return {index: pixels for index, pixels in enumerate(first) if index in indices}


class _Sampler:
    """Evenly spaced images of a stream of unknown length.

    Keeps every n-th image and doubles n whenever they become too many.
    """

    def __init__(self) -> None:
        self._kept: list[NDArray[np.uint8]] = []
        self._step, self._index = 1, 0

    def watch(self, batches: Batches) -> Iterator[tuple[Any, Any]]:
        """Yield ``batches`` unchanged."""
        for images, targets in batches:
            for image in images:
                if self._index % self._step == 0:
                    self._kept.append(np.array(image))
                self._index += 1
                if len(self._kept) > 4 * SAMPLE_IMAGES:
                    self._kept, self._step = self._kept[::2], 2 * self._step
            yield images, targets

    def images(self) -> NDArray[np.uint8]:
        """Return up to SAMPLE_IMAGES of the images seen so far, (n, height, width, 3)."""
        count = min(SAMPLE_IMAGES, len(self._kept))
        indices = np.linspace(0, len(self._kept) - 1, count).astype(int)
        return np.stack([self._kept[index] for index in indices])
