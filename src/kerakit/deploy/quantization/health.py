"""Numerical health of an int8 file: quantization parameters, weights, activations.

Invalid quantization parameters make a file useless, or the Edge TPU compiler fail with an "internal
error" (google-coral/edgetpu #350, #453). What may cost accuracy, such as clipped activations, is a
warning. Dead channels of a layer that has others are a note: training left them without effect, in
the Keras model, too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import JobError, list_names
from kerakit.tflite.graph import Graph, Operator, Tensor, read_graph
from kerakit.tflite.layers import keras_layer_names
from kerakit.tflite.runtime import start_interpreter

if TYPE_CHECKING:
    import keras

DEAD = 2.0**-10
"""A channel is dead if its largest weight is below this fraction of its layer's median channel.

In EfficientNet-Lite0 with ImageNet weights (2026-11-23) the scales of a layer were either within
2^6 of each other or, after weight decay to nothing, more than 2^17 apart.
"""
CLIPPED = 0.1
"""A channel is clipped if more than this fraction of its values is at the end of the range."""
MANY, CLIPPED_OF_FEW = 100, 0.5
"""Below MANY values per channel, as after a Dense layer, some may be at the end by chance, and a
single channel constant: then a channel is clipped above CLIPPED_OF_FEW, and constant if all are."""
SATURATED, MIN_WEIGHTS = 0.5, 8
"""Weights are saturated if more than SATURATED of a channel's, at least MIN_WEIGHTS, are ±127."""
SCALE_TOLERANCE = 1e-5
"""Relative error of a bias scale against the product that it must be; float32 gives 6e-8."""

_Level = Literal["error", "warning", "note"]
_ADVICE = {
    "clipped": "use more calibration images (--num_calibration)",
    "constant": "the layer has no effect: lower the learning rate, train longer, or remove it",
    "dead channels": "the layer has no effect: lower the learning rate, train longer, or remove it",
    "saturated": "harmless if int8 passes the accuracy gate; if not, lower the learning rate or "
    "add weight decay",
}
"""Advice for warnings, by the text before the colon of a problem."""
_LISTED = 5
_INT32_MAX = 2**31 - 1
_SMALLEST_SCALE = np.finfo(np.float32).smallest_normal


@dataclass(frozen=True)
class Finding:
    """A numerical problem of one layer.

    Attributes:
        level: an "error" makes the file unusable; a "warning" may cost accuracy; a "note" needs no
            action.
        layer: name of the Keras layer; of the operator if none is found.
        problem: human-readable.
    """

    level: _Level
    layer: str
    problem: str


def examine(path: Path, model: keras.Model, images: NDArray[np.uint8]) -> list[dict[str, str]]:
    """Return the warnings and notes about an int8 file, for the report.

    Args:
        path: path of the file.
        model: the Keras model that it was made from.
        images: uint8 (n, height, width, 3), not those of the calibration.

    Raises:
        JobError: it has invalid quantization parameters.
    """
    findings = find_problems(path.read_bytes(), model, images)
    if errors := [f"{one.layer}: {one.problem}" for one in findings if one.level == "error"]:
        raise JobError(
            f"invalid quantization parameters in the int8 model: {'; '.join(errors)}. Train the "
            "model again, or change these layers."
        )
    return [asdict(one) for one in findings]


def summarize(findings: Sequence[Mapping[str, str]]) -> list[str]:
    """Return one line per kind of warning, with advice, and one for all notes.

    Args:
        findings: of ``examine``.

    >>> problem = "dead channels: the weights of 1 of 8 channels (3) are zero or negligible"
    >>> summarize([{"level": "note", "layer": "conv", "problem": problem}])
    ['dead channels in 1 layer: no action needed']
    """
    layers: dict[tuple[str, str], list[str]] = {}
    for one in findings:
        kind = one["problem"].partition(":")[0]
        names = layers.setdefault((one["level"], kind), [])
        if one["layer"] not in names:
            names.append(one["layer"])
    lines = [
        f"{kind} in {_layers(names)} ({list_names(names)}): {_ADVICE[kind]}"
        for (level, kind), names in layers.items()
        if level == "warning"
    ]
    notes = [
        f"{'dead channels' if kind == 'dead channels' else f'{kind} channels'} in {_layers(names)}"
        for (level, kind), names in layers.items()
        if level == "note"
    ]
    if notes:
        lines.append(f"{', '.join(notes)}: no action needed")
    return lines


