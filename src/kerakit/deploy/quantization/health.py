"""Numerical health of an int8 file: scales, biases, channels that do nothing, activations that are cut off.

Numbers that are not finite, not positive or out of range make a file useless, or the Edge TPU compiler fail with an "internal
error" (google-coral/edgetpu #350, #453). The rest are warnings: dead channels and cut activations cost accuracy or time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kerakit.console import redirect_native_output
from kerakit.errors import JobError
from kerakit.tflite.layers import Operator, TfliteFile, tensor_name

DEAD = 2.0**-10
"""Weights are dead that are this small beside the median channel of their layer.

In EfficientNet-Lite0 with ImageNet weights (2026-11-23) the scales of a layer were either within 2^6 of each other or, where
weight decay had left nothing, more than 2^17 apart.
"""
CUT = 0.1
"""A channel is cut off where more than this share of its values stands at the end of the range."""
MANY, CUT_OF_FEW = 100, 0.5
"""Of fewer values, as of a Dense layer, some may well stand there by chance: then it takes a larger share. Nor does it say much
there that one channel is the same for all images; that all channels are, does."""
AT_LIMIT, FEWEST = 0.5, 8
"""Weights are suspicious where more than this share of a channel, of at least so many, is -127 or 127."""
TOLERANCE = 1e-5
"""How far a bias's scale may be from the product that it should be, as a share; float32 gives 6e-8."""

