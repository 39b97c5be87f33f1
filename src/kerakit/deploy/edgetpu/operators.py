"""Edge TPU facts: one rule per operator, each with its source.

The limits are those of the table of supported operations for runtime 14 (compiler 16) in
coral.ai/docs/edgetpu/models-intro. For some operators that table has "depends on sizes" and no
sizes: between the largest size seen mapped and the smallest size seen unmapped the verdict is
"unknown". Which operator versions the compiler loads at all is in ``loader``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import dropwhile
from typing import Literal

import numpy as np

from kerakit.tflite.graph import Operator, Tensor

Target = Literal["tpu", "cpu", "unknown"]

# The compiler's own statuses.
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
    """Target of one operator.

    Attributes:
        target: "tpu", "cpu", or "unknown" if no source decides it.
        status: as the compiler prints it; for an unknown target, the status if it is not mapped.
        source: the document, compiled file ("pair") or compiler log that shows it.
        limit: the violated limit, as a phrase after the operator's name; may be empty.
        advice: what to use instead, as a sentence; may be empty.
    """

    target: Target
    status: str
    source: str
    limit: str = ""
    advice: str = ""


Check = Callable[[Operator], Verdict | None]
"""Returns the verdict if the operator violates a limit, else None."""


@dataclass(frozen=True)
class Rule:
    """Facts on one supported operator.

    Attributes:
        source: where the operator was seen mapped, or the document that lists it.
        checks: its limits, in the order in which compiler logs report them.
    """

    source: str
    checks: tuple[Check, ...] = ()


def apply_rules(operator: Operator) -> Verdict:
    """Return the verdict on an operator by itself, without the operators around it."""
    tensors = [*operator.activations, *operator.outputs]
    rule = RULES.get(operator.op)
    if rule and (not operator.outputs or operator.input(0) is None):
        return _cpu(UNSUPPORTED, "no log: the operator has no input or no output")
    if any(size != 1 for tensor in tensors for size in tensor.shape[:-3]):
        return _cpu(RANK, f"{DOCUMENT}; {_ISSUE}30, #708", "on tensors of more than 3 dimensions")
    if other := _first_unquantized(operator.outputs):
        logs = "logs of EfficientDet-Lite (CUSTOM, DEQUANTIZE) and float models"
        source = f"{DOCUMENT}; {logs}, {_ISSUE}438"
        return _unsupported_type(operator, other, source)
    if rule is None:
        source = f"{DOCUMENT}; logs of LEAKY_RELU, GATHER"
        return _cpu(UNSUPPORTED, source, advice=ALTERNATIVES.get(operator.op, ""))
    if other := _first_unquantized(operator.activations, variables=False):
        if operator.op == "QUANTIZE" and other.type not in ("INT8", "UINT8"):
            source = "log: mnist4, float input (edgetpu_compiler 15)"
            return _cpu(LIMIT, source, f"of {other.type.lower()}", _CONVERT_FULLY)
        return _unsupported_type(operator, other, DOCUMENT)
    for check in rule.checks:
        if verdict := check(operator):
            return verdict
    return Verdict("tpu", MAPPED, rule.source)


def _cpu(status: str, source: str = DOCUMENT, limit: str = "", advice: str = "") -> Verdict:
    return Verdict("cpu", status, source, limit, advice)


def _unknown(source: str, limit: str, advice: str = "") -> Verdict:
    return Verdict("unknown", LIMIT, source, limit, advice)


def _unsupported_type(operator: Operator, tensor: Tensor, source: str) -> Verdict:
    limit, advice = f"in {tensor.type.lower()}", ALTERNATIVES.get(operator.op, "")
    return _cpu(TYPE, source, limit, advice)


def _is_quantized(tensor: Tensor) -> bool:
    return tensor.type in ("INT8", "UINT8") and tensor.scales.size > 0


def _first_unquantized(tensors: Iterable[Tensor], variables: bool = True) -> Tensor | None:
    unquantized = (t for t in tensors if not _is_quantized(t) and (variables or not t.variable))
    return next(unquantized, None)


# ------------------------------------------------------------------------------------- advice

_RELU6 = "Use ReLU6, or sigmoid or softmax as the last activation."
_AFTER_INFERENCE = "Compute it from the outputs after inference."
_CONVERT_FULLY = (
    "Convert the whole model to int8, with calibration images and uint8 input and output."
)
_SMALLER = "Use smaller tensors."
_WITHOUT_SE = (
    "Use a model without squeeze-and-excite (mobilenet_v3_minimalistic, efficientnet_lite0)."
)

ALTERNATIVES = {
    "ARG_MAX": _AFTER_INFERENCE,
    "CONV_2D": "Use DepthwiseConv2D or SeparableConv2D instead of a grouped convolution.",
    "ELU": _RELU6,
    "EXP": "Use ReLU6 instead of selu, softplus or mish.",
    "FULLY_CONNECTED": "Quantize the activations as well, with calibration images.",
    "GELU": _RELU6,
    "HARD_SWISH": (
        "Use ReLU6, or a model without hard-swish (mobilenet_v3_minimalistic, efficientnet_lite0)."
    ),
    "LEAKY_RELU": _RELU6,
    "NON_MAX_SUPPRESSION_V4": _AFTER_INFERENCE,
    "NON_MAX_SUPPRESSION_V5": _AFTER_INFERENCE,
    "TILE": 'Use UpSampling2D(interpolation="bilinear").',
    "TOPK_V2": _AFTER_INFERENCE,
    "TRANSPOSE_CONV": (
        'Use UpSampling2D(interpolation="bilinear") and a convolution instead of Conv2DTranspose '
        "with a ReLU."
    ),
}
"""Replacements for operators that are unsupported, or rejected because their version is too new."""


# ------------------------------------------------------------------------------------- limits


def _reject_if(violates: Callable[[Operator], bool], verdict: Verdict) -> Check:
    """Return a check that has the same verdict on all operators that violate a limit."""
    return lambda operator: verdict if violates(operator) else None


_reject_activation = _reject_if(
    lambda operator: operator.fused_activation != "NONE",
    _cpu(LIMIT, limit="with a fused activation", advice="Put the activation before this layer."),
)


def is_grouped(operator: Operator) -> bool:
    """Whether a CONV_2D has groups."""
    image, weights = operator.input(0), operator.input(1)
    if image is None or weights is None or not len(image.shape) == len(weights.shape) == 4:
        return False
    return image.shape[3] != weights.shape[3]


_reject_groups = _reject_if(
    is_grouped,
    _cpu(LIMIT, "TensorFlow Lite's conv.cc", "with groups", ALTERNATIVES["CONV_2D"]),
)


def _reject_computed_weights(operator: Operator) -> Verdict | None:
    """Reject a filter or bias that is computed, and a filter that is not in 8 bits."""
    if any(tensor is not None and tensor.data is None for tensor in operator.inputs[1:3]):
        source = f"{DOCUMENT}; {_ISSUE}25 (edgetpu_compiler 2.0)"
        return _cpu(NOT_CONSTANT, source, "with computed weights")
    weights = operator.input(1)
    if weights is not None and _is_quantized(weights):
        return None
    return _cpu(TYPE, limit="with unquantized weights", advice=_CONVERT_FULLY)


_reject_unequal_dilation = _reject_if(
    lambda operator: operator.option("dilationWFactor", 1) != operator.option("dilationHFactor", 1),
    _cpu(
        LIMIT,
        limit="with different dilation rates in height and width",
        advice="Use the same dilation rate for both.",
    ),
)


def _reject_rows(operator: Operator) -> Verdict | None:
    if math.prod(operator.outputs[0].shape[:-1]) == 1:
        return None
    advice = {
        "FULLY_CONNECTED": "Use a 1x1 convolution, or Flatten before the Dense layer.",
        "SOFTMAX": _AFTER_INFERENCE,
    }
    source = f"{DOCUMENT}; {_ISSUE}27"
    return _cpu(LIMIT, source, "on more than one row", advice.get(operator.op, ""))


_reject_weights_format = _reject_if(
    lambda operator: operator.option("weightsFormat") != 0,
    _cpu(LIMIT, limit="with shuffled weights"),
)
_reject_many_classes = _reject_if(
    lambda operator: operator.outputs[0].size > 16_000,
    _cpu(LIMIT, limit="of more than 16,000 elements", advice=_AFTER_INFERENCE),
)


def _reject_constant(operator: Operator) -> Verdict | None:
    """Reject constants, except zero padding: one of two inputs, all zeros."""
    constants = [
        tensor for tensor in operator.inputs if tensor is not None and tensor.data is not None
    ]
    if not constants:
        return None
    first = constants[0]
    zero_point = int(first.zero_points[0]) % 256 if first.zero_points.size else 0
    if (
        len(operator.inputs) == 2
        and len(constants) == 1
        and first.data is not None
        and np.all(first.data == zero_point)
    ):
        return None
    return _cpu(LIMIT, limit="with a constant other than zero padding")


def _reject_batch_reduction(operator: Operator) -> Verdict | None:
    """Reject computed axes, the batch axis, and a mean of channels that are no multiple of 4."""
    image, axes = operator.input(0), operator.input(1)
    if image is None or axes is None or not axes.integers:
        return _cpu(NOT_CONSTANT, limit="with computed axes")
    rank = len(image.shape)
    reduced = {axis % rank for axis in axes.integers} if rank else {0}
    # A batch of 1 that is reduced with all other axes is still the batch.
    if 0 in reduced:
        return _cpu(LIMIT, limit="over the batch axis")
    if operator.op == "MEAN" and rank - 1 in reduced and image.shape[-1] % 4:
        return _cpu(LIMIT, limit="over channels whose number is not a multiple of 4")
    return None


def _doubt_large_mean(operator: Operator) -> Verdict | None:
    """Doubt means of more than 64x128 elements, seen mapped; reject 256x128, seen unmapped."""
    if not operator.activations:
        return None
    averaged = operator.activations[0].size // max(operator.outputs[0].size, 1)
    return _limit_size(averaged, f"of {averaged:,} elements", 8_192, 32_768, f"{_ISSUE}461")


_reject_batch_packing = _reject_if(
    lambda operator: operator.option("axis") in (0, -len(operator.outputs[0].shape)),
    _cpu(LIMIT, limit="along the batch axis"),
)


def _reject_batch_split(operator: Operator) -> Verdict | None:
    axis = operator.input(0)
    if axis is None or not axis.integers:
        return _cpu(NOT_CONSTANT, limit="with a computed axis")
    if axis.integers[0] not in (0, -len(operator.outputs[0].shape)):
        return None
    return _cpu(LIMIT, limit="along the batch axis")


def _reject_batch_padding(operator: Operator) -> Verdict | None:
    paddings = operator.input(1)
    if paddings is None or not paddings.integers:
        return _cpu(NOT_CONSTANT, limit="with computed paddings")
    return _cpu(LIMIT, limit="of the batch axis") if any(paddings.integers[:2]) else None


def _reject_alpha_per_pixel(operator: Operator) -> Verdict | None:
    alpha = operator.input(1)
    if alpha is None or alpha.data is None:
        return _cpu(NOT_CONSTANT, limit="with a computed alpha")
    if math.prod(alpha.shape[:-1]) == 1:
        return None
    return _cpu(LIMIT, limit="with an alpha per pixel", advice="Use shared_axes=[1, 2].")


def _reject_strides(operator: Operator) -> Verdict | None:
    strides = operator.input(3)
    if strides is None or any(stride != 1 for stride in strides.integers):
        source = f"{DOCUMENT}; log of yolov5s (edgetpu_compiler 15)"
        return _cpu(STRIDES, source, "with strides other than 1")
    if operator.option("ellipsisMask") or operator.option("newAxisMask"):
        return _cpu(LIMIT, limit="with an ellipsis or a new axis")
    return None


def _doubt_broadcasting(operator: Operator) -> Verdict | None:
    """Doubt broadcasting of one computed tensor over another, as in squeeze-and-excite."""
    without_leading_ones = {
        tuple(dropwhile(lambda size: size == 1, tensor.shape)) for tensor in operator.activations
    }
    if len(without_leading_ones) < 2:
        return None
    source = (
        "no log; the document names no limit, but squeeze-and-excite is reported to be unmapped"
    )
    limit = "of tensors of different shapes (as in squeeze-and-excite)"
    return _unknown(source, limit, _WITHOUT_SE)


def _reject_imprecise_resize(operator: Operator) -> Verdict | None:
    """Reject bilinear interpolation that would lose precision."""
    image = operator.input(0)
    before, after = image.shape if image else (), operator.outputs[0].shape
    if len(before) != 4 or len(after) != 4:
        return _cpu(LIMIT, limit="of tensors that are not images")
    if any(old == 1 < new for old, new in zip(before[1:3], after[1:3], strict=True)):
        source = f"{DOCUMENT}; pair: deeplabv3_mnv2_dm05_pascal_quant"
        return _cpu(LIMIT, source, "from a size of 1")
    if any(new > 8 * old for old, new in zip(before[1:3], after[1:3], strict=True)):
        return _unknown(f"{DOCUMENT} (depends on sizes)", "by a factor above 8")
    return None


def _limit_size(
    size: int, limit: str, mapped: int, unmapped: int | None, source: str
) -> Verdict | None:
    """Return a verdict by a number of elements.

    Args:
        size: the number.
        limit: its description, for the verdict.
        mapped: the largest size seen mapped.
        unmapped: the smallest size seen unmapped, None if no log shows one.
        source: source of both sizes.
    """
    if size <= mapped:
        return None
    if unmapped is None or size < unmapped:
        return _unknown(source, limit, _SMALLER)
    return _cpu(LIMIT, source, limit, _SMALLER)


def _limit_output(mapped: int, unmapped: int | None, source: str) -> Check:
    """Return a check of the number of output elements; arguments as in ``_limit_size``."""

    def check(operator: Operator) -> Verdict | None:
        size = max(tensor.size for tensor in operator.outputs)
        return _limit_size(size, f"with {size:,} output elements", mapped, unmapped, source)

    return check


_doubt_large_resize = _limit_output(524_288, 8_388_608, f"{_ISSUE}31")
_doubt_large_transpose = _limit_output(65_536, None, f"{_ISSUE}439, logs of yolov5s")
_doubt_large_deconvolution = _limit_output(1_048_576, None, f"{_ISSUE}684, #686")
# A quarter of the chip's 8 MiB, which also holds the input.
_doubt_large_copy = _limit_output(
    2_097_152, None, f"{DOCUMENT} (large reshapes might not be mapped); no log names a size"
)


# -------------------------------------------------------------------------------------- table

_CLASSIFIER = "pair: mobilenet_v1_0.25_128_quant"
_TRACKER = "pair: bright_16x16"
_LOOMING = "pair: looming_64x64_3x3"
_DENSE = "pair: dense_256"
_SPLIT = "pair: split_concat"
_POSENET = "pair: posenet_mobilenet_v1_075_353_481_16_quant_decoder"
_DEEPLAB = "pair: deeplab_mobilenet_edgetpu_slim_cityscapes_quant of google-coral/test_data"
_LSTM = "pair: keras_lstm_mnist_ptq"
_RESNET = "log: ResNet-18 (edgetpu_compiler 16)"
_YOLO = "log: yolov5s (edgetpu_compiler 16)"
_DETECTOR = "log: EfficientDet-Lite (edgetpu_compiler 16)"
_ATTENTION = "log: yolo9 with attention (edgetpu_compiler 16)"

_CONVOLUTION = (_reject_computed_weights, _reject_unequal_dilation)

RULES: dict[str, Rule] = {
    "ADD": Rule(_LOOMING, (_doubt_broadcasting,)),
    "AVERAGE_POOL_2D": Rule(_CLASSIFIER, (_reject_activation,)),
    "CONCATENATION": Rule(_SPLIT, (_reject_activation, _reject_constant, _doubt_large_copy)),
    "CONV_2D": Rule(_CLASSIFIER, (_reject_groups, *_CONVOLUTION)),
    "DEPTHWISE_CONV_2D": Rule(_CLASSIFIER, _CONVOLUTION),
    "EXPAND_DIMS": Rule(DOCUMENT),
    "FULLY_CONNECTED": Rule(
        _DENSE, (_reject_computed_weights, _reject_weights_format, _reject_rows)
    ),
    "L2_NORMALIZATION": Rule(DOCUMENT),
    "LOGISTIC": Rule(_DETECTOR, (_doubt_large_copy,)),
    "LSTM": Rule(DOCUMENT),
    "MAXIMUM": Rule(_ATTENTION, (_doubt_broadcasting,)),
    "MAX_POOL_2D": Rule(_DETECTOR, (_reject_activation,)),
    "MEAN": Rule(_RESNET, (_reject_batch_reduction, _doubt_large_mean)),
    "MINIMUM": Rule(_ATTENTION, (_doubt_broadcasting,)),
    "MUL": Rule(_LOOMING, (_doubt_broadcasting,)),
    "PACK": Rule(DOCUMENT, (_reject_batch_packing,)),
    "PAD": Rule(_POSENET, (_reject_batch_padding,)),
    "PRELU": Rule(DOCUMENT, (_reject_alpha_per_pixel,)),
    "QUANTIZE": Rule(_DENSE),
    "REDUCE_MAX": Rule(DOCUMENT, (_reject_batch_reduction,)),
    "REDUCE_MIN": Rule(DOCUMENT, (_reject_batch_reduction,)),
    "RELU": Rule(DOCUMENT),
    "RELU6": Rule(DOCUMENT),
    "RELU_N1_TO_1": Rule(DOCUMENT),
    "RESHAPE": Rule(_TRACKER, (_doubt_large_copy,)),
    "RESIZE_BILINEAR": Rule(DOCUMENT, (_reject_imprecise_resize, _doubt_large_resize)),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_DETECTOR, (_doubt_large_resize,)),
    "RSQRT": Rule(DOCUMENT),
    "SLICE": Rule(DOCUMENT),
    "SOFTMAX": Rule(_TRACKER, (_reject_rows, _reject_many_classes)),
    "SPACE_TO_DEPTH": Rule(DOCUMENT),
    "SPLIT": Rule(_SPLIT, (_reject_batch_split,)),
    "SQUARED_DIFFERENCE": Rule(DOCUMENT, (_doubt_broadcasting,)),
    "SQUEEZE": Rule(DOCUMENT),
    "STRIDED_SLICE": Rule(_YOLO, (_reject_strides,)),
    "SUB": Rule(_YOLO, (_doubt_broadcasting,)),
    "SUM": Rule(DOCUMENT, (_reject_batch_reduction,)),
    "TANH": Rule(DOCUMENT),
    "TILE": Rule(_DEEPLAB),
    "TRANSPOSE": Rule(_YOLO, (_doubt_large_transpose,)),
    "TRANSPOSE_CONV": Rule(DOCUMENT, (_reject_activation, _doubt_large_deconvolution)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Rule(_LSTM),
}
"""The supported operators; all others run on the CPU."""
