"""Refusals of TensorFlow Lite of 2021, the interpreter inside ``edgetpu_compiler`` 16."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kerakit.deploy.edgetpu.limits import is_grouped
from kerakit.deploy.edgetpu.verdicts import ALTERNATIVES
from kerakit.tflite.graph import Graph, Kind, Operator

TABLE = (
    "table: newest versions that TensorFlow Lite of mid-2021 loads, measured with "
    "@tensorflow/tfjs-tflite 0.0.1-alpha.4"
)
_ISSUES = "google-coral/edgetpu"

# Measured 2026-11-22: each (operator, version 1 to 14) was loaded as an unused operator code.
_NEWEST: dict[int, str] = {
    1: "FLOOR HASHTABLE_LOOKUP L2_POOL_2D LOCAL_RESPONSE_NORMALIZATION LSH_PROJECTION "
    "RELU_N1_TO_1 RESHAPE SKIP_GRAM EMBEDDING_LOOKUP_SPARSE EXP CAST PRELU NEG SIN "
    "EXPAND_DIMS LOG SQRT SHAPE POW REDUCE_PROD LOGICAL_OR ONE_HOT LOGICAL_AND "
    "LOGICAL_NOT REDUCE_ANY SQUARE ZEROS_LIKE FLOOR_MOD RANGE UNIQUE CEIL ADD_N COS WHERE "
    "RANK ELU REVERSE_SEQUENCE MATRIX_DIAG MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE "
    "NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY "
    "SEGMENT_SUM CUMSUM CALL_ONCE RFFT2D CONV_3D IMAG REAL COMPLEX_ABS HASHTABLE "
    "HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL",
    2: "DEPTH_TO_SPACE L2_NORMALIZATION SPACE_TO_DEPTH DIV SQUEEZE TOPK_V2 LOG_SOFTMAX "
    "ARG_MAX LESS GREATER GREATER_EQUAL LESS_EQUAL SELECT TILE SUM RSQRT ARG_MIN "
    "FAKE_QUANT FLOOR_DIV LEAKY_RELU SQUARED_DIFFERENCE MIRROR_PAD SPLIT_V QUANTIZE",
    3: "AVERAGE_POOL_2D CONCATENATION EMBEDDING_LOOKUP LOGISTIC MAX_POOL_2D RELU RELU6 RNN "
    "SOFTMAX TANH UNIDIRECTIONAL_SEQUENCE_RNN BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND MEAN "
    "UNIDIRECTIONAL_SEQUENCE_LSTM BIDIRECTIONAL_SEQUENCE_RNN BIDIRECTIONAL_SEQUENCE_LSTM "
    "TRANSPOSE_CONV SPARSE_TO_DENSE EQUAL NOT_EQUAL REDUCE_MAX PACK REDUCE_MIN FILL "
    "REVERSE_V2 GATHER_ND BROADCAST_TO",
    4: "ADD DEQUANTIZE LSTM MUL RESIZE_BILINEAR SVDF PAD SPLIT MAXIMUM MINIMUM PADV2 UNPACK "
    "RESIZE_NEAREST_NEIGHBOR ABS BATCH_MATMUL",
    5: "CONV_2D GATHER TRANSPOSE SUB SLICE",
    6: "DEPTHWISE_CONV_2D STRIDED_SLICE",
    9: "FULLY_CONNECTED",
}
NEWEST = {op: version for version, ops in _NEWEST.items() for op in ops.split()}
"""Newest version that it loads, by operator."""
OLDEST = {"BROADCAST_TO": 2}
"""Oldest version that it loads, where that is not 1."""
LAST_CODE = 140
"""Code of the newest operator, REDUCE_ALL."""

_NEWER_TYPES = ("UINT16", "INT4", "BFLOAT16", "INT2", "UINT4")
_CUSTOM = (
    "TFLite_Detection_PostProcess",
    "PosenetDecoderOp",
    "Mfcc",
    "AudioSpectrogram",
    "NumericVerify",
)
"""Custom operators that it loads: those of BuiltinOpResolver, and the one of the pair posenet."""

COMPILED = "edgetpu-custom-op"
"""The custom operator of a compiled file; its code runs on the Edge TPU."""

# Inputs that set the shape of the output: if computed, the shape is dynamic.
_SHAPE_INPUTS = {
    "ARG_MAX": (1,), "ARG_MIN": (1,), "BATCH_TO_SPACE_ND": (1, 2), "BROADCAST_TO": (1,),
    "EXPAND_DIMS": (1,), "FILL": (0,), "MEAN": (1,), "MIRROR_PAD": (1,), "ONE_HOT": (1,),
    "PAD": (1,), "PADV2": (1,), "RANGE": (0, 1, 2), "REDUCE_ALL": (1,), "REDUCE_ANY": (1,),
    "REDUCE_MAX": (1,), "REDUCE_MIN": (1,), "REDUCE_PROD": (1,), "RESHAPE": (1,),
    "RESIZE_BILINEAR": (1,), "RESIZE_NEAREST_NEIGHBOR": (1,), "SLICE": (1, 2),
    "SPACE_TO_BATCH_ND": (1, 2), "SPARSE_TO_DENSE": (1,), "SPLIT": (0,), "SPLIT_V": (1, 2),
    "STRIDED_SLICE": (1, 2, 3), "SUM": (1,), "TILE": (1,), "TOPK_V2": (1,), "TRANSPOSE": (1,),
    "TRANSPOSE_CONV": (0,),
}  # fmt: skip
_DYNAMIC_OPERATORS = ("UNIQUE", "WHERE")


@dataclass(frozen=True)
class Refusal:
    """Reason why the compiler writes no file.

    Attributes:
        reason: message of the interpreter or the compiler.
        source: where the message was observed.
        advice: what to use instead, as a sentence; may be empty.
        op: the refused operator; "" if the reason is not its kind or version.
        version: version of the operator.
    """

    reason: str
    source: str
    advice: str = ""
    op: str = ""
    version: int = 0


DYNAMIC_SIZES = Refusal(
    "Attempting to use a delegate that only supports static-sized tensors with a graph that has "
    "dynamic-sized tensors.",
    f"log: {_ISSUES}#829, #831",
    "Convert with a batch size of 1 and a fixed input size.",
)


def find_refusals(graph: Graph) -> list[Refusal]:
    """Return all known reasons why the compiler writes no file, first the one it reports.

    Each reason is returned once, whichever number of operators it concerns.
    """
    refusals = [
        *map(_check_kind, graph.kinds),
        _check_schema(graph.schema_version),
        *map(_check_operator, graph.operators),
    ]
    return list(dict.fromkeys(filter(None, refusals)))


def _check_schema(version: int) -> Refusal | None:
    if version == 3:
        return None
    return Refusal(
        f"Model provided is schema version {version} not equal to supported version 3.",
        "TensorFlow Lite's interpreter_builder.cc",
    )


def _check_kind(kind: Kind) -> Refusal | None:
    """Each operator code of a file is resolved on loading, whether an operator uses it or not."""
    if kind.custom == COMPILED:
        return Refusal(
            f"The model is already compiled for the Edge TPU: it holds {COMPILED}.",
            "the file; no log shows the compiler's words",
            "Use the file that it was compiled from.",
        )
    advice = ALTERNATIVES.get(kind.op, "Use other layers, or an older converter.")
    if not 0 <= kind.code <= LAST_CODE:
        return Refusal(
            f"Op builtin_code out of range: {kind.code}. Are you using old TFLite binary with "
            "newer model?",
            f"log: {_ISSUES}#862; {TABLE}",
            advice,
            kind.op,
            kind.version,
        )
    if kind.op == "CUSTOM":
        if kind.custom:
            return None
        return Refusal("Operator with CUSTOM builtin_code has no custom_code.", "op_resolver.cc")
    if OLDEST.get(kind.op, 1) <= kind.version <= NEWEST.get(kind.op, 0):
        return None
    return Refusal(
        f"Didn't find op for builtin opcode '{kind.op}' version '{kind.version}'. An older version "
        "of this builtin might be supported. Are you using an old TFLite binary with a newer "
        "model?",
        f"log: {_ISSUES}#845, #631; {TABLE}",
        advice,
        kind.op,
        kind.version,
    )


def _check_operator(operator: Operator) -> Refusal | None:
    node = f"Node number {operator.index}"
    if operator.op == "CUSTOM" and operator.custom not in _CUSTOM:
        words = f"Encountered unresolved custom op: {operator.custom}."
        if operator.custom.startswith("Flex"):
            words = "Regular TensorFlow ops are not supported by this interpreter."
        return Refusal(
            f"{words} {node} ({operator.custom}) failed to prepare.",
            f"log: edgetpu_compiler 16, Atan; {_ISSUES}",
            "Use layers that convert to builtin operators of TensorFlow Lite.",
        )
    for tensor in operator.outputs + tuple(one for one in operator.inputs if one is not None):
        if tensor.type in _NEWER_TYPES or tensor.type.isdecimal():
            return Refusal(
                f"Unsupported data type {tensor.type} in tensor",
                "TensorFlow Lite's flatbuffer_conversions.cc",
            )
        if not all(size >= 0 for size in tensor.shape):
            return DYNAMIC_SIZES
        if not np.all(np.isfinite(tensor.scales)):
            return Refusal(
                "Internal compiler error. Aborting!",
                f"log: {_ISSUES}#350",
                "A quantization scale is infinite: fix the weights, or calibrate again.",
            )
    shape_inputs = _SHAPE_INPUTS.get(operator.op, ())
    if operator.op in _DYNAMIC_OPERATORS or any(_is_computed(operator, i) for i in shape_inputs):
        return DYNAMIC_SIZES
    if operator.op == "CONV_2D" and is_grouped(operator):
        return Refusal(
            f"{node} (CONV_2D) failed to prepare.",
            "TensorFlow Lite's conv.cc",
            ALTERNATIVES["CONV_2D"],
            operator.op,
            operator.version,
        )
    return None


def _is_computed(operator: Operator, index: int) -> bool:
    tensor = operator.input(index)
    return tensor is not None and tensor.data is None and tensor.size > 0