def _layers(names: Sequence[str]) -> str:
    return f"{len(names)} layer{'s' * (len(names) != 1)}"


def find_problems(content: bytes, model: keras.Model, images: NDArray[np.uint8]) -> list[Finding]:
    """Examine the numbers of an int8 file and, if they are valid, its activations on ``images``.

    Args:
        content: a TensorFlow Lite file with input uint8 (1, height, width, 3).
        model: the Keras model that it was made from.
        images: uint8 (n, height, width, 3), not those of the calibration.

    Returns:
        Findings in the order of the operators; empty for a healthy file.
    """
    graph = read_graph(content)
    names = keras_layer_names(graph, model)
    findings: list[Finding] = []
    # Each check relies on the numbers that the one before it found valid.
    checks = (_scales(graph), _weights(graph), _activations(graph, content, images))
    for check in checks:
        if not any(one.level == "error" for one in findings):
            findings += [Finding(level, names[one.index], text) for level, one, text in check]
    return findings


_Problem = tuple[_Level, Operator, str]


# -------------------------------------------------------------------------------- quantization


def _scales(graph: Graph) -> Iterator[_Problem]:
    seen: set[Tensor] = set()
    for operator in graph.operators:
        for tensor in (*operator.inputs, *operator.outputs):
            if tensor is None or tensor in seen:
                continue
            seen.add(tensor)
            if tensor.type in ("INT8", "UINT8", "INT16") and not tensor.scales.size:
                yield "error", operator, f"{tensor.name}: no scale"
            invalid = ~np.isfinite(tensor.scales) | (tensor.scales < _SMALLEST_SCALE)
            if invalid.any():
                listed = ", ".join(f"{scale:.3g}" for scale in tensor.scales[invalid][:_LISTED])
                yield (
                    "error",
                    operator,
                    f"{tensor.name}: scales must be positive and finite, not {listed}",
                )


def _weights(graph: Graph) -> Iterator[_Problem]:
    for operator in graph.operators:
        # Some fallbacks leave layers in float32.
        if operator.weighted is None or operator.weighted.weights.type == "FLOAT32":
            continue
        image, weights, bias = operator.weighted
        channels = weights.channels
        if weights.scales.size not in (1, len(channels)):
            yield "error", operator, f"{weights.scales.size} scales for {len(channels)} channels"
            continue
        if bias is not None:
            product = image.scales.astype(np.float64) * weights.scales
            yield from _bias(operator, bias, product)
        if (dead := _dead(weights)).any():
            yield (
                "warning" if dead.all() else "note",
                operator,
                f"dead channels: the weights of {_listed(dead)} are zero or negligible",
            )
        saturated = np.mean(np.abs(channels.astype(np.int16)) >= 127, axis=1) > SATURATED
        if channels.shape[1] >= MIN_WEIGHTS and saturated.any():
            yield (
                "warning",
                operator,
                f"saturated: most weights of {_listed(saturated)} are -127 or 127",
            )


def _bias(operator: Operator, bias: Tensor, product: NDArray[np.float64]) -> Iterator[_Problem]:
    scales = bias.scales.astype(np.float64)
    if scales.shape != product.shape or (np.abs(scales / product - 1) > SCALE_TOLERANCE).any():
        yield "error", operator, "bias scale differs from input scale times weight scale"
    saturated = np.abs(bias.values.reshape(-1).astype(np.int64)) >= _INT32_MAX
    if saturated.any():
        yield (
            "error",
            operator,
            f"saturated: the bias of {_listed(saturated)} is at the int32 limit",
        )


