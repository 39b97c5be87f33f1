"""Bias correction takes away the mean error of quantized weights, of each operator alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit.deploy.quantization import int8
from kerakit.deploy.quantization.bias import correct_biases
from kerakit.deploy.quantization.int8 import quantize_int8, quantize_int16x8
from kerakit.deploy.quantization.ranges import ActivationStats, collect_ranges
from kerakit.tflite.convert import convert_float
from kerakit.tflite.graph import Operator, read_graph
from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn


def pixels(count: int) -> Any:
    """Images that are a little redder than green, or the other way round."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(60, 140, (count, 8, 8, 3))
    blocks[np.arange(count), :, :, np.arange(count) % 2] += 30
    return blocks.astype(np.uint8)


def predict(content: bytes, images: Any) -> Any:
    return tflite_predict_fn(start_interpreter(content, "the model"))(images)


def with_both_convolutions(multiplier: int) -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 3, use_bias=True, name="conv")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, name="depthwise")(x)
    return keras.Model(image, layers.Dense(5, name="dense")(layers.GlobalAveragePooling2D()(x)))


def separable() -> keras.Model:
    """Depthwise convolutions without a bias: the converter stores their zeros in one buffer."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu6")(layers.Rescaling(1 / 127.5, offset=-1)(image))
    for _ in range(4):
        x = layers.SeparableConv2D(8, 3, padding="same", activation="relu6")(x)
    x = layers.GlobalAveragePooling2D()(x)
    scores = layers.Dense(5, activation="softmax", bias_initializer="ones")(x)
    return keras.Model(image, scores)


Quantize = Callable[[bytes, ActivationStats], bytes]


def quantize_without_correction(
    content: bytes, stats: ActivationStats, quantize: Quantize = quantize_int8
) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "correct_biases", lambda _, quantized, __: quantized)
        return quantize(content, stats)


@pytest.mark.parametrize("quantize", [quantize_int8, quantize_int16x8])
@pytest.mark.parametrize("multiplier", [1, 2])
def test_the_mean_error_of_the_outputs_is_smaller(multiplier: int, quantize: Quantize) -> None:
    images, content = pixels(60), convert_float(with_both_convolutions(multiplier))
    stats = collect_ranges(content, images)
    exact = predict(content, images)

    def mean_error(quantized: bytes) -> float:
        return float(np.abs((predict(quantized, images) - exact).mean(axis=0)).max())

    plain = quantize_without_correction(content, stats, quantize)
    assert mean_error(quantize(content, stats)) < 0.6 * mean_error(plain)


def weighted(content: bytes) -> dict[str, Operator]:
    return {one.outputs[0].name: one for one in read_graph(content).operators if one.weighted}


def test_each_bias_has_its_own_correction_where_biases_share_a_buffer() -> None:
    content = convert_float(separable())
    stats = collect_ranges(content, pixels(30))
    before = weighted(quantize_without_correction(content, stats))
    after = weighted(quantize_int8(content, stats))
    exact = weighted(content)
    means = dict(zip(stats.tensors.tolist(), (mean.mean(0) for mean in stats.means), strict=True))
    buffers: list[int] = []
    for name, operator in after.items():
        now, then, float32 = (group[name].weighted for group in (after, before, exact))
        assert now is not None
        assert then is not None
        assert float32 is not None
        assert now.bias is not None
        assert then.bias is not None
        buffers.append(now.bias.buffer)
        # The expected shift, computed with a loop over the output channels.
        error = now.weights.dequantize().astype(float) - float32.weights.values
        mean = means[float32.input.index]
        shift = [
            (error[..., channel].sum() * mean[channel])
            if operator.op == "DEPTHWISE_CONV_2D"
            else (error[channel] * mean).sum()
            for channel in range(now.bias.size)
        ]
        expected = then.bias.values - np.round(np.array(shift) / now.bias.scales)
        np.testing.assert_allclose(now.bias.values, expected, atol=1)
        np.testing.assert_array_equal(now.weights.values, then.weights.values)
    shared = [one.weighted.bias.buffer for one in before.values() if one.weighted.bias]  # type: ignore[union-attr]
    assert len(set(shared)) < len(shared)
    assert len(set(buffers)) == len(buffers)


def test_without_means_nothing_is_corrected() -> None:

    content = convert_float(separable())
    quantized = quantize_without_correction(content, collect_ranges(content, pixels(4)))
    untouched = correct_biases(content, quantized, {})
    for one, other in zip(
        read_graph(quantized).tensors, read_graph(untouched).tensors, strict=True
    ):
        assert (one.name, one.buffer, one.type) == (other.name, other.buffer, other.type)
        if one.data is not None and other.data is not None:
            np.testing.assert_array_equal(one.data, other.data)
