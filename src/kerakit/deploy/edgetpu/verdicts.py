"""Verdicts on single operators: target, the compiler's status, source and advice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

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
ISSUE = "log: google-coral/edgetpu#"


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


def cpu(status: str, source: str = DOCUMENT, limit: str = "", advice: str = "") -> Verdict:
    """Return the verdict on an operator that is not mapped; arguments as in ``Verdict``."""
    return Verdict("cpu", status, source, limit, advice)


def unknown(source: str, limit: str, advice: str = "") -> Verdict:
    """Return the verdict on an operator that no source decides; arguments as in ``Verdict``."""
    return Verdict("unknown", LIMIT, source, limit, advice)


# ------------------------------------------------------------------------------------- advice

_RELU6 = "Use ReLU6, or sigmoid or softmax as the last activation."
AFTER_INFERENCE = "Compute it from the outputs after inference."
CONVERT_FULLY = (
    "Convert the whole model to int8, with calibration images and uint8 input and output."
)
SMALLER = "Use smaller tensors."

ALTERNATIVES = {
    "ARG_MAX": AFTER_INFERENCE,
    "CONV_2D": "Use DepthwiseConv2D or SeparableConv2D instead of a grouped convolution.",
    "ELU": _RELU6,
    "EXP": "Use ReLU6 instead of selu, softplus or mish.",
    "FULLY_CONNECTED": "Quantize the activations as well, with calibration images.",
    "GELU": _RELU6,
    "HARD_SWISH": (
        "Use ReLU6, or a model without hard-swish (mobilenet_v3_minimalistic, efficientnet_lite0)."
    ),
    "LEAKY_RELU": _RELU6,
    "NON_MAX_SUPPRESSION_V4": AFTER_INFERENCE,
    "NON_MAX_SUPPRESSION_V5": AFTER_INFERENCE,
    "TILE": 'Use UpSampling2D(interpolation="bilinear").',
    "TOPK_V2": AFTER_INFERENCE,
    "TRANSPOSE_CONV": (
        'Use UpSampling2D(interpolation="bilinear") and a convolution instead of Conv2DTranspose '
        "with a ReLU."
    ),
}
"""Replacements for operators that are unsupported, or rejected because their version is too new."""
