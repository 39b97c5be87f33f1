"""Whether the Edge TPU takes an operator for itself, whatever stands around it: the words, the limits, and where each was seen.

Limits are those of the table of supported operations for runtime 14 (compiler 16), coral.ai/docs/edgetpu/models-intro. It says
of some that they depend on sizes and doesn't say which: between the largest seen mapped and the smallest seen not mapped the
answer is ``unknown``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kerakit.tflite.graph import Operator, Tensor

Target = Literal["tpu", "cpu", "unknown"]

MAPPED = "Mapped to Edge TPU"
SUBGRAPH = "More than one subgraph is not supported"
UNSUPPORTED = "Operation not supported"
TYPE = "Operation is working on an unsupported data type"
LIMIT = "Operation is otherwise supported, but not mapped due to some unspecified limitation"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
STRIDES = "Only Strided-Slice with unitary strides supported"
NOT_CONSTANT = "Filter, bias, or other param is not constant at compile-time"

DOCUMENT = "document: coral.ai/docs/edgetpu/models-intro"
_ISSUE = "log: google-coral/edgetpu#"


@dataclass(frozen=True)
class Verdict:
    """What becomes of an operator.

    Attributes:
        target: where it runs; "unknown" where nothing that was seen decides it.
        status: in the compiler's words; of an unknown one, those that it would say if it did not map it.
        source: the document, real pair or real log that says so.
    """

    target: Target
    status: str
    source: str


_Check = Callable[[Operator], Verdict | None]
"""Returns what keeps an operator from being mapped, None if nothing is known to."""


def judge(operator: Operator) -> Verdict:
    """Return whether the Edge TPU takes ``operator``, were it alone; the checks are in the order that real logs show."""
    tensors = [*operator.activations, *operator.outputs]
    if operator.op in _RULES and (not operator.outputs or operator.input(0) is None):
        return _cpu(UNSUPPORTED, "no log: the operator has no input or no output")
    if any(size != 1 for tensor in tensors for size in tensor.shape[:-3]):
        return _cpu(RANK, f"{DOCUMENT}; {_ISSUE}30, #708")
    if not all(_is_quantised(tensor) for tensor in operator.outputs):
        return _cpu(
            TYPE,
            f"{DOCUMENT}; logs of EfficientDet-Lite (CUSTOM, DEQUANTIZE) and float models, {_ISSUE}438",
        )
    if operator.op not in _RULES:
        return _cpu(UNSUPPORTED, f"{DOCUMENT}; logs of LEAKY_RELU, GATHER")
    if operator.op == "QUANTIZE" and not all(
        _is_quantised(tensor) for tensor in operator.activations
    ):
        return _cpu(LIMIT, "log: mnist4, float input (edgetpu_compiler 15)")
    if not all(_is_quantised(tensor) or tensor.variable for tensor in operator.activations):
        return _cpu(TYPE, DOCUMENT)
    source, *checks = _RULES[operator.op]
    for check in checks:
        if found := check(operator):
            return found
    return Verdict("tpu", MAPPED, source)


def _cpu(status: str, source: str = DOCUMENT) -> Verdict:
    return Verdict("cpu", status, source)


def _unknown(source: str) -> Verdict:
    return Verdict("unknown", LIMIT, source)


def _is_quantised(tensor: Tensor) -> bool:
    return tensor.type in ("INT8", "UINT8") and tensor.scales.size > 0


# ----------------------------------------------------------------------------------------------------------------- the checks


def _no_activation(operator: Operator) -> Verdict | None:
    return _cpu(LIMIT) if operator.option("fusedActivationFunction") else None


def _constant_weights(operator: Operator) -> Verdict | None:
    """Filter and bias are a part of the file, the filter in 8 bits."""
    for tensor in operator.inputs[1:3]:
        if tensor is not None and tensor.data is None:
            return _cpu(NOT_CONSTANT, f"{DOCUMENT}; {_ISSUE}25 (edgetpu_compiler 2.0)")
    weights = operator.input(1)
    return None if weights is not None and _is_quantised(weights) else _cpu(TYPE)


def _equal_dilation(operator: Operator) -> Verdict | None:
    one, other = operator.option("dilationWFactor", 1), operator.option("dilationHFactor", 1)
    return None if one == other else _cpu(LIMIT)


def _one_row(operator: Operator) -> Verdict | None:
    return (
        None
        if math.prod(operator.outputs[0].shape[:-1]) == 1
        else _cpu(LIMIT, f"{DOCUMENT}; {_ISSUE}27")
    )


def _default_weights(operator: Operator) -> Verdict | None:
    return _cpu(LIMIT) if operator.option("weightsFormat") else None


def _short(operator: Operator) -> Verdict | None:
    return None if operator.outputs[0].size <= 16_000 else _cpu(LIMIT)


def _zero_padding(operator: Operator) -> Verdict | None:
    """Refuse a constant, unless it is one of two inputs, and all zeros."""
    constants = [
        tensor for tensor in operator.inputs if tensor is not None and tensor.data is not None
    ]
    if not constants:
        return None
    first = constants[0]
    zero = int(first.zero_points[0]) % 256 if first.zero_points.size else 0
    zeros = (
        len(operator.inputs) == 2
        and len(constants) == 1
        and first.data is not None
        and bool(np.all(first.data == zero))
    )
    return None if zeros else _cpu(LIMIT)


def _not_the_batch(operator: Operator) -> Verdict | None:
    """Axes, of the second input, leave out the first: the batch. The last may go only if it is a multiple of 4."""
    image, axes = operator.input(0), operator.input(1)
    if image is None or axes is None or not axes.integers:
        return _cpu(NOT_CONSTANT)
    rank = len(image.shape)
    reduced = {axis % rank for axis in axes.integers} if rank else {0}
    # A batch of 1 that is reduced with all else is still the batch.
    if 0 in reduced:
        return _cpu(LIMIT)
    if operator.op == "MEAN" and rank - 1 in reduced and image.shape[-1] % 4:
        return _cpu(LIMIT)
    return None


def _mean_is_small(operator: Operator) -> Verdict | None:
    """Doubt a mean of more than 64 by 128 numbers, which was seen mapped; one of 256 by 128 was seen not mapped."""
    averaged = (
        operator.activations[0].size // max(operator.outputs[0].size, 1)
        if operator.activations
        else 0
    )
    if averaged <= 8_192:
        return None
    return _cpu(LIMIT, f"{_ISSUE}461") if averaged >= 32_768 else _unknown(f"{_ISSUE}461")


def _pack_inside(operator: Operator) -> Verdict | None:
    axis = int(operator.option("axis"))
    return _cpu(LIMIT) if axis in (0, -len(operator.outputs[0].shape)) else None


def _split_inside(operator: Operator) -> Verdict | None:
    axis = operator.input(0)
    if axis is None or not axis.integers:
        return _cpu(NOT_CONSTANT)
    return _cpu(LIMIT) if axis.integers[0] in (0, -len(operator.outputs[0].shape)) else None


def _pads_inside(operator: Operator) -> Verdict | None:
    margins = operator.input(1)
    if margins is None or not margins.integers:
        return _cpu(NOT_CONSTANT)
    return _cpu(LIMIT) if any(margins.integers[:2]) else None


def _alpha_for_channels(operator: Operator) -> Verdict | None:
    alpha = operator.input(1)
    if alpha is None or alpha.data is None:
        return _cpu(NOT_CONSTANT)
    return None if math.prod(alpha.shape[:-1]) == 1 else _cpu(LIMIT)


def _unit_strides(operator: Operator) -> Verdict | None:
    strides = operator.input(3)
    if strides is None or any(stride != 1 for stride in strides.integers):
        return _cpu(STRIDES, f"{DOCUMENT}; log of yolov5s (edgetpu_compiler 15)")
    return (
        _cpu(LIMIT) if operator.option("ellipsisMask") or operator.option("newAxisMask") else None
    )


def _same_shapes(operator: Operator) -> Verdict | None:
    """Doubt that one computed tensor is broadcast over another, as in squeeze-and-excite."""
    source = "no log; the document names no limit, but squeeze-and-excite is reported not to map"
    shapes = {_without_leading_ones(tensor.shape) for tensor in operator.activations}
    return _unknown(source) if len(shapes) > 1 else None


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while shape and shape[0] == 1:
        shape = shape[1:]
    return shape


def _sharp_enough(operator: Operator) -> Verdict | None:
    """Bilinear interpolation that would lose precision is left to the CPU."""
    image = operator.input(0)
    before, after = image.shape if image else (), operator.outputs[0].shape
    if len(before) != 4 or len(after) != 4:
        return _cpu(LIMIT)
    if any(old == 1 < new for old, new in zip(before[1:3], after[1:3], strict=True)):
        return _cpu(LIMIT, f"{DOCUMENT}; pair: deeplabv3_mnv2_dm05_pascal_quant")
    if any(new > 8 * old for old, new in zip(before[1:3], after[1:3], strict=True)):
        return _unknown(f"{DOCUMENT} (depends on sizes)")
    return None


def _resize_is_small(operator: Operator) -> Verdict | None:
    return _up_to(operator.outputs, 524_288, 8_388_608, f"{_ISSUE}31")


def _transpose_is_small(operator: Operator) -> Verdict | None:
    return _up_to(operator.outputs, 65_536, None, f"{_ISSUE}439, logs of yolov5s")


def _upsampling_is_small(operator: Operator) -> Verdict | None:
    return _up_to(operator.outputs, 1_048_576, None, f"{_ISSUE}684, #686")


def _moves_little(operator: Operator) -> Verdict | None:
    """Doubt what moves more than a quarter of the chip's 8 MiB: what goes in and what comes out must be there at once."""
    return _up_to(
        operator.outputs,
        2_097_152,
        None,
        f"{DOCUMENT} (large reshapes might not be mapped); no log gives a size",
    )


