"""Edge TPU facts: one rule per operator, each with its source.

The operators are those of the table for runtime 14 (compiler 16) in
coral.ai/docs/edgetpu/models-intro; their limits are in ``limits``. Where the table and a compiled
file disagree, the file is the source. Which operator versions the compiler loads at all is in
``loader``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kerakit.deploy.edgetpu.limits import (
    Check,
    doubt_flat,
    doubt_large_activation,
    doubt_large_copy,
    doubt_large_deconvolution,
    doubt_large_mean,
    doubt_large_softmax,
    doubt_outer_broadcasting,
    doubt_unaligned_concatenation,
    is_quantized,
    limit_computed_matrix,
    limit_flat,
    limit_interpolation,
    limit_reshape,
    limit_resize,
    limit_transpose,
    reject_activation,
    reject_alpha_per_pixel,
    reject_batch_packing,
    reject_batch_padding,
    reject_batch_reduction,
    reject_batch_split,
    reject_computed_weights,
    reject_constant,
    reject_groups,
    reject_strides,
    reject_unequal_dilation,
    reject_weights_format,
)
from kerakit.deploy.edgetpu.verdicts import (
    ALTERNATIVES,
    CONVERT_FULLY,
    DOCUMENT,
    ISSUE,
    LIMIT,
    MAPPED,
    RANK,
    TYPE,
    UNSUPPORTED,
    Verdict,
    cpu,
)
from kerakit.tflite.graph import Operator, Tensor


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
    """Return the verdict on an operator by itself, without the operators around it.

    One certain limit decides, whatever the other checks doubt.
    """
    if certain := _check_form(operator):
        return certain
    rule = RULES[operator.op]
    verdicts = [check(operator) for check in (*rule.checks, doubt_large_activation)]
    violated = [verdict for verdict in verdicts if verdict is not None]
    mapped = Verdict("tpu", MAPPED, rule.source)
    return min(violated, key=lambda verdict: verdict.target != "cpu", default=mapped)


def _check_form(operator: Operator) -> Verdict | None:
    """Return the verdict on an operator of an unsupported kind, rank or type."""
    tensors = [*operator.activations, *operator.outputs]
    rule = RULES.get(operator.op)
    if rule and (not operator.outputs or operator.input(0) is None):
        return cpu(UNSUPPORTED, "no log: the operator has no input or no output")
    if any(size != 1 for tensor in tensors for size in tensor.shape[:-3]):
        return cpu(RANK, f"{DOCUMENT}; {ISSUE}30, #708", "on tensors of more than 3 dimensions")
    if other := _first_unquantized(operator.outputs):
        logs = "logs of EfficientDet-Lite (CUSTOM, DEQUANTIZE) and float models"
        source = f"{DOCUMENT}; {logs}, {ISSUE}438"
        return _unsupported_type(operator, other, source)
    if rule is None:
        source = f"{DOCUMENT}; logs of LEAKY_RELU, GATHER"
        return cpu(UNSUPPORTED, source, advice=ALTERNATIVES.get(operator.op, ""))
    if other := _first_unquantized(operator.activations, variables=False):
        if operator.op == "QUANTIZE" and other.type not in ("INT8", "UINT8"):
            source = "log: mnist4, float input (edgetpu_compiler 15); pair: style_decoder"
            return cpu(LIMIT, source, f"of {other.type.lower()}", CONVERT_FULLY)
        return _unsupported_type(operator, other, DOCUMENT)
    return None


def _unsupported_type(operator: Operator, tensor: Tensor, source: str) -> Verdict:
    limit, advice = f"in {tensor.type.lower()}", ALTERNATIVES.get(operator.op, "")
    return cpu(TYPE, source, limit, advice)


def _first_unquantized(tensors: Iterable[Tensor], variables: bool = True) -> Tensor | None:
    unquantized = (t for t in tensors if not is_quantized(t) and (variables or not t.variable))
    return next(unquantized, None)


# -------------------------------------------------------------------------------------- table

_CLASSIFIER = "pair: mobilenet_v1_0.25_128_quant"
_TRACKER = "pair: bright_128x128"
_LOOMING = "pair: looming_64x64_3x3"
_DENSE = "pair: dense_256"
_FOREST = "pair: forest_7op"
_SPLIT = "pair: split_concat"
_POSENET = "pair: posenet_mobilenet_v1_075_353_481_16_quant_decoder"
_DEEPLAB = "pair: deeplab_mobilenet_edgetpu_slim_cityscapes_quant of google-coral/test_data"
_LSTM = "pair: keras_lstm_mnist_ptq"
_STYLE = "pair: style_decoder"
_YOLOV5 = "pair: yolov5n_sandhya"
_YOLOV8 = "pair: yolov8n_320"
_FACE = "pair: slim_face"
_RESNET = "log: ResNet-18 (edgetpu_compiler 16)"
_DETECTOR = "log: EfficientDet-Lite (edgetpu_compiler 16)"
_ATTENTION = "log: yolo9 with attention (edgetpu_compiler 16)"
_TRANSFORMER = "compiled file of a transformer of 49 tokens (edgetpu_compiler 16)"

_CONVOLUTION = (reject_computed_weights, reject_unequal_dilation)

RULES: dict[str, Rule] = {
    "ADD": Rule(_LOOMING, (doubt_outer_broadcasting,)),
    "AVERAGE_POOL_2D": Rule(_CLASSIFIER, (reject_activation,)),
    "CONCATENATION": Rule(
        _SPLIT,
        (
            reject_activation,
            reject_constant,
            limit_flat,
            doubt_unaligned_concatenation,
            doubt_large_copy,
        ),
    ),
    "CONV_2D": Rule(_CLASSIFIER, (reject_groups, *_CONVOLUTION)),
    "DEPTHWISE_CONV_2D": Rule(_CLASSIFIER, _CONVOLUTION),
    "EXPAND_DIMS": Rule(DOCUMENT, (doubt_flat,)),
    "FULLY_CONNECTED": Rule(_FOREST, (limit_computed_matrix, reject_weights_format)),
    "L2_NORMALIZATION": Rule(DOCUMENT),
    "LOGISTIC": Rule(_YOLOV8, (limit_flat, doubt_large_copy)),
    "LSTM": Rule(DOCUMENT),
    "MAXIMUM": Rule(_ATTENTION, (doubt_outer_broadcasting,)),
    "MAX_POOL_2D": Rule(_DETECTOR, (reject_activation,)),
    "MEAN": Rule(_RESNET, (reject_batch_reduction, doubt_large_mean)),
    "MINIMUM": Rule(_ATTENTION, (doubt_outer_broadcasting,)),
    "MUL": Rule(_YOLOV5, (doubt_outer_broadcasting,)),
    "PACK": Rule(_FOREST, (reject_batch_packing, doubt_flat)),
    "PAD": Rule(_POSENET, (reject_batch_padding,)),
    "PRELU": Rule(DOCUMENT, (reject_alpha_per_pixel,)),
    "QUANTIZE": Rule(_DENSE, (limit_flat,)),
    "REDUCE_MAX": Rule(DOCUMENT, (reject_batch_reduction,)),
    "REDUCE_MIN": Rule(DOCUMENT, (reject_batch_reduction,)),
    "RELU": Rule(DOCUMENT),
    "RELU6": Rule(DOCUMENT),
    "RELU_N1_TO_1": Rule(DOCUMENT),
    "RESHAPE": Rule(_FACE, (limit_reshape,)),
    "RESIZE_BILINEAR": Rule(_DEEPLAB, (limit_interpolation, limit_resize)),
    "RESIZE_NEAREST_NEIGHBOR": Rule(_STYLE, (limit_resize,)),
    "RSQRT": Rule(DOCUMENT),
    "SLICE": Rule(DOCUMENT, (doubt_flat,)),
    "SOFTMAX": Rule(_TRACKER, (doubt_large_softmax,)),
    "SPACE_TO_DEPTH": Rule(DOCUMENT),
    "SPLIT": Rule(_SPLIT, (reject_batch_split, doubt_flat)),
    "SQUARED_DIFFERENCE": Rule(_TRANSFORMER, (doubt_outer_broadcasting,)),
    "SQUEEZE": Rule(DOCUMENT, (doubt_flat,)),
    "STRIDED_SLICE": Rule(_YOLOV5, (reject_strides, limit_flat)),
    "SUB": Rule(_YOLOV8, (doubt_outer_broadcasting,)),
    "SUM": Rule(_TRANSFORMER, (reject_batch_reduction,)),
    "TANH": Rule(DOCUMENT, (doubt_flat,)),
    "TILE": Rule(_DEEPLAB),
    "TRANSPOSE": Rule(_YOLOV8, (limit_transpose,)),
    "TRANSPOSE_CONV": Rule(
        DOCUMENT, (reject_activation, reject_computed_weights, doubt_large_deconvolution)
    ),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Rule(_LSTM),
}
"""The supported operators; all others run on the CPU."""
