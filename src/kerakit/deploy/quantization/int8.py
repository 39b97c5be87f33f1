"""Full int8, and int8 weights with int16 activations, by TensorFlow's quantizers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from kerakit.deploy.quantization.bias import correct_biases
from kerakit.deploy.quantization.ranges import (
    ActivationStats,
    Ranges,
    min_max_ranges,
    percentile_ranges,
)
from kerakit.errors import JobError
from kerakit.tflite.convert import run_converter
from kerakit.tflite.edit import set_ranges
from kerakit.tflite.graph import Operator, read_graph
from kerakit.tflite.layers import describe_operators
from kerakit.tflite.normalization import NormalizedInput, fold_normalization

if TYPE_CHECKING:
    import keras

_SCALE_TOLERANCE = 1e-5
"""Relative difference of a scale that comes from float32 limits."""


def quantize_int8(
    content: bytes,
    stats: ActivationStats,
    choose_ranges: Callable[[ActivationStats], Ranges] = percentile_ranges,
    float32_outputs: Sequence[str] = (),
    model: keras.Model | None = None,
) -> bytes:
    """Quantize a file to int8, with uint8 input and output and corrected biases.

    Args:
        content: a float32 TensorFlow Lite file.
        stats: statistics of its activations.
        choose_ranges: function from statistics to the quantization ranges.
        float32_outputs: names of the output tensors of operators that stay in float32.
        model: the Keras model, whose layers errors name.

    Raises:
        JobError: the quantizer rejected the file, or devices cannot run the result.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    normalized = fold_normalization(content)
    prepared = _with_ranges(normalized.content, stats, choose_ranges(stats), normalized)
    quantized = run_converter(
        lambda: mlir_quantize(
            prepared,
            input_data_type=tf.uint8,
            output_data_type=tf.uint8,
            # With one scale per output, TensorFlow Lite of 2021, which Coral devices run, computes
            # the same score for every class and reports no error.
            disable_per_channel_for_dense_layers=True,
            denylisted_nodes=list(float32_outputs),
        )
    )
    corrected = _correct_biases(normalized.content, quantized, stats, normalized)
    if not float32_outputs and (in_float32 := _float32_operators(corrected)):
        paths = [(one.op, path) for one in in_float32 for path in one.outputs[0].name.split(";")]
        raise JobError(
            "the int8 model is not suitable for devices: TensorFlow Lite's quantizer has no int8 "
            f"version of operators and leaves them in float32: {describe_operators(paths, model)}. "
            "Replace the layers that use them."
        )
    if not float32_outputs and (
        problems := find_int8_problems(corrected, normalized.scale, normalized.zero_point)
    ):
        raise JobError(
            f"the int8 model is not suitable for devices: {'; '.join(problems)}. Use other layers."
        )
    return corrected


def quantize_int16x8(content: bytes, stats: ActivationStats) -> bytes:
    """Quantize a file to int8 weights and int16 activations, with float32 input and output.

    Operators without an int16 kernel, such as HARD_SWISH, stay in float32.

    Args:
        content: a float32 TensorFlow Lite file.
        stats: statistics of its activations.

    Raises:
        JobError: the quantizer rejected the file.
    """
    import tensorflow as tf
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    prepared = _with_ranges(content, stats, min_max_ranges(stats))
    # mlir_quantize refuses int16. The calibrator keeps the ranges of the file on no images.
    quantized = run_converter(
        lambda: Calibrator(prepared).calibrate_and_quantize(
            lambda: iter(()),
            tf.float32,
            tf.float32,
            allow_float=True,
            activations_type=tf.int16,
            bias_type=tf.int64,
        )
    )
    return _correct_biases(content, quantized, stats)


def find_float32_operators(content: bytes) -> dict[str, int]:
    """Return the number of operators of a quantized file that compute in float32, by name."""
    return dict(Counter(one.op for one in _float32_operators(content)))


def _float32_operators(content: bytes) -> list[Operator]:
    return [
        one
        for one in read_graph(content).operators
        if one.op not in ("QUANTIZE", "DEQUANTIZE") and one.outputs[0].type == "FLOAT32"
    ]


def _correct_biases(
    content: bytes,
    quantized: bytes,
    stats: ActivationStats,
    normalized: NormalizedInput | None = None,
) -> bytes:
    means = {int(i): mean.mean(axis=0) for i, mean in zip(stats.tensors, stats.means, strict=True)}
    if normalized is not None:
        means[normalized.tensor] = means[normalized.replaced] + np.float32(normalized.shift)
    return correct_biases(content, bytes(quantized), means)


def _with_ranges(
    content: bytes,
    stats: ActivationStats,
    ranges: Ranges,
    normalized: NormalizedInput | None = None,
) -> bytes:
    # A tensor that is always 0 has no scale, and the quantizer would abort the process.
    limits = {
        int(index): (float(low), float(high) if high > low or low else 1.0)
        for index, low, high in zip(stats.tensors, ranges.low, ranges.high, strict=True)
    }
    if normalized is not None:
        limits[normalized.tensor] = normalized.limits
    return set_ranges(content, limits)


def find_int8_problems(content: bytes, scale: float = 1.0, zero_point: int = 0) -> list[str]:
    """Return why a file is not full int8 on raw pixels; empty if it is.

    Checked: uint8 input and output; scale and zero point of the input; batch size 1 and static
    shapes; no float tensor; one scale for the weights of FULLY_CONNECTED.

    Args:
        content: the file.
        scale: scale of the input for which bytes are raw pixels.
        zero_point: its zero point.
    """
    graph = read_graph(content)
    problems = []
    for end, tensors in (("input", graph.inputs), ("output", graph.outputs)):
        for tensor in tensors:
            if tensor.type != "UINT8":
                problems.append(f"{end} {tensor.name} is {tensor.type}, not UINT8")
            if tensor.shape[:1] != (1,):
                problems.append(f"{end} {tensor.name} of shape {list(tensor.shape)}: batch size")
            is_expected = (
                np.allclose(tensor.scales, [scale], rtol=_SCALE_TOLERANCE, atol=0)
                and tensor.scales.size == 1
                and tensor.zero_points.tolist() == [zero_point]
            )
            if end == "input" and not is_expected:
                problems.append(
                    f"input {tensor.name} does not accept raw pixels: the model must begin with "
                    "Rescaling"
                )
    for tensor in graph.tensors:
        if -1 in tensor.shape_signature:
            problems.append(f"tensor {tensor.name} has a dynamic shape")
        if tensor.type in ("FLOAT16", "FLOAT32", "FLOAT64"):
            problems.append(f"tensor {tensor.name} is {tensor.type}")
    problems += [
        f"dense weights {one.weighted.weights.name} have one scale per output"
        for one in graph.operators
        if one.op == "FULLY_CONNECTED" and one.weighted and one.weighted.weights.scales.size > 1
    ]
    return problems
