"""Normalization moves into the input where that computes the same, and stays elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit.deploy.quantization import int8
from kerakit.deploy.quantization.int8 import quantize_int8
from kerakit.deploy.quantization.ranges import collect_ranges
from kerakit.tflite.convert import convert_float
from kerakit.tflite.edit import set_inputs
from kerakit.tflite.graph import read_graph
from kerakit.tflite.normalization import NormalizedInput, fold_normalization
from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn

Pixels = np.ndarray[Any, Any]


def pixels(count: int = 4) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def convert(*stack: Any) -> bytes:
    """Return the file of layers and functions, in their order; it ends with logits per pixel."""
    keras.utils.set_random_seed(0)
    image = x = keras.Input((8, 8, 3))
    for layer in stack:
        x = layer(x)
    return convert_float(keras.Model(image, x))


def convolution(padding: str = "same", kind: Any = layers.Conv2D, **options: Any) -> Any:
    arguments = {"filters": 4} if kind is layers.Conv2D else {}
    bias = keras.initializers.RandomNormal()
    return kind(kernel_size=3, padding=padding, bias_initializer=bias, **{**arguments, **options})


def run(content: bytes, images: Pixels) -> Pixels:
    """Return the outputs for an input of real values."""
    interpreter = start_interpreter(content, "the model")
    (image,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    results = []
    for each in images:
        interpreter.set_tensor(image["index"], each[None].astype(np.float32))
        interpreter.invoke()
        results.append(interpreter.get_tensor(output["index"])[0])
    return np.stack(results)


def kinds(content: bytes) -> list[str]:
    return [one.op for one in read_graph(content).operators]


SYMMETRIC = {"scale": 1 / 127.5, "offset": -1}

STACKS: dict[str, list[Any]] = {
    "same": [convolution(strides=2)],
    "depthwise": [convolution(kind=layers.DepthwiseConv2D)],
    "padding": [layers.ZeroPadding2D(((0, 1), (0, 1))), convolution("valid", strides=2)],
}


@cache
def normalized(stack: str) -> bytes:
    """A file of pixels from -1 to 1, before a stack of layers."""
    return convert(layers.Rescaling(**SYMMETRIC), *STACKS[stack])


def with_formula(content: bytes, scale: float, offset: float) -> bytes:
    """Return a file with other constants of the normalization."""
    first, second = read_graph(content).operators[:2]
    assert (first.op, second.op) == ("MUL", "ADD")
    constants = {(first.index, 1): np.float32(scale), (second.index, 1): np.float32(offset)}
    return set_inputs(content, {key: np.array(value) for key, value in constants.items()})


@pytest.mark.parametrize(
    ("scale", "offset", "zero_point", "shift"),
    [
        (1 / 127.5, -1, 127, 0.5 / 127.5),
        (1 / 255, 0, 0, 0),
        (1 / 128, -127 / 128, 127, 0),  # EfficientNet-Lite
        (1 / 128, -1, 128, 0),
        (2.0, -510.0, 255, 0),
        (1 / 60, -100.25 / 60, 100, 0.25 / 60),
        (1 / 255, 0.4 / 255, 0, -0.4 / 255),
    ],
)
@pytest.mark.parametrize("stack", STACKS)
def test_only_borders_differ_and_by_the_shift_times_the_weights(
    stack: str, scale: float, offset: float, zero_point: int, shift: float
) -> None:
    content = with_formula(normalized(stack), scale, offset)
    folded = fold_normalization(content)
    assert folded.zero_point == zero_point
    assert folded.scale == pytest.approx(scale)
    assert folded.shift == pytest.approx(shift, abs=1e-6)
    assert not {"MUL", "ADD", "SUB"} & set(kinds(folded.content))
    assert fold_normalization(folded.content).content == folded.content
    real = (pixels().astype(np.float64) - folded.zero_point) * folded.scale
    difference = np.abs(run(folded.content, real) - run(content, pixels()))
    rounding = 1e-5 * max(1, *map(abs, folded.limits))
    assert difference[:, 1:-1, 1:-1].max() < rounding
    operator = next(one for one in read_graph(content).operators if one.weighted)
    assert operator.weighted is not None
    heaviest = np.abs(operator.weighted.weights.values).sum()
    assert difference.max() <= abs(shift) * heaviest + rounding


@pytest.mark.parametrize(
    ("scale", "offset"), [(-1 / 127.5, 1), (1 / 255, 1), (1 / 255, -2), (0.0, 1)]
)
def test_pixels_whose_zero_is_no_byte_are_normalized_by_operators(
    scale: float, offset: float
) -> None:
    content = with_formula(normalized("same"), scale, offset)
    assert fold_normalization(content).content == content


def test_several_convolutions_share_the_input() -> None:
    def both(x: Any) -> Any:
        return layers.Concatenate()([convolution()(x), convolution()(x)])

    content = convert(layers.Rescaling(**SYMMETRIC), both)
    folded = fold_normalization(content)
    assert "MUL" not in kinds(folded.content)
    real = (pixels() - np.float64(127)) * folded.scale
    inside = (slice(None), slice(1, -1), slice(1, -1))
    np.testing.assert_allclose(
        run(folded.content, real)[inside], run(content, pixels())[inside], atol=1e-5
    )


def per_channel(x: Any) -> Any:
    x = layers.Normalization(mean=[124, 116, 104], variance=[3400, 3200, 3300])(x)
    return convolution()(x)


def half_step_to_pool(x: Any) -> Any:
    return convolution()(layers.MaxPooling2D()(layers.Rescaling(**SYMMETRIC)(x)))


def half_step_to_more(x: Any) -> Any:
    x = layers.Rescaling(**SYMMETRIC)(x)
    return layers.Concatenate()([convolution()(x), x])


def only(x: Any) -> Any:
    return layers.Rescaling(**SYMMETRIC)(x)


@pytest.mark.parametrize("stack", [per_channel, half_step_to_pool, half_step_to_more, only])
def test_other_normalizations_stay(stack: Callable[[Any], Any]) -> None:
    content = convert(stack)
    folded = fold_normalization(content)
    assert (folded.scale, folded.zero_point, folded.shift) == (1, 0, 0)
    assert folded.content == content


def test_a_whole_zero_point_needs_no_convolution() -> None:
    content = with_formula(convert(half_step_to_pool), 1 / 128, -1)
    folded = fold_normalization(content)
    assert "MUL" not in kinds(folded.content)
    real = (pixels() - np.float64(128)) / 128
    np.testing.assert_allclose(run(folded.content, real), run(content, pixels()), atol=1e-5)


def test_int8_is_as_close_as_with_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """On bytes, on the same images: the half step that operators round away is in the biases."""
    content = normalized("same")
    stats = collect_ranges(content, pixels(16))
    exact = run(content, pixels(16))

    def error(fold: Callable[[bytes], NormalizedInput]) -> tuple[float, int]:
        monkeypatch.setattr(int8, "fold_normalization", fold)
        quantized = quantize_int8(content, stats)
        outputs = tflite_predict_fn(start_interpreter(quantized, "int8"))(pixels(16))
        return float(np.abs(outputs - exact).mean()), len(kinds(quantized))

    def keep(content: bytes) -> NormalizedInput:
        index = read_graph(content).inputs[0].index
        return NormalizedInput(content, 1.0, 0, index, index, 0.0)

    (folded, count), (kept, more) = error(fold_normalization), error(keep)
    assert folded < kept
    assert count == more - 2
