"""Quantization to int8 and int16x8, and the check of what devices need."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit import JobError
from kerakit.deploy.quantization.int8 import (
    find_float32_operators,
    find_int8_problems,
    quantize_int8,
    quantize_int16x8,
)
from kerakit.deploy.quantization.ranges import collect_ranges, min_max_ranges, percentile_ranges
from kerakit.tflite.convert import convert_float, make_int8_converter, run_converter
from kerakit.tflite.graph import read_graph
from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn


def pixels(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def small_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu6")(layers.Rescaling(1 / 127.5, offset=-1)(image))
    return keras.Model(image, layers.Dense(3, activation="softmax")(layers.Flatten()(x)))


@pytest.fixture(scope="module")
def content() -> bytes:
    return convert_float(small_model())


def predict(content: bytes, images: Any) -> Any:
    return tflite_predict_fn(start_interpreter(content, "the model"))(images)


def test_int8_is_close_to_float32_and_fits_devices(content: bytes) -> None:
    images = pixels(20)
    quantized = quantize_int8(content, collect_ranges(content, images))
    assert find_int8_problems(quantized) == []
    np.testing.assert_allclose(predict(quantized, images), predict(content, images), atol=0.05)


def test_layers_stay_in_float32_on_request(content: bytes) -> None:
    dense = next(one for one in read_graph(content).operators if one.op == "FULLY_CONNECTED")
    stats = collect_ranges(content, pixels(4))
    mixed = quantize_int8(content, stats, float32_outputs=[dense.outputs[0].name])
    types = {
        one.op: one.weighted.weights.type for one in read_graph(mixed).operators if one.weighted
    }
    assert types == {"CONV_2D": "INT8", "FULLY_CONNECTED": "FLOAT32"}


def test_one_scale_per_dense_output_is_refused(
    content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The default of TensorFlow's quantizer: a constant on the runtimes of Coral devices."""
    from tensorflow.lite.python import convert

    real = convert.mlir_quantize

    def default(*args: Any, disable_per_channel_for_dense_layers: bool, **options: Any) -> bytes:
        quantized: bytes = real(*args, **options)
        return quantized

    monkeypatch.setattr(convert, "mlir_quantize", default)
    with pytest.raises(JobError, match="one scale per output"):
        quantize_int8(content, collect_ranges(content, pixels(4)))


def test_an_input_other_than_raw_pixels_is_found() -> None:
    """That of a model for 0 to 1: the device would have to divide by 255."""
    converter = make_int8_converter(small_model(), pixels(20) / np.float32(255))
    problems = find_int8_problems(run_converter(converter.convert))
    assert any("raw pixels" in problem for problem in problems)


def test_float_tensors_and_dynamic_shapes_are_found(content: bytes) -> None:
    import tensorflow as tf

    problems = find_int8_problems(content)
    assert any(problem.endswith("is FLOAT32") for problem in problems)
    assert any("not UINT8" in problem for problem in problems)
    signature = tf.TensorSpec([None, 8, 8, 3], tf.float32)
    dynamic = tf.lite.TFLiteConverter.from_concrete_functions(
        [tf.function(lambda x: tf.reshape(x, [-1, 192])).get_concrete_function(signature)],
        tf.Module(),
    )
    problems = find_int8_problems(run_converter(dynamic.convert))
    assert any("dynamic shape" in problem for problem in problems)


def test_dark_calibration_images_do_not_shift_the_input(content: bytes) -> None:
    quantized = quantize_int8(content, collect_ranges(content, pixels(20) // 4))
    (image,) = read_graph(quantized).inputs
    assert (image.type, image.scales.tolist(), image.zero_points.tolist()) == ("UINT8", [1], [0])


def test_int16x8_has_int16_activations_and_is_closer(content: bytes) -> None:
    images = pixels(20)
    stats = collect_ranges(content, images)
    exact = predict(content, images)
    finer = quantize_int16x8(content, stats)
    computed = {one.outputs[0].type for one in read_graph(finer).operators if one.weighted}
    assert computed == {"INT16"}
    error = np.abs(predict(finer, images) - exact).max()
    assert error < np.abs(predict(quantize_int8(content, stats), images) - exact).max()


def test_operators_that_int16x8_lacks_stay_in_float32() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(2, 3, activation="hard_silu")(image)
    content = convert_float(keras.Model(image, layers.Dense(2)(layers.Flatten()(x))))
    images = pixels(20)
    quantized = quantize_int16x8(content, collect_ranges(content, images))
    assert find_float32_operators(quantized) == {"HARD_SWISH": 1}
    types = {one.op: one.outputs[0].type for one in read_graph(quantized).operators}
    assert types["CONV_2D"] == "INT16"
    exact = predict(content, images)
    assert np.abs(predict(quantized, images) - exact).max() < 0.01 * np.abs(exact).max()


def test_a_layer_that_is_always_zero_is_quantized_too() -> None:
    """A range of no width would abort the converter, and this process with it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    negative = keras.initializers.Constant(-1000)
    x = layers.Conv2D(4, 3, activation="relu", bias_initializer=negative, name="dead")(image)
    pooled = [layers.GlobalAveragePooling2D()(x), layers.GlobalAveragePooling2D()(image)]
    model = keras.Model(image, layers.Dense(2)(layers.Concatenate()(pooled)))
    images = pixels(20)
    content = convert_float(model)
    exact = predict(content, images)
    quantized = predict(quantize_int8(content, collect_ranges(content, images)), images)
    np.testing.assert_allclose(quantized, exact, atol=0.02 * np.abs(exact).max())


def test_the_outlier_of_one_image_does_not_cost_all_others_their_precision() -> None:
    """A bright image among 200 makes one layer's numbers 50 times larger than all others do."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(image))
    x = layers.Dense(2, activation="relu", name="bright")(x)
    model = keras.Model(image, layers.Dense(2)(x))
    weights = np.array([[400, 1], [400, -1], [400.0, 0]])
    model.get_layer("bright").set_weights([weights, np.array([-760.0, 1])])
    images = np.concatenate([pixels(199) // 3 + 60, np.full((1, 8, 8, 3), 255, np.uint8)])
    content = convert_float(model)
    stats = collect_ranges(content, images)
    exact = predict(content, images[:-1])
    percentile, min_max = (
        np.abs(predict(quantize_int8(content, stats, choose), images[:-1]) - exact).mean()
        for choose in (percentile_ranges, min_max_ranges)
    )
    assert percentile < min_max / 3