_NAMED = 5
_INT32 = 2**31 - 1
_SMALLEST = np.finfo(np.float32).smallest_normal


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        level: an "error" makes the file unfit; a "warning" is to be known.
        layer: the Keras layer's name, or the operator's where no layer could be told.
        what: in words.
    """

    level: Literal["error", "warning"]
    layer: str
    what: str


def health(content: bytes, layers: Sequence[Any], images: NDArray[np.uint8]) -> list[Finding]:
    """Examine an int8 file: its numbers, and if these are sound what they do to some images.

    Args:
        content: a TensorFlow Lite file with uint8 (1, height, width, 3) in.
        layers: the Keras layers that it was made of, those of nested models too.
        images: uint8 (n, height, width, 3) that it was not calibrated on.

    Returns:
        What was found, in the order of the operators; empty for a healthy file.
    """
    file = TfliteFile(content, layers)
    found: list[Finding] = []
    # What follows needs numbers that are sound.
    for findings in (_scales(file), _weights(file), _activations(file, content, images)):
        if not any(one.level == "error" for one in found):
            found += findings
    return found


def layers_of(model: Any) -> list[Any]:
    """Return all layers of a ``keras.Model``, those of models inside it too."""
    found = []
    for layer in model.layers:
        found += [layer, *(layers_of(layer) if hasattr(layer, "layers") else [])]
    return found


def examine(path: Path, model: Any, images: NDArray[np.uint8]) -> list[dict[str, str]]:
    """Return the warnings about a new int8 file, for the report.

    Args:
        path: the file.
        model: the ``keras.Model`` that it was made of.
        images: as ``health`` takes them.

    Raises:
        JobError: it has numbers that no device can work with.
    """
    found = health(path.read_bytes(), layers_of(model), images)
    if errors := [f"{one.layer}: {one.what}" for one in found if one.level == "error"]:
        raise JobError(
            f"the numbers of the int8 model are not sound: {'; '.join(errors)}. Train it anew, or change these layers."
        )
    return [asdict(one) for one in found]


# ------------------------------------------------------------------------------------------------------------ the numbers


def _scales(file: TfliteFile) -> Iterator[Finding]:
    seen: set[int] = set()
    for operator in file.operators:
        for index in (*operator.inputs, *operator.outputs):
            if index < 0 or index in seen:
                continue
            seen.add(index)
            kind, scales = file.types[file.tensors[index].type], file.scales(index)
            if kind in ("INT8", "UINT8", "INT16") and not len(scales):
                yield Finding(
                    "error", operator.layer, f"{tensor_name(file.tensors[index])}: no scale"
                )
            wrong = ~np.isfinite(scales) | (scales < _SMALLEST)
            if wrong.any():
                worst = ", ".join(f"{scale:.3g}" for scale in scales[wrong][:_NAMED])
                yield Finding(
                    "error",
                    operator.layer,
                    f"{tensor_name(file.tensors[index])}: scales must be positive and finite, not {worst}",
                )


def _weights(file: TfliteFile) -> Iterator[Finding]:
    for operator in file.operators:
        if operator.weighted is None:
            continue
        into, weights, bias = operator.weighted
        if file.values(weights).dtype == np.float32:
            continue  # left in floats by the ladder
        scales, rows = file.scales(weights), file.channels(weights)
        if len(scales) not in (1, len(rows)):
            yield Finding("error", operator.layer, f"{len(scales)} scales for {len(rows)} channels")
            continue
        if bias >= 0:
            yield from _bias(file, operator.layer, bias, file.scales(into) * scales)
        if (dead := _dead(scales, rows)).any():
            yield Finding(
                "warning",
                operator.layer,
                f"dead: the weights of {_which(dead)} are zero, or nearly",
            )
        at_limit = np.mean(np.abs(rows.astype(np.int16)) >= 127, axis=1) > AT_LIMIT
        if rows.shape[1] >= FEWEST and at_limit.any():
            yield Finding(
                "warning",
                operator.layer,
                f"at their limit: most weights of {_which(at_limit)} are -127 or 127",
            )


def _bias(
    file: TfliteFile, layer: str, bias: int, expected: NDArray[np.float64]
) -> Iterator[Finding]:
    scales, values = file.scales(bias), file.values(bias).reshape(-1).astype(np.int64)
    if scales.shape != expected.shape or (np.abs(scales / expected - 1) > TOLERANCE).any():
        yield Finding(
            "error", layer, "the bias's scale is not that of the input times that of the weights"
        )
    if (limit := np.abs(values) >= _INT32).any():
        yield Finding("error", layer, f"the bias of {_which(limit)} is at the end of int32")


def _dead(scales: NDArray[np.float64], rows: NDArray[np.int8]) -> NDArray[np.bool_]:
    largest = np.abs(rows.astype(np.int16)).max(axis=1) * scales
    dead: NDArray[np.bool_] = (largest == 0) | (largest < DEAD * np.median(largest))
    return dead


# -------------------------------------------------------------------------------------------------------- what they do


def _activations(file: TfliteFile, content: bytes, images: NDArray[np.uint8]) -> Iterator[Finding]:
    """Run the file on ``images``, and look at what operators with weights, and sums of two layers, give."""
    watched = [
        one
        for one in file.operators
        if (one.weighted or one.kind in ("ADD", "SUB", "MUL"))
        and not any(file.is_constant(i) for i in one.inputs if not one.weighted)
        and file.types[file.tensors[one.outputs[0]].type] == "INT8"
    ]
    if not watched:
        return
    lowest, highest, cut = _observe(file, watched, content, images)
    for i, operator in enumerate(watched):
        still, cutting = lowest[i] == highest[i], cut[i] > CUT
        if len(images) * math.prod(file.tensors[operator.outputs[0]].shape[:-1]) < MANY:
            still[:], cutting = still.all(), cut[i] > CUT_OF_FEW
        if operator.weighted:
            still &= ~_dead(file.scales(operator.weighted[1]), file.channels(operator.weighted[1]))
        if still.any():
            yield Finding(
                "warning", operator.layer, f"the same for all {len(images)} images: {_which(still)}"
            )
        if cutting.any():
            yield Finding(
                "warning",
                operator.layer,
                f"cut off at the end of int8: {_which(cutting)}, up to {cut[i].max():.0%} of their values; the calibration "
                "images did not show this range",
            )


def _observe(
    file: TfliteFile, watched: list[Operator], content: bytes, images: NDArray[np.uint8]
) -> tuple[list[NDArray[Any]], list[NDArray[Any]], list[NDArray[Any]]]:
    """Return for each operator, by channel: the least value, the largest, and the share that is cut off."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with redirect_native_output():
        interpreter = Interpreter(
            model_content=content,
            num_threads=1,
            experimental_preserve_all_tensors=True,
            # XNNPACK keeps what is between its operators to itself.
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
    into = interpreter.get_input_details()[0]["index"]
    limits = [_limits(file, one) for one in watched]
    parts: list[tuple[list[Any], ...]] = [([], [], []) for _ in watched]
    for image in images:
        interpreter.set_tensor(into, image[None])
        interpreter.invoke()
        for part, one, (low, high) in zip(parts, watched, limits, strict=True):
            values = interpreter.get_tensor(one.outputs[0])
            values = values.reshape(-1, values.shape[-1])
            found = (
                values.min(0),
                values.max(0),
                np.mean((values <= low) | (values >= high), axis=0),
            )
            for collected, value in zip(part, found, strict=True):
                collected.append(value)
    lowest, highest, cut = zip(*parts, strict=True)
    return (
        [np.min(x, 0) for x in lowest],
        [np.max(x, 0) for x in highest],
        [np.mean(x, 0) for x in cut],
    )


def _limits(file: TfliteFile, operator: Operator) -> tuple[int, int]:
    """Return between which stored values nothing is cut off; a bound that the layer itself sets, as ReLU6's, is no cut."""
    quantization = file.tensors[operator.outputs[0]].quantization
    scale, zero = float(quantization.scale[0]), int(quantization.zeroPoint[0])
    low, high = {"RELU": (0.0, np.inf), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}.get(
        operator.activation, (-np.inf, np.inf)
    )
    cuts_low = (-128 - zero) * scale > low + scale / 2
    cuts_high = (127 - zero) * scale < high - scale / 2
    return (-128 if cuts_low else -129), (127 if cuts_high else 128)


def _which(channels: NDArray[np.bool_]) -> str:
    indices = np.flatnonzero(channels)
    listed = ", ".join(map(str, indices[:_NAMED])) + (", …" if len(indices) > _NAMED else "")
    return f"{len(indices)} of {len(channels)} channels ({listed})"