def _dead(weights: Tensor) -> NDArray[np.bool_]:
    largest = np.abs(weights.channels.astype(np.int16)).max(axis=1) * weights.scales.astype(float)
    dead: NDArray[np.bool_] = (largest == 0) | (largest < DEAD * np.median(largest))
    return dead


# --------------------------------------------------------------------------------- activations


def _activations(graph: Graph, content: bytes, images: NDArray[np.uint8]) -> Iterator[_Problem]:
    """Run the file and examine outputs of weighted operators and of sums of two layers."""
    watched = [one for one in graph.operators if _is_watched(one)]
    observed = _observe(watched, content, images)
    for operator, (lowest, highest, at_end) in zip(watched, observed, strict=True):
        constant, clipped = lowest == highest, at_end > CLIPPED
        if len(images) * math.prod(operator.outputs[0].shape[:-1]) < MANY:
            constant[:], clipped = constant.all(), at_end > CLIPPED_OF_FEW
        if operator.weighted:
            constant &= ~_dead(operator.weighted.weights)
        if constant.any():
            yield (
                "warning" if constant.all() else "note",
                operator,
                f"constant: {_listed(constant)} have the same output for all {len(images)} images",
            )
        if clipped.any():
            yield (
                "warning",
                operator,
                f"clipped: up to {at_end.max():.0%} of the values of {_listed(clipped)} are at "
                "the int8 limit; the calibration images did not cover this range",
            )


def _is_watched(operator: Operator) -> bool:
    if not operator.outputs or operator.outputs[0].type != "INT8":
        return False
    if operator.weighted:
        return True
    computed = len(operator.activations) == len(operator.inputs)
    return operator.op in ("ADD", "SUB", "MUL") and computed


def _observe(
    watched: list[Operator], content: bytes, images: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yield per operator lowest value, highest value, fraction at the range's end, by channel."""
    from ai_edge_litert.interpreter import OpResolverType

    interpreter = start_interpreter(
        content,
        "the int8 model",
        experimental_preserve_all_tensors=True,
        # XNNPACK does not expose the tensors between its operators.
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )
    image_index = interpreter.get_input_details()[0]["index"]
    limits = [_clipping_limits(one) for one in watched]
    observed: list[list[tuple[Any, ...]]] = [[] for _ in watched]
    for image in images:
        interpreter.set_tensor(image_index, image[None])
        interpreter.invoke()
        for per_image, one, (low, high) in zip(observed, watched, limits, strict=True):
            values = interpreter.get_tensor(one.outputs[0].index)
            values = values.reshape(-1, values.shape[-1])
            at_end = np.mean((values <= low) | (values >= high), axis=0)
            per_image.append((values.min(0), values.max(0), at_end))
    for per_image in observed:
        lowest, highest, clipped = zip(*per_image, strict=True)
        yield np.min(lowest, 0), np.max(highest, 0), np.mean(clipped, 0)


def _clipping_limits(operator: Operator) -> tuple[int, int]:
    """Return the stored values at and beyond which an output is clipped.

    The bound of a fused activation, such as 6 of ReLU6, is none.
    """
    output = operator.outputs[0]
    scale, zero_point = float(output.scales[0]), int(output.zero_points[0])
    bounds = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}
    low, high = bounds.get(operator.fused_activation, (-np.inf, np.inf))
    clips_low = (-128 - zero_point) * scale > low + scale / 2
    clips_high = (127 - zero_point) * scale < high - scale / 2
    return (-128 if clips_low else -129), (127 if clips_high else 128)


def _listed(channels: NDArray[np.bool_]) -> str:
    indices = np.flatnonzero(channels)
    listed = ", ".join(map(str, indices[:_LISTED])) + (", …" if len(indices) > _LISTED else "")
    return f"{len(indices)} of {len(channels)} channels ({listed})"
