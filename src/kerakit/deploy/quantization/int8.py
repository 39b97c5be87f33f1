"""Full int8, and int8 weights with int16 activations, by TensorFlow's quantizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from kerakit.deploy.quantization.bias import corrected
from kerakit.deploy.quantization.ranges import Limits, Seen, of_all, without_outliers
from kerakit.errors import JobError
from kerakit.tflite.convert import run_converter


def int8(
    content: bytes,
    seen: Seen,
    ranges: Callable[[Seen], Limits] = without_outliers,
    floats: Sequence[str] = (),
) -> bytes:
    """Return ``content`` in int8, all of it or without the operators whose outputs are named in ``floats``.

    Raises:
        JobError: it is not what devices need.
    """
    quantized = run_converter(lambda: to_int8(content, seen, ranges, floats))
    if floats:
        return quantized
    if problems := int8_problems(quantized):
        raise JobError(
            f"the int8 model is not what devices need: {'; '.join(problems)}. Choose other layers for it."
        )
    return quantized


def to_int8(
    content: bytes,
    seen: Seen,
    ranges: Callable[[Seen], Limits] = without_outliers,
    floats: Sequence[str] = (),
) -> bytes:
    """Return ``content`` in int8, with uint8 in and out, and biases that make up for the mean error of the weights.

    Args:
        content: a TensorFlow Lite file of floats.
        seen: what calibration images showed of it.
        ranges: which ranges to take of that.
        floats: names of tensors whose operators stay in floats.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    quantized: bytes = mlir_quantize(
        _with_ranges(content, seen, ranges(seen)),
        input_data_type=tf.uint8,
        output_data_type=tf.uint8,
        # With one scale for each output, TensorFlow Lite of 2021, which Coral's devices run, gives the same score for every
        # class and reports no error.
        disable_per_channel_for_dense_layers=True,
        denylisted_nodes=list(floats),
    )
    means = {int(index): mean.mean(0) for index, mean in zip(seen.tensors, seen.means, strict=True)}
    return corrected(content, bytes(quantized), means)


def to_int16x8(content: bytes, seen: Seen) -> bytes:
    """Return ``content`` with weights in int8 and activations in int16, with float32 in and out."""
    import tensorflow as tf
    from tensorflow.lite.python.optimize.calibrator import Calibrator

    # The newer quantiser, that of to_int8, refuses int16. This one would calibrate first: on nothing, it keeps the ranges.
    quantized: bytes = Calibrator(_with_ranges(content, seen, of_all(seen))).calibrate_and_quantize(
        lambda: iter(()),
        tf.float32,
        tf.float32,
        allow_float=False,
        activations_type=tf.int16,
        bias_type=tf.int64,
    )
    return quantized


def _with_ranges(content: bytes, seen: Seen, limits: Limits) -> bytes:
    """Return ``content`` with a range noted at each tensor, where TensorFlow's calibrator notes them."""
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(content)
    tensors: list[Any] = model.subgraphs[0].tensors
    for index, low, high in zip(seen.tensors, *limits, strict=True):
        noted = schema.QuantizationParametersT()
        # What was always 0 has no scale, and the quantiser would abort the process: any range will do.
        noted.min, noted.max = (
            np.array([low]),
            np.array([high if high > low or low else 1.0], np.float32),
        )
        tensors[index].quantization = noted
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def int8_problems(content: bytes) -> list[str]:
    """Return what keeps a TensorFlow Lite file from being full int8 with raw pixels in; empty if nothing does.

    Checked: uint8 in and out; scale 1 and zero point 0 at the input; static shapes with a batch of 1; no tensor of floats;
    weights of FULLY_CONNECTED with one scale.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    problems = []
    ends = {"input": graph.inputs, "output": graph.outputs}
    for end, indices in ends.items():
        for tensor in (graph.tensors[i] for i in indices):
            if tensor.type != schema.TensorType.UINT8:
                problems.append(f"the {end} {_name(tensor)} is not uint8")
            if tensor.shape[0] != 1:
                problems.append(f"the {end} {_name(tensor)} has the batch size {tensor.shape[0]}")
            if end == "input" and _scales(tensor) != [(1.0, 0)]:
                problems.append(
                    f"the input {_name(tensor)} does not take raw pixels: the model must begin with Rescaling"
                )
    for tensor in graph.tensors:
        if tensor.shapeSignature is not None and -1 in list(tensor.shapeSignature):
            problems.append(f"the tensor {_name(tensor)} has no static shape")
        if tensor.type in (
            schema.TensorType.FLOAT32,
            schema.TensorType.FLOAT16,
            schema.TensorType.FLOAT64,
        ):
            problems.append(f"the tensor {_name(tensor)} is left in float")
    for operator in graph.operators:
        if (
            model.operatorCodes[operator.opcodeIndex].builtinCode
            == schema.BuiltinOperator.FULLY_CONNECTED
        ):
            weights = graph.tensors[operator.inputs[1]]
            if len(_scales(weights)) > 1:
                problems.append(f"the dense weights {_name(weights)} have a scale for each output")
    return problems


def _scales(tensor: Any) -> list[tuple[float, int]]:
    """Return the (scale, zero point) pairs of a tensor; none if it is not quantised."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return []
    return [
        (float(scale), int(zero))
        for scale, zero in zip(quantization.scale, quantization.zeroPoint, strict=True)
    ]


def _name(tensor: Any) -> str:
    return bytes(tensor.name).decode(errors="replace")
