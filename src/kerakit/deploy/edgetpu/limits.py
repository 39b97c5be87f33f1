"""Limits of single operators on the Edge TPU, each with its source.

Some limits depend on sizes that no document names. They are bounded by the largest tensor seen
mapped and the smallest seen unmapped in files of the compiler; between the two the verdict is
"unknown". "pair: NAME" is such a file before and after the compiler.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from kerakit.deploy.edgetpu.verdicts import (
    AFTER_INFERENCE,
    ALTERNATIVES,
    CONVERT_FULLY,
    DOCUMENT,
    ISSUE,
    LIMIT,
    NOT_CONSTANT,
    SMALLER,
    STRIDES,
    TYPE,
    Verdict,
    cpu,
    unknown,
)
from kerakit.tflite.graph import Operator, Tensor

Check = Callable[[Operator], Verdict | None]
"""Returns the verdict if the operator violates a limit, else None."""

_MAP_RANK = 4
"""Number of dimensions of a feature map; axis 0 of fewer dimensions is not the batch."""


def is_quantized(tensor: Tensor) -> bool:
    """Whether a tensor is int8 or uint8 with quantization parameters."""
    return tensor.type in ("INT8", "UINT8") and tensor.scales.size > 0


def is_grouped(operator: Operator) -> bool:
    """Whether a CONV_2D has groups."""
    image, weights = operator.input(0), operator.input(1)
    if image is None or weights is None or not len(image.shape) == len(weights.shape) == 4:
        return False
    return image.shape[3] != weights.shape[3]


def _reject_if(violates: Callable[[Operator], bool], verdict: Verdict) -> Check:
    """Return a check that has the same verdict on all operators that violate a limit."""
    return lambda operator: verdict if violates(operator) else None


# ------------------------------------------------------------------------- options and parameters

reject_activation = _reject_if(
    lambda operator: operator.fused_activation != "NONE",
    cpu(LIMIT, limit="with a fused activation", advice="Put the activation before this layer."),
)

reject_groups = _reject_if(
    is_grouped,
    cpu(LIMIT, "TensorFlow Lite's conv.cc", "with groups", ALTERNATIVES["CONV_2D"]),
)

reject_weights_format = _reject_if(
    lambda operator: operator.option("weightsFormat") != 0,
    cpu(LIMIT, limit="with shuffled weights"),
)


def reject_computed_weights(operator: Operator) -> Verdict | None:
    """Reject a filter or bias that is computed, and a filter that is not in 8 bits."""
    weights = operator.input(1)
    bias = operator.input(3 if operator.op == "TRANSPOSE_CONV" else 2)
    if any(tensor is not None and tensor.data is None for tensor in (weights, bias)):
        source = f"{DOCUMENT}; {ISSUE}25 (edgetpu_compiler 2.0)"
        return cpu(NOT_CONSTANT, source, "with computed weights")
    return _reject_float_weights(weights)


def limit_computed_matrix(operator: Operator) -> Verdict | None:
    """Reject a computed bias. Either factor of a FULLY_CONNECTED may be computed."""
    weights, bias = operator.input(1), operator.input(2)
    source = "pair: forest_7op, without a bias"
    if bias is not None and bias.data is None:
        return cpu(NOT_CONSTANT, f"{DOCUMENT}; {source}", "with a computed bias")
    if weights is None or weights.data is not None:
        return _reject_float_weights(weights)
    return None if bias is None else unknown(source, "with computed weights and a bias")


def _reject_float_weights(weights: Tensor | None) -> Verdict | None:
    if weights is not None and is_quantized(weights):
        return None
    return cpu(TYPE, limit="with unquantized weights", advice=CONVERT_FULLY)


def reject_unequal_dilation(operator: Operator) -> Verdict | None:
    """Reject different dilation rates of a kernel that is wider than 1 in both directions."""
    weights = operator.input(1)
    kernel = weights.shape[1:3] if weights is not None and len(weights.shape) == _MAP_RANK else ()
    rates = (operator.option("dilationHFactor", 1), operator.option("dilationWFactor", 1))
    if rates[0] == rates[1] or 1 in kernel:
        return None
    return cpu(
        LIMIT,
        f"{DOCUMENT}; pair: tcn (a rate along an axis where the kernel is 1 does not count)",
        "with different dilation rates in height and width",
        "Use the same dilation rate for both.",
    )


def reject_constant(operator: Operator) -> Verdict | None:
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
    return cpu(LIMIT, limit="with a constant other than zero padding")


def reject_alpha_per_pixel(operator: Operator) -> Verdict | None:
    """Reject an alpha of PRELU that is computed or differs between pixels."""
    alpha = operator.input(1)
    if alpha is None or alpha.data is None:
        return cpu(NOT_CONSTANT, limit="with a computed alpha")
    if math.prod(alpha.shape[:-1]) == 1:
        return None
    return cpu(LIMIT, limit="with an alpha per pixel", advice="Use shared_axes=[1, 2].")


def reject_strides(operator: Operator) -> Verdict | None:
    """Reject a STRIDED_SLICE with strides, an ellipsis or a new axis."""
    strides = operator.input(3)
    if strides is None or any(stride != 1 for stride in strides.integers):
        source = f"{DOCUMENT}; log of yolov5s (edgetpu_compiler 15)"
        return cpu(STRIDES, source, "with strides other than 1")
    if operator.option("ellipsisMask") or operator.option("newAxisMask"):
        return cpu(LIMIT, limit="with an ellipsis or a new axis")
    return None


# ------------------------------------------------------------------------------------- batch axis


def reject_batch_reduction(operator: Operator) -> Verdict | None:
    """Reject computed axes, the batch axis, and a mean of channels that are no multiple of 4."""
    image, axes = operator.input(0), operator.input(1)
    if image is None or axes is None or not axes.integers:
        return cpu(NOT_CONSTANT, limit="with computed axes")
    rank = len(image.shape)
    reduced = {axis % rank for axis in axes.integers} if rank else {0}
    # A batch of 1 that is reduced with all other axes is still the batch.
    if 0 in reduced and rank >= _MAP_RANK:
        return cpu(LIMIT, limit="over the batch axis")
    if operator.op == "MEAN" and rank - 1 in reduced and image.shape[-1] % 4:
        return cpu(LIMIT, limit="over channels whose number is not a multiple of 4")
    return None


def reject_batch_packing(operator: Operator) -> Verdict | None:
    """Reject a PACK along the batch axis."""
    rank = len(operator.outputs[0].shape)
    if operator.option("axis") not in (0, -rank) or rank < _MAP_RANK:
        return None
    return cpu(LIMIT, limit="along the batch axis")


def reject_batch_split(operator: Operator) -> Verdict | None:
    """Reject a SPLIT of axis 0 into several tensors, of any rank; one output is a copy."""
    axis = operator.input(0)
    if axis is None or not axis.integers:
        return cpu(NOT_CONSTANT, limit="with a computed axis")
    if axis.integers[0] not in (0, -len(operator.outputs[0].shape)) or len(operator.outputs) == 1:
        return None
    return cpu(LIMIT, limit="along the batch axis")


def reject_batch_padding(operator: Operator) -> Verdict | None:
    """Reject computed paddings and the padding of the batch axis."""
    image, paddings = operator.input(0), operator.input(1)
    if image is None or paddings is None or not paddings.integers:
        return cpu(NOT_CONSTANT, limit="with computed paddings")
    if not any(paddings.integers[:2]) or len(image.shape) < _MAP_RANK:
        return None
    return cpu(LIMIT, limit="of the batch axis")


# ------------------------------------------------------------------------------------------ sizes


def _limit_size(
    size: int, limit: str, mapped: int, unmapped: int | None, source: str
) -> Verdict | None:
    """Return a verdict by a number of elements.

    Args:
        size: the number.
        limit: its description, for the verdict.
        mapped: the largest size seen mapped.
        unmapped: the smallest size seen unmapped, None if no file shows one.
        source: source of both sizes.
    """
    if size <= mapped:
        return None
    if unmapped is None or size < unmapped:
        return unknown(source, limit, SMALLER)
    return cpu(LIMIT, source, limit, SMALLER)


def _largest(tensors: Sequence[Tensor]) -> int:
    return max((tensor.size for tensor in tensors), default=0)


def _limit_output(mapped: int, unmapped: int | None, source: str) -> Check:
    """Return a check of the number of output elements; arguments as in ``_limit_size``."""

    def check(operator: Operator) -> Verdict | None:
        size = _largest(operator.outputs)
        return _limit_size(size, f"with {size:,} output elements", mapped, unmapped, source)

    return check


def is_flat(tensor: Tensor) -> bool:
    """Whether all dimensions but the last two are 1, as in (1, boxes, classes).

    The chip divides feature maps by rows of pixels, and this is one row.
    """
    return all(size == 1 for size in tensor.shape[:-2])


_FLAT_MAPPED, _FLAT_UNMAPPED = 176_400, 230_400
_FLAT_SOURCE = "pairs: yolov8n_320 (176,400 elements mapped, 230,400 not), yolov5n_sandhya"


def _limit_flat(unmapped: int | None, source: str = _FLAT_SOURCE) -> Check:
    """Return a check of inputs and outputs that are flat; arguments as in ``_limit_size``."""

    def check(operator: Operator) -> Verdict | None:
        size = _largest([*filter(is_flat, (*operator.activations, *operator.outputs))])
        limit = f"of {size:,} elements in one row (shape 1, ..., 1, n, m)"
        return _limit_size(size, limit, _FLAT_MAPPED, unmapped, source)

    return check


limit_flat = _limit_flat(_FLAT_UNMAPPED)
doubt_flat = _limit_flat(None, f"{_FLAT_SOURCE}, of other operators that copy")

limit_resize = _limit_output(
    2_097_152, 4_194_304, f"{DOCUMENT} (depends on sizes); pair: style_decoder; {ISSUE}31"
)
doubt_large_deconvolution = _limit_output(1_048_576, None, f"{ISSUE}684, #686")
# A quarter of the chip's 8 MiB, which also holds the input.
doubt_large_copy = _limit_output(
    2_097_152, None, f"{DOCUMENT} (large reshapes might not be mapped); no log names a size"
)
doubt_large_softmax = _reject_if(
    lambda operator: max(operator.outputs[0].shape[-1:], default=0) > 16_384,
    unknown(
        "pair: bright_128x128 (16,384 elements mapped); the document's limit of 16,000 is not "
        "the compiler's",
        "of more than 16,384 elements",
        AFTER_INFERENCE,
    ),
)
doubt_large_activation = _limit_output(
    11_107_248,
    None,
    f"{ISSUE}60 (U-Net of 512x512 pixels: 64 filters fail, 32 compile), #439, #449; largest seen "
    "mapped: posenet_mobilenet_v1_075_721_1281",
)
"""Applies to every operator: the compiler fails on large activations, without naming them."""


def doubt_unaligned_concatenation(operator: Operator) -> Verdict | None:
    """Doubt a large concatenation whose channels are no multiple of 4, which moves all values."""
    output = operator.outputs[0]
    if is_flat(output) or output.shape[-1] % 4 == 0:
        return None
    source = f"pair: yolov5n_sandhya (408,000 elements mapped); {ISSUE}309 (60x152x90 fails)"
    limit = f"with {output.size:,} elements and {output.shape[-1]} channels, no multiple of 4"
    return _limit_size(output.size, limit, 408_000, None, source)


def limit_reshape(operator: Operator) -> Verdict | None:
    """Reject large reshapes. One that only adds or removes sizes of 1 moves nothing: doubt it."""
    output = operator.outputs[0]
    if is_flat(output):
        limit = f"to {output.size:,} elements in one row (shape 1, ..., 1, n, m)"
        verdict = _limit_size(output.size, limit, _FLAT_MAPPED, _FLAT_UNMAPPED, _FLAT_SOURCE)
    else:
        source = f"{DOCUMENT}; pair: yolov5n_sandhya (408,000 elements mapped, 1,632,000 not)"
        limit = f"to {output.size:,} elements"
        verdict = _limit_size(output.size, limit, 408_000, 1_632_000, source)
    shapes = {_without_ones(tensor) for tensor in (operator.inputs[0], output)}
    return _doubt_if(len(shapes) == 1, verdict)


def limit_transpose(operator: Operator) -> Verdict | None:
    """Reject large transpositions. One that only moves axes of size 1 moves nothing: doubt it."""
    image, axes = operator.input(0), operator.input(1)
    if image is None or axes is None or not axes.integers:
        return cpu(NOT_CONSTANT, limit="with computed axes")
    source = "pairs: yolov8n of 176 pixels ([1, 22, 22, 144]: 69,696 mapped), 224 (112,896 not)"
    limit = f"of {image.size:,} elements"
    wide = [i for i in axes.integers if 0 <= i < len(image.shape) and image.shape[i] > 1]
    verdict = _limit_size(image.size, limit, 69_696, 112_896, source)
    return _doubt_if(wide == sorted(wide), verdict)


def _doubt_if(moves_nothing: bool, verdict: Verdict | None) -> Verdict | None:
    if verdict is None or not moves_nothing:
        return verdict
    return unknown(verdict.source, f"{verdict.limit} that moves nothing", verdict.advice)


def _without_ones(tensor: Tensor | None) -> tuple[int, ...]:
    return tuple(size for size in (tensor.shape if tensor else ()) if size != 1)


def doubt_large_mean(operator: Operator) -> Verdict | None:
    """Doubt means of more than 64x128 elements, seen mapped; reject 256x128, seen unmapped."""
    if not operator.activations:
        return None
    averaged = operator.activations[0].size // max(operator.outputs[0].size, 1)
    return _limit_size(averaged, f"of {averaged:,} elements", 8_192, 32_768, f"{ISSUE}461, #183")


def doubt_outer_broadcasting(operator: Operator) -> Verdict | None:
    """Doubt operands that are both smaller than the output; one that is broadcast maps."""
    output = _without_leading_ones(operator.outputs[0])
    operands = [_without_leading_ones(one) for one in operator.inputs if one is not None]
    if not operands or output in operands:
        return None
    return unknown("no log, no compiled file", "of two operands that are both broadcast")


def _without_leading_ones(tensor: Tensor) -> tuple[int, ...]:
    first = next((i for i, size in enumerate(tensor.shape) if size != 1), len(tensor.shape))
    return tensor.shape[first:]


def limit_interpolation(operator: Operator) -> Verdict | None:
    """Reject bilinear interpolation that would lose precision."""
    image = operator.input(0)
    before, after = image.shape if image else (), operator.outputs[0].shape
    if len(before) != _MAP_RANK or len(after) != _MAP_RANK:
        return cpu(LIMIT, limit="of tensors that are not images")
    if any(old == 1 < new for old, new in zip(before[1:3], after[1:3], strict=True)):
        source = f"{DOCUMENT}; pair: deeplabv3_mnv2_dm05_pascal_quant"
        return cpu(LIMIT, source, "from a size of 1")
    if any(new > 8 * old for old, new in zip(before[1:3], after[1:3], strict=True)):
        advice = "Resize in steps of smaller factors."
        return unknown(f"{DOCUMENT} (depends on sizes)", "by a factor above 8", advice)
    return None
