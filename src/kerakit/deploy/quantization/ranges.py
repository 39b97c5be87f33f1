"""Ranges of the activations of a float32 TensorFlow Lite file, measured on calibration images.

TensorFlow's own calibrator takes ten times as long, and where an addition writes its sum over one
of its inputs, it records the range of the sum for that input.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import JobError
from kerakit.tflite.edit import set_outputs
from kerakit.tflite.graph import read_graph
from kerakit.tflite.runtime import dequantize, start_interpreter

OUTLIER_PERCENT = 1
"""Percentage of the calibration images whose extreme values ``percentile_ranges`` may clip."""


class Ranges(NamedTuple):
    """Lowest and highest value of each tensor, float32 (tensors,) each."""

    low: NDArray[np.float32]
    high: NDArray[np.float32]


@dataclass(frozen=True)
class ActivationStats:
    """Statistics of the input and all activations of a file, per calibration image.

    Attributes:
        tensors: tensor indices in the file, int64 (tensors,); the input is the first.
        low: lowest values, float32 (images, tensors). The input's are 0: see ``high``.
        high: highest values, likewise. The input's are 255, whatever the images contain, so that
            the int8 file accepts raw pixels.
        means: channel means, one float32 (images, channels) per tensor.
    """

    tensors: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    means: list[NDArray[np.float32]]

    def first(self, count: int) -> ActivationStats:
        """Return the statistics of the first ``count`` images."""
        means = [mean[:count] for mean in self.means]
        return ActivationStats(self.tensors, self.low[:count], self.high[:count], means)


def percentile_ranges(stats: ActivationStats) -> Ranges:
    """Return ranges that cover all values of all but OUTLIER_PERCENT of the images."""
    low = np.percentile(stats.low, OUTLIER_PERCENT, axis=0)
    high = np.percentile(stats.high, 100 - OUTLIER_PERCENT, axis=0)
    return Ranges(low.astype(np.float32), high.astype(np.float32))


def min_max_ranges(stats: ActivationStats) -> Ranges:
    """Return ranges that cover all values of all images."""
    return Ranges(stats.low.min(axis=0), stats.high.max(axis=0))


def mean_ranges(stats: ActivationStats) -> Ranges:
    """Return the means of the images' ranges."""
    return Ranges(stats.low.mean(axis=0), stats.high.mean(axis=0))


def collect_ranges(content: bytes, images: Iterable[NDArray[np.uint8]]) -> ActivationStats:
    """Run a file on calibration images and collect the statistics of its activations.

    Args:
        content: a float32 TensorFlow Lite file with batch size 1.
        images: uint8 (height, width, 3) each.

    Raises:
        JobError: LiteRT cannot run the file, or an activation is NaN or infinite.
    """
    recorder = ActivationRecorder(content, "the float32 model")
    low, high, means = [], [], []
    for image in images:
        values = recorder.record(image)
        low.append([0.0, *(value.min() for value in values[1:])])
        high.append([255.0, *(value.max() for value in values[1:])])
        # A scalar is one channel.
        means.append([one.reshape(-1, *one.shape[-1:] or (1,)).mean(axis=0) for one in values])
    stats = ActivationStats(
        recorder.tensors,
        np.array(low, np.float32),
        np.array(high, np.float32),
        [np.stack(column).astype(np.float32) for column in zip(*means, strict=True)],
    )
    if not (np.isfinite(stats.low).all() and np.isfinite(stats.high).all()):
        raise JobError(
            "NaN or infinite activations on training images: the model cannot be quantized."
        )
    return stats


class ActivationRecorder:
    """Runs a TensorFlow Lite file and returns its activations.

    Args:
        content: a file with batch size 1.
        name: name of the file, for errors.
        scale: a float32 input is scale * (pixel - zero_point).
        zero_point: see ``scale``.

    Attributes:
        tensors: indices of the recorded tensors, int64 (tensors,); the input is the first.
        names: names of these tensors.

    Raises:
        JobError: LiteRT cannot run the file.
    """

    def __init__(self, content: bytes, name: str, scale: float = 1.0, zero_point: int = 0) -> None:
        self._normalization = scale, zero_point
        graph = read_graph(content)
        (image,) = graph.inputs
        computed = [
            tensor
            for operator in graph.operators
            for tensor in operator.outputs
            if tensor.type in ("FLOAT32", "INT8", "UINT8")
        ]
        self.tensors = np.array([tensor.index for tensor in (image, *computed)])
        self.names = [tensor.name for tensor in (image, *computed)]
        # As outputs, all activations are kept by LiteRT's optimized kernels.
        observable = set_outputs(content, [tensor.index for tensor in computed])
        self._interpreter = start_interpreter(observable, name)
        details = {one["index"]: one for one in self._interpreter.get_tensor_details()}
        self._dtype = details[image.index]["dtype"]
        self._quantization = [details[index]["quantization"] for index in self.tensors]

    def record(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the values of all recorded tensors for one image, dequantized."""
        pixels = image[None].astype(self._dtype)
        if self._dtype == np.float32:
            scale, zero_point = self._normalization
            pixels = (pixels - np.float32(zero_point)) * np.float32(scale)
        self._interpreter.set_tensor(self.tensors[0], pixels)
        self._interpreter.invoke()
        return [
            dequantize(self._interpreter.get_tensor(index), scale, zero_point)
            for index, (scale, zero_point) in zip(self.tensors, self._quantization, strict=True)
        ]
