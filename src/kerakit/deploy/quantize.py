"""From a TensorFlow Lite file of floats and the ranges that images show to one of integers.

TensorFlow's converter would measure the ranges with its own calibrator. That takes ten times as long, and where an addition
writes its sum over one of its inputs, the input's range becomes that of the sum. What quantises here is the converter's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy import runtime
from kerakit.errors import JobError


@dataclass(frozen=True)
class Ranges:
    """What calibration images showed.

    Attributes:
        tensors: the indices of the input and of all activations of floats in the file, int64 (t,); the input is the first.
        low: the least value of each image in each tensor, float32 (images, t); of the input 0, whatever the images show.
        high: the largest, likewise; of the input 255, so that a byte of a camera stands for itself.
    """

    tensors: NDArray[np.int64]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    def first(self, count: int) -> Ranges:
        """Return those of the first ``count`` images."""
        return Ranges(self.tensors, self.low[:count], self.high[:count])


def measure(content: bytes, images: Iterable[NDArray[np.uint8]]) -> Ranges:
    """Run ``content``, a TensorFlow Lite file of floats with a batch of 1, on ``images``, uint8 (height, width, 3) each.

    Raises:
        JobError: LiteRT does not run it, or an activation is no finite number.
    """
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    graph = model.subgraphs[0]
    (into,) = graph.inputs
    made = (index for operator in graph.operators for index in operator.outputs)
    activations = [index for index in made if graph.tensors[index].type == schema.TensorType.FLOAT32]
    # With every activation among the outputs, LiteRT's fast kernels keep them all.
    graph.outputs, model.signatureDefs = np.array(activations, np.int32), None
    interpreter = runtime.start(bytes(flatbuffer_utils.convert_object_to_bytearray(model)), "the model in floats")
    low, high = [], []
    for image in images:
        interpreter.set_tensor(into, image[None].astype(np.float32))
        interpreter.invoke()
        values = [interpreter.get_tensor(index) for index in activations]
        low.append([0.0, *(value.min() for value in values)])
        high.append([255.0, *(value.max() for value in values)])
    ranges = Ranges(np.array([into, *activations]), np.array(low, np.float32), np.array(high, np.float32))
    if not (np.isfinite(ranges.low).all() and np.isfinite(ranges.high).all()):
        raise JobError("the model gives numbers that are not finite for some training images: they cannot be quantised.")
    return ranges


def to_int8(content: bytes, ranges: Ranges) -> bytes:
    """Return ``content`` in int8, with uint8 in and out."""
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    quantized: bytes = mlir_quantize(
        _with_ranges(content, ranges),
        input_data_type=tf.uint8,
        output_data_type=tf.uint8,
        # With one scale for each output, TensorFlow Lite of 2021, which Coral's devices run, gives the same score for every
        # class and reports no error.
        disable_per_channel_for_dense_layers=True,
    )
    return quantized


def to_int16x8(content: bytes, ranges: Ranges) -> bytes:
    """Return ``content`` with weights in int8 and activations in int16, with float32 in and out."""
    import tensorflow as tf
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    # The newer quantiser, that of to_int8, refuses int16. This one would calibrate first: on nothing, it keeps the ranges.
    quantized: bytes = Calibrator(_with_ranges(content, ranges)).calibrate_and_quantize(
        lambda: iter(()), tf.float32, tf.float32, allow_float=False, activations_type=tf.int16, bias_type=tf.int64
    )
    return quantized


def _with_ranges(content: bytes, ranges: Ranges) -> bytes:
    """Return ``content`` with a range noted at each tensor, where TensorFlow's calibrator notes them."""
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    tensors: list[Any] = model.subgraphs[0].tensors
    for index, low, high in zip(ranges.tensors, ranges.low.min(0), ranges.high.max(0), strict=True):
        noted = schema.QuantizationParametersT()
        noted.min, noted.max = np.array([low]), np.array([high])
        tensors[index].quantization = noted
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