def _up_to(tensors: tuple[Tensor, ...], good: int, bad: int | None, source: str) -> Verdict | None:
    """Judge by the number of elements: ``good`` were seen mapped, ``bad`` were seen not mapped."""
    most = max(tensor.size for tensor in tensors)
    if most <= good:
        return None
    return _cpu(LIMIT, source) if bad is not None and most >= bad else _unknown(source)


# ------------------------------------------------------------------------------------------------------------------- the table

_CLASSIFIER = "pair: mobilenet_v1_0.25_128_quant"
_TRACKER = "pair: bright_16x16"
_YOLO = "log: yolov5s (edgetpu_compiler 16)"
_DETECTOR = "log: EfficientDet-Lite (edgetpu_compiler 16)"
_ATTENTION = "log: yolo9 with attention (edgetpu_compiler 16)"

_RULES: dict[str, tuple[str, *tuple[_Check, ...]]] = {
    "ADD": ("pair: looming_64x64_3x3", _same_shapes),
    "AVERAGE_POOL_2D": (_CLASSIFIER, _no_activation),
    "CONCATENATION": ("pair: split_concat", _no_activation, _zero_padding, _moves_little),
    "CONV_2D": (_CLASSIFIER, _constant_weights, _equal_dilation),
    "DEPTHWISE_CONV_2D": (_CLASSIFIER, _constant_weights, _equal_dilation),
    "EXPAND_DIMS": (DOCUMENT,),
    "FULLY_CONNECTED": ("pair: dense_256", _constant_weights, _default_weights, _one_row),
    "L2_NORMALIZATION": (DOCUMENT,),
    "LOGISTIC": (_DETECTOR, _moves_little),
    "LSTM": (DOCUMENT,),
    "MAXIMUM": (_ATTENTION, _same_shapes),
    "MAX_POOL_2D": (_DETECTOR, _no_activation),
    "MEAN": ("log: ResNet-18 (edgetpu_compiler 16)", _not_the_batch, _mean_is_small),
    "MINIMUM": (_ATTENTION, _same_shapes),
    "MUL": ("pair: looming_64x64_3x3", _same_shapes),
    "PACK": (DOCUMENT, _pack_inside),
    "PAD": ("pair: posenet_mobilenet_v1_075_353_481_16_quant_decoder", _pads_inside),
    "PRELU": (DOCUMENT, _alpha_for_channels),
    "QUANTIZE": ("pair: dense_256",),
    "REDUCE_MAX": (DOCUMENT, _not_the_batch),
    "REDUCE_MIN": (DOCUMENT, _not_the_batch),
    "RELU": (DOCUMENT,),
    "RELU6": (DOCUMENT,),
    "RELU_N1_TO_1": (DOCUMENT,),
    "RESHAPE": (_TRACKER, _moves_little),
    "RESIZE_BILINEAR": (DOCUMENT, _sharp_enough, _resize_is_small),
    "RESIZE_NEAREST_NEIGHBOR": (_DETECTOR, _resize_is_small),
    "RSQRT": (DOCUMENT,),
    "SLICE": (DOCUMENT,),
    "SOFTMAX": (_TRACKER, _one_row, _short),
    "SPACE_TO_DEPTH": (DOCUMENT,),
    "SPLIT": ("pair: split_concat", _split_inside),
    "SQUARED_DIFFERENCE": (DOCUMENT, _same_shapes),
    "SQUEEZE": (DOCUMENT,),
    "STRIDED_SLICE": (_YOLO, _unit_strides),
    "SUB": (_YOLO, _same_shapes),
    "SUM": (DOCUMENT, _not_the_batch),
    "TANH": (DOCUMENT,),
    "TILE": ("pair: deeplab_mobilenet_edgetpu_slim_cityscapes_quant of google-coral/test_data",),
    "TRANSPOSE": (_YOLO, _transpose_is_small),
    "TRANSPOSE_CONV": (DOCUMENT, _upsampling_is_small),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": ("pair: keras_lstm_mnist_ptq",),
}
"""Each operator of the table, with where it was seen mapped (or the document), and what limits it."""
