"""Limits of single operators: what Google's compiler was seen to map and not, one graph each.

Each row is an operator of a real model whose compiled file, or whose compiler log, is public.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from graphs import Net, Shape
from kerakit.deploy.edgetpu.forecast import Forecast, OperatorForecast, forecast, format_forecast
from kerakit.deploy.edgetpu.operators import RULES
from kerakit.deploy.edgetpu.verdicts import LIMIT, NOT_CONSTANT

Build = Callable[[Net], object]
"""Adds operators to a graph; the last one is the operator in question."""


def last(build: Build) -> OperatorForecast:
    net = Net()
    build(net)
    result = forecast(net.content())
    assert result.refused is None
    return result.operators[-1]


def unary(op: str, shape: Shape, *after: Shape) -> Build:
    """Return an operator on one tensor; its output has the same shape unless stated."""
    return lambda net: net.op(op, [net.tensor(shape)], *(after or (shape,)))


def binary(op: str, one: Shape, other: Shape, after: Shape) -> Build:
    return lambda net: net.op(op, [net.tensor(one), net.tensor(other)], after)


def with_integers(op: str, before: Shape, values: Shape, after: Shape) -> Build:
    """Return an operator whose second input is a constant: axes, paddings, a size or a shape."""
    return lambda net: net.op(op, [net.tensor(before), net.integers(*values)], after)


def resize(op: str, before: Shape, after: Shape) -> Build:
    return with_integers(op, before, after[1:3], after)


def reshape(before: Shape, after: Shape) -> Build:
    return with_integers("RESHAPE", before, after, after)


def transpose(before: Shape, axes: Shape) -> Build:
    return with_integers("TRANSPOSE", before, axes, tuple(before[axis] for axis in axes))


def concatenate(*shapes: Shape, after: Shape) -> Build:
    return lambda net: net.op("CONCATENATION", [net.tensor(one) for one in shapes], after)


def strided_slice(before: Shape, after: Shape) -> Build:
    def build(net: Net) -> object:
        rank = len(before)
        bounds = [net.integers(*values) for values in ([0] * rank, after, [1] * rank)]
        return net.op("STRIDED_SLICE", [net.tensor(before), *bounds], after)

    return build


def convolution(before: Shape, kernel: Shape, dilation: Shape) -> Build:
    def build(net: Net) -> object:
        channels = before[-1]
        weights = net.weights(channels, *kernel, channels)
        height, width = dilation
        return net.op(
            "CONV_2D",
            [net.tensor(before), weights, net.bias(channels)],
            before,
            dilationHFactor=height,
            dilationWFactor=width,
        )

    return build


def split(before: Shape, axis: int, count: int) -> Build:
    after = (*before[:axis], before[axis] // count, *before[axis + 1 :])
    return lambda net: net.op("SPLIT", [net.integers(axis), net.tensor(before)], *[after] * count)


def dense(before: Shape, weights: Shape, computed: bool = False, bias: str = "") -> Build:
    """Return a FULLY_CONNECTED; ``bias`` is "", "constant" or "computed"."""

    def build(net: Net) -> object:
        image = net.tensor(before)
        matrix = net.tensor(weights) if computed else net.weights(*weights)
        operands = [image, matrix]
        if bias == "constant":
            operands.append(net.bias(weights[0]))
        if bias == "computed":
            operands.append(net.tensor((weights[0],)))
        return net.op("FULLY_CONNECTED", operands, (*before[:-1], weights[0]))

    return build


def constant_times_computed(net: Net) -> None:
    net.op("FULLY_CONNECTED", [net.weights(2, 1), net.tensor((1000, 1))], (2, 1000))


def pack(shape: Shape, count: int, axis: int) -> Build:
    after = (*shape[:axis], count, *shape[axis:])
    return lambda net: net.op(
        "PACK", [net.tensor(shape) for _ in range(count)], after, axis=axis, valuesCount=count
    )


def reduce(op: str, before: Shape, axes: Shape, after: Shape) -> Build:
    return with_integers(op, before, axes, after)


NEAREST, BILINEAR = "RESIZE_NEAREST_NEIGHBOR", "RESIZE_BILINEAR"

MAPPED: dict[str, Build] = {
    "softmax of a map": unary("SOFTMAX", (1, 16_384)),
    "softmax of anchors": unary("SOFTMAX", (1, 4_420, 2)),
    "softmax of rows": unary("SOFTMAX", (1_076, 2)),
    "softmax of attention": unary("SOFTMAX", (1, 4, 49, 49)),
    "softmax of boxes": unary("SOFTMAX", (1, 4, 8_400, 16)),
    "nearest": resize(NEAREST, (1, 64, 64, 128), (1, 128, 128, 128)),
    "bilinear": resize(BILINEAR, (1, 128, 128, 32), (1, 256, 256, 32)),
    "bilinear of equal size": resize(BILINEAR, (1, 33, 33, 19), (1, 33, 33, 19)),
    "dilation 2": convolution((1, 118, 100, 8), (3, 1), (2, 1)),
    "dilation 4": convolution((1, 118, 100, 8), (3, 1), (4, 1)),
    "dilation of a row": convolution((1, 118, 100, 8), (1, 3), (1, 4)),
    "dilation of a square": convolution((1, 32, 32, 8), (3, 3), (2, 2)),
    "split of the batch into one": split((1, 8, 8, 4), 0, 1),
    "split of channels": split((1, 8, 8, 6), 3, 6),
    "dense on rows": dense((1, 49, 512), (128, 512), bias="constant"),
    "dense by computed weights": dense((2, 1), (1_000, 1), computed=True),
    "dense of constant rows": constant_times_computed,
    "pack of attention": pack((49, 49), 4, 0),
    "pack of a pair": pack((1, 1), 2, 0),
    "pack of channels": pack((1, 8, 8), 2, 3),
    "sum over axis 0": reduce("SUM", (32, 4, 256), (0,), (4, 256)),
    "mean over axis 0": reduce("MEAN", (32, 4, 256), (0,), (4, 256)),
    "transpose": transpose((1, 22, 22, 144), (0, 3, 1, 2)),
    "reshape to boxes": reshape((1, 64, 2_100), (1, 4, 16, 2_100)),
    "reshape to anchors": reshape((1, 40, 40, 255), (1, 1_600, 3, 85)),
    "reshape to a vector": reshape((1, 118, 100, 8), (1, 94_400)),
    "flat concatenation": concatenate((1, 4, 2_100), (1, 80, 2_100), after=(1, 84, 2_100)),
    "concatenation": concatenate((1, 1_600, 3, 2), (1, 1_600, 3, 83), after=(1, 1_600, 3, 85)),
    "concatenation of maps": concatenate((1, 80, 80, 96), (1, 80, 80, 96), after=(1, 80, 80, 192)),
    "flat slice": strided_slice((1, 4, 8_400), (1, 2, 8_400)),
    "flat sigmoid": unary("LOGISTIC", (1, 80, 2_100)),
    "flat quantize": unary("QUANTIZE", (1, 80, 2_100)),
    "sigmoid of a map": unary("LOGISTIC", (1, 320, 320, 16)),
    "multiplication of rows": binary("MUL", (1, 49, 1), (1, 49, 512), (1, 49, 512)),
    "squeeze-and-excite": binary("MUL", (1, 24, 24, 256), (1, 1, 1, 256), (1, 24, 24, 256)),
    "difference of rows": binary("SQUARED_DIFFERENCE", (1, 49, 512), (1, 49, 1), (1, 49, 512)),
    "channel padding": with_integers(
        "PAD", (1, 28, 28, 16), (0, 0, 0, 0, 0, 0, 0, 8), (1, 28, 28, 24)
    ),
    "a large map": convolution((1, 361, 641, 48), (1, 1), (1, 1)),
}

UNMAPPED: dict[str, Build] = {
    "nearest": resize(NEAREST, (1, 128, 128, 64), (1, 256, 256, 64)),
    "bilinear": resize(BILINEAR, (1, 128, 128, 64), (1, 256, 256, 64)),
    # A factor of 15.5 is doubtful, but the size is certain.
    "bilinear of a mask": resize(BILINEAR, (1, 33, 33, 19), (1, 513, 513, 19)),
    "bilinear from a size of 1": resize(BILINEAR, (1, 1, 1, 256), (1, 33, 33, 256)),
    "dilation of a square": convolution((1, 118, 100, 8), (3, 3), (2, 1)),
    "split along the batch": split((4, 49, 32), 0, 4),
    "split of a map along the batch": split((2, 8), 0, 2),
    "pack along the batch": pack((8, 8, 4), 1, 0),
    "sum over the batch": reduce("SUM", (1, 8, 8, 4), (0,), (8, 8, 4)),
    "mean over the batch": reduce("MEAN", (1, 8, 8, 4), (0, 1, 2), (4,)),
    "transpose": transpose((1, 28, 28, 144), (0, 3, 1, 2)),
    "reshape to boxes": reshape((1, 144, 40, 40), (1, 144, 1_600)),
    "reshape to rows of anchors": reshape((1, 1_600, 3, 85), (1, 4_800, 85)),
    "reshape to anchors": reshape((1, 80, 80, 255), (1, 6_400, 3, 85)),
    "flat concatenation": concatenate((1, 144, 1_600), (1, 144, 500), after=(1, 144, 2_100)),
    "flat slice": strided_slice((1, 144, 2_100), (1, 64, 2_100)),
    "flat sigmoid": unary("LOGISTIC", (1, 80, 8_400)),
    "flat quantize": unary("QUANTIZE", (1, 80, 8_400)),
}

UNKNOWN: dict[str, Build] = {
    "softmax of many classes": unary("SOFTMAX", (1, 16_385)),
    "nearest": resize(NEAREST, (1, 128, 128, 33), (1, 256, 256, 33)),
    "bilinear by a large factor": resize(BILINEAR, (1, 8, 8, 4), (1, 128, 128, 4)),
    "dense by computed weights and a bias": dense((2, 4), (8, 4), computed=True, bias="constant"),
    "transpose": transpose((1, 26, 26, 144), (0, 3, 1, 2)),
    "transpose that moves nothing": transpose((1, 1, 1_000, 500), (0, 2, 1, 3)),
    "reshape to boxes": reshape((1, 40, 40, 112), (1, 1_600, 112)),
    "reshape that moves nothing": reshape((1, 1, 4_800, 85), (1, 4_800, 85)),
    "reshape to anchors": reshape((1, 52, 52, 255), (1, 2_704, 3, 85)),
    "flat concatenation": concatenate((1, 90, 1_000), (1, 90, 1_000), after=(1, 180, 1_000)),
    "flat sigmoid": unary("LOGISTIC", (1, 80, 2_500)),
    "flat split": split((1, 180, 1_000), 1, 2),
    "both operands broadcast": binary("MUL", (1, 49, 1), (1, 1, 512), (1, 49, 512)),
    # The compiler failed without a reason (google-coral/edgetpu#309, #60).
    "concatenation of 90 channels": concatenate(
        (1, 60, 152, 45), (1, 60, 152, 45), after=(1, 60, 152, 90)
    ),
    "first layer of a U-Net": convolution((1, 512, 512, 64), (1, 1), (1, 1)),
    "addition in a U-Net": binary("ADD", (1, 512, 512, 64), (1, 512, 512, 64), (1, 512, 512, 64)),
}


@pytest.mark.parametrize("name", MAPPED)
def test_operators_that_the_compiler_maps(name: str) -> None:
    assert last(MAPPED[name]).target == "tpu"


@pytest.mark.parametrize("name", UNMAPPED)
def test_operators_that_the_compiler_leaves_on_the_cpu(name: str) -> None:
    one = last(UNMAPPED[name])
    assert (one.target, one.status) == ("cpu", LIMIT)
    assert one.by_itself.limit


@pytest.mark.parametrize("name", UNKNOWN)
def test_where_nothing_decides_the_verdict_is_unknown_with_its_source(name: str) -> None:
    one = last(UNKNOWN[name])
    assert one.target == "unknown"
    assert one.by_itself.limit
    assert one.source


def test_a_computed_bias_stays_on_the_cpu() -> None:
    one = last(dense((1, 4), (8, 4), bias="computed"))
    assert (one.target, one.status) == ("cpu", NOT_CONSTANT)


def test_reports_of_failures_are_the_source() -> None:
    assert "#309" in last(UNKNOWN["concatenation of 90 channels"]).source
    unet = last(UNKNOWN["first layer of a U-Net"])
    assert all(number in unet.source for number in ("#60", "#439", "#449"))


def test_each_rule_has_a_source() -> None:
    assert all(rule.source for rule in RULES.values())


# ------------------------------------------------------------------------------- likely failures


def padded_sum(paddings: Shape, before: Shape, after: Shape) -> Forecast:
    net = Net()
    padded = net.op("PAD", [net.tensor(before), net.integers(*paddings)], after)
    net.op("ADD", [padded, net.tensor(after)], after)
    return forecast(net.content())


def test_a_sum_of_a_padded_map_is_a_warning() -> None:
    result = padded_sum((0, 0, 0, 1, 0, 0, 0, 0), (1, 15, 20, 16), (1, 16, 20, 16))
    assert result.on_tpu == 2
    [warning] = result.warnings
    assert "ADD" in warning
    assert "#690" in warning
    assert f"WARNING: {warning}" in format_forecast(result, "model.tflite", 1).splitlines()
    assert result.to_json()["warnings"] == [warning]


def test_a_sum_of_padded_channels_is_none() -> None:
    result = padded_sum((0, 0, 0, 0, 0, 0, 0, 8), (1, 15, 20, 16), (1, 15, 20, 24))
    assert result.on_tpu == 2
    assert result.warnings == ()


@pytest.mark.parametrize(("width", "count"), [(255, 0), (256, 1)])
def test_activations_that_fill_the_chip_are_a_warning(width: int, count: int) -> None:
    """Of 256x256x32 are those of yolov5s at 512x512 pixels, whose compilation is known to fail."""
    net, shape = Net(), (1, 256, width, 32)
    image = net.tensor(shape)
    net.op("MUL", [image, net.op("LOGISTIC", [image], shape)], shape)
    result = forecast(net.content())
    assert result.on_tpu == 2
    assert len(result.warnings) == count
    assert all("#449" in warning and "MUL" in warning for warning in result.warnings)


def test_operators_of_the_cpu_cause_no_warning() -> None:
    net, shape = Net(), (1, 512, 512, 32)
    net.op("LEAKY_RELU", [net.tensor(shape)], shape)
    assert forecast(net.content()).warnings == ()
