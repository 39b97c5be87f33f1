"""Rounded weights shift what a layer answers on average; its bias can take that back (Nagel et al. 2019, section 4.2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def corrected(content: bytes, quantized: bytes, means: Mapping[int, NDArray[np.float32]]) -> bytes:
    """Return ``quantized`` with the biases of its convolutions and dense layers less the mean error of their rounded weights.

    Args:
        content: the TensorFlow Lite file of floats that ``quantized`` was made from.
        quantized: in int8.
        means: of each activation of ``content``, by its index, the mean of each channel, float32 (channels,).
    """
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    exact, rounded = (
        flatbuffer_utils.convert_bytearray_to_object(each) for each in (content, quantized)
    )
    of_floats = {
        _name(exact, operator.outputs[0]): operator for operator in exact.subgraphs[0].operators
    }
    kinds = schema.BuiltinOperator
    for operator in rounded.subgraphs[0].operators:
        kind = _kind(rounded, operator)
        if (
            kind not in (kinds.CONV_2D, kinds.DEPTHWISE_CONV_2D, kinds.FULLY_CONNECTED)
            or len(operator.inputs) < 3
        ):
            continue
        twin = of_floats.get(_name(rounded, operator.outputs[0]))
        tensors = rounded.subgraphs[0].tensors
        weights, biases = (tensors[i] for i in operator.inputs[1:3])
        if (
            twin is None
            or biases.type != schema.TensorType.INT32
            or int(twin.inputs[0]) not in means
        ):
            continue
        error = _real(rounded, weights) - _values(
            exact, exact.subgraphs[0].tensors[twin.inputs[1]], np.float32
        )
        mean = means[int(twin.inputs[0])]
        shift = (
            _depthwise(error, mean)
            if kind == kinds.DEPTHWISE_CONV_2D
            else _of_all_inputs(error, mean)
        )
        if shift is None:
            continue
        steps = _values(rounded, biases, np.int32) - np.round(
            shift / np.asarray(biases.quantization.scale, np.float64)
        )
        limits = np.iinfo(np.int32)
        whole = np.clip(steps, limits.min, limits.max).astype(np.int32)
        rounded.buffers[biases.buffer].data = np.frombuffer(whole.tobytes(), np.uint8)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(rounded))


def _of_all_inputs(error: Array, mean: Array) -> Array | None:
    """Weights are (outputs, ..., inputs); None for grouped convolutions, whose inputs are not all channels."""
    if error.shape[-1] != len(mean):
        return None
    return np.asarray((error.astype(np.float64) * mean).reshape(len(error), -1).sum(1))


def _depthwise(error: Array, mean: Array) -> Array:
    """Weights are (1, height, width, channels times multiplier), the multiples of a channel beside each other."""
    return np.asarray(
        error.astype(np.float64).sum((0, 1, 2)) * np.repeat(mean, error.shape[-1] // len(mean))
    )


def _kind(model: Any, operator: Any) -> int:
    return int(model.operatorCodes[operator.opcodeIndex].builtinCode)


def _name(model: Any, tensor: int) -> bytes:
    return bytes(model.subgraphs[0].tensors[tensor].name)


def _values(model: Any, tensor: Any, kind: Any) -> Array:
    return np.frombuffer(bytes(model.buffers[tensor.buffer].data), kind).reshape(tensor.shape)


def _real(model: Any, tensor: Any) -> Array:
    """Return the numbers that int8 weights stand for, whose zero points are 0."""
    scales = np.asarray(tensor.quantization.scale, np.float32)
    shape = [1] * len(tensor.shape)
    shape[tensor.quantization.quantizedDimension] = -1
    return _values(model, tensor, np.int8).astype(np.float32) * (
        scales.reshape(shape) if len(scales) > 1 else scales[0]
    )
