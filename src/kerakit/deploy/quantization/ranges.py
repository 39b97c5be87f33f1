"""From a TensorFlow Lite file of floats and what images show of its activations to one of integers.

TensorFlow's converter would measure the ranges with its own calibrator. That takes ten times as long, and where an addition
writes its sum over one of its inputs, the input's range becomes that of the sum. What quantises here is the converter's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import JobError
from kerakit.tflite.runtime import start_interpreter

OUTLIERS = 1
"""Percent of the calibration images whose extreme values may be cut off."""

Limits = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Seen:
    """What calibration images showed of the input and of all activations of a file; one row an image, one column a tensor.

    Attributes:
        tensors: the indices of the t tensors in the file, int64 (t,); the input is the first.
        low: the least value, float32 (images, t); of the input 0, whatever the images show.
        high: the largest, likewise; of the input 255, so that a byte of a camera stands for itself.
        means: of each tensor the mean of each channel, t arrays, float32 (images, channels).
    """

    tensors: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]
    means: list[NDArray[np.float32]]

    def first(self, count: int) -> Seen:
        """Return what the first ``count`` images showed."""
        return Seen(
            self.tensors, self.low[:count], self.high[:count], [mean[:count] for mean in self.means]
        )


def without_outliers(seen: Seen) -> Limits:
    """Return ranges, float32 (t,) each, that the values of all but OUTLIERS percent of the images lie in."""
    low, high = (
        np.percentile(seen.low, OUTLIERS, axis=0),
        np.percentile(seen.high, 100 - OUTLIERS, axis=0),
    )
    return low.astype(np.float32), high.astype(np.float32)


def of_all(seen: Seen) -> Limits:
    """Return ranges that hold all that was seen."""
    return seen.low.min(0), seen.high.max(0)


def typical(seen: Seen) -> Limits:
    """Return the mean of the images' ranges."""
    return seen.low.mean(0), seen.high.mean(0)


def look(content: bytes, images: Iterable[NDArray[np.uint8]]) -> Seen:
    """Run ``content``, a TensorFlow Lite file of floats with a batch of 1, on ``images``, uint8 (height, width, 3) each.

    Raises:
        JobError: LiteRT does not run it, or an activation is no finite number.
    """
    tensors, values_of = activations(content, "the model in floats")
    low, high, means = [], [], []
    for image in images:
        values = values_of(image)
        low.append([0.0, *(value.min() for value in values[1:])])
        high.append([255.0, *(value.max() for value in values[1:])])
        means.append(
            [value.reshape(-1, value.shape[-1] if value.ndim else 1).mean(0) for value in values]
        )
    columns = [np.stack(column).astype(np.float32) for column in zip(*means, strict=True)]
    seen = Seen(tensors, np.array(low, np.float32), np.array(high, np.float32), columns)
    if not (np.isfinite(seen.low).all() and np.isfinite(seen.high).all()):
        raise JobError(
            "the model gives numbers that are not finite for some training images: they cannot be quantised."
        )
    return seen


def activations(
    content: bytes, name: str
) -> tuple[NDArray[np.int64], Callable[[NDArray[np.uint8]], list[Any]]]:
    """Return which tensors a file computes, int64 (t,), its input first, and what gives their values for an image.

    The values of quantised tensors come as the numbers that they stand for.

    Raises:
        JobError: LiteRT does not run it; ``name`` is for the error.
    """
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    graph = model.subgraphs[0]
    (into,) = graph.inputs
    kinds = (schema.TensorType.FLOAT32, schema.TensorType.INT8, schema.TensorType.UINT8)
    made = [
        index
        for operator in graph.operators
        for index in operator.outputs
        if graph.tensors[index].type in kinds
    ]
    # With every activation among the outputs, LiteRT's fast kernels keep them all.
    graph.outputs, model.signatureDefs = np.array(made, np.int32), None
    interpreter = start_interpreter(
        bytes(flatbuffer_utils.convert_object_to_bytearray(model)), name
    )
    details = {one["index"]: one for one in interpreter.get_tensor_details()}

    def values_of(image: NDArray[np.uint8]) -> list[Any]:
        interpreter.set_tensor(into, image[None].astype(details[into]["dtype"]))
        interpreter.invoke()
        return [
            _real(interpreter.get_tensor(index), *details[index]["quantization"])
            for index in [into, *made]
        ]

    return np.array([into, *made]), values_of


def _real(value: Any, scale: float, zero_point: int) -> Any:
    return value if scale == 0 else (value.astype(np.float32) - zero_point) * np.float32(scale)
