"""Bias correction: subtracts the expected output error of quantized weights from the biases.

Nagel et al. 2019, Data-Free Quantization Through Weight Equalization and Bias Correction, 4.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.tflite.edit import set_inputs
from kerakit.tflite.graph import Tensor, WeightedOperands, read_graph

_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


def correct_biases(
    content: bytes, quantized: bytes, means: Mapping[int, NDArray[np.float32]]
) -> bytes:
    """Return ``quantized`` with corrected biases of convolutions and dense layers.

    Args:
        content: the float32 TensorFlow Lite file that ``quantized`` was made from.
        quantized: the file with int8 weights, and int8 or int16 activations.
        means: channel means of the activations of ``content``, float32 (channels,), by tensor
            index.
    """
    # Tensors keep their names in the quantized file; their indices differ.
    originals = {
        operator.outputs[0].name: operator.weighted
        for operator in read_graph(content).operators
        if operator.weighted
    }
    corrected: dict[tuple[int, int], NDArray[Any]] = {}
    for operator in read_graph(quantized).operators:
        int8, float32 = operator.weighted, originals.get(operator.outputs[0].name)
        if operator.op not in _OPS or int8 is None or float32 is None or int8.bias is None:
            continue
        if int8.bias.type not in ("INT32", "INT64"):
            continue
        mean = means.get(float32.input.index)
        error = None if mean is None else _mean_error(operator.op, int8, float32, mean)
        if error is not None:
            # Operators that share one bias have errors of their own, and get a bias of their own.
            position = operator.inputs.index(int8.bias)
            corrected[operator.index, position] = _subtracted(int8.bias, error)
    return set_inputs(quantized, corrected)


def _mean_error(
    op: str, int8: WeightedOperands, float32: WeightedOperands, mean: NDArray[np.float32]
) -> NDArray[np.float64] | None:
    """Return the mean error of the output channels; None for grouped convolutions."""
    error = (int8.weights.dequantize() - float32.weights.values).astype(np.float64)
    if op == "DEPTHWISE_CONV_2D":
        # Weights are (1, height, width, channels * multiplier), those of one channel adjacent.
        per_channel: NDArray[np.float64] = error.sum(axis=(0, 1, 2))
        return per_channel * np.repeat(mean, error.shape[-1] // len(mean))
    if error.shape[-1] != len(mean):
        return None
    # Weights are (outputs, ..., inputs).
    total: NDArray[np.float64] = (error * mean).reshape(len(error), -1).sum(axis=1)
    return total


def _subtracted(bias: Tensor, error: NDArray[np.float64]) -> NDArray[Any]:
    """Return the stored values of ``bias`` less ``error``, (channels,)."""
    limit = min(np.iinfo(bias.values.dtype).max, 2**62)  # float64 rounds the limit of int64 up
    steps = bias.values - np.round(error / bias.scales.astype(np.float64))
    return np.clip(steps, -limit - 1, limit).astype(bias.values.dtype)
