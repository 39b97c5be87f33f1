"""What makes int8 nearer to the trained model, and what is tried where it still loses too much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit.deploy import bias, ladder, litert, quantize, runtime
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.export import Deployment, deploy
from kerakit.deploy.formats.keras import predictor
from kerakit.deploy.gate import Gate
from kerakit.deploy.quantization.calibration import Calibration

CLASSES = ("red", "green")


def images(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Pictures that are a little redder than green, or the other way round."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = rng.integers(60, 140, (count, 8, 8, 3))
    pixels[np.arange(count), :, :, targets] += 30
    return pixels.astype(np.uint8), targets


def calibration(pixels: Any) -> Calibration:
    return Calibration(tuple(map(str, range(len(pixels)))), lambda: iter(pixels))


def of_two_scales() -> keras.Model:
    """A layer whose first number is a thousand times its second, which alone tells the classes apart: one scale for both is
    too coarse.
    """
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="normalise")(image)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    x = layers.Dense(2, name="two_scales", activation="relu")(x)
    model = keras.Model(image, layers.Dense(2, name="probabilities", activation="softmax")(x))
    model.get_layer("two_scales").set_weights(
        [np.array([[1e3, 1], [1e3, -1], [1e3, 0]]), np.array([3e3, 1])]
    )
    model.get_layer("probabilities").set_weights(
        [np.array([[1e-9, 1e-9], [9, -9]]), np.array([-9, 9])]
    )
    return model


def test_the_ladder_finds_the_layer_that_loses_the_signal(tmp_path: Path) -> None:
    model = of_two_scales()
    pixels, targets = images(40, seed=1)
    held_out = [(pixels[:25], targets[:25]), (pixels[25:], targets[25:])]
    seen, _ = images(30)
    said: list[str] = []
    rows = deploy(
        model,
        Deployment(tmp_path / "out"),
        CLASSES,
        calibration(seen),
        held_out,
        ("float32", "int8"),
        say=said.append,
    )
    float32, int8 = rows
    assert float32.measured is not None
    assert int8.measured is not None
    assert float32.measured.accuracy == 1
    assert int8.measured.passed
    rungs = int8.details["ladder"]
    assert [rung["passed"] for rung in rungs] == [False] * (len(rungs) - 1) + [True]
    assert rungs[0]["accuracy"] < 0.8
    assert "two_scales" in [layer["layer"] for layer in rungs[-1]["in_floats"]]
    content = (tmp_path / "out" / "model.tflite").read_bytes()
    assert int8.bytes == len(content) == rungs[-1]["bytes"]
    placed = forecast(content)
    assert rungs[-1]["on_tpu"] == placed.on_tpu < len(placed.operators)
    assert f"would take {placed.on_tpu} of {len(placed.operators)} operators" in int8.reason
    assert any("other ways" in line for line in said)


def test_twice_the_images_come_before_floats() -> None:
    """With calibration images of one colour alone the other one's numbers are cut off; the next images show them."""
    model = of_two_scales()
    model.get_layer("two_scales").set_weights(
        [np.array([[8, 0], [-8, 0], [0.0, 0]]), np.array([3.0, 0])]
    )
    model.get_layer("probabilities").set_weights(
        [np.array([[2, -2], [0.0, 0]]), np.array([-6.0, 6])]
    )
    pixels, targets = images(40, seed=1)
    gate = Gate([(pixels, targets)], predictor(model), CLASSES, 0.01)
    seen, colours = images(80)
    greens = seen[colours == 1]
    more = Calibration(tuple(map(str, range(80))), lambda: iter(seen))
    few = Calibration(tuple(map(str, range(40))), lambda: iter(greens), lambda: more)
    _, rungs = ladder.climb(litert.convert_float(model), model, few, gate, lambda _: None)
    assert [rung.tried for rung in rungs] == [
        "ranges without outliers, 40 images",
        "the same, 80 images",
    ]
    assert rungs[-1].measured.passed
    assert not rungs[-1].in_floats


def test_where_nothing_passes_the_best_is_taken() -> None:
    model = of_two_scales()
    pixels, targets = images(40, seed=1)
    gate = Gate([(pixels, targets)], predictor(model), CLASSES, max_drop=-1)
    content, rungs = ladder.climb(
        litert.convert_float(model), model, calibration(images(30)[0]), gate, lambda _: None
    )
    assert not any(rung.measured.passed for rung in rungs)
    assert max(rung.measured.accuracy for rung in rungs) == next(
        r.measured.accuracy for r in rungs if r.content == content
    )


def small(multiplier: int) -> keras.Model:
    keras.utils.set_random_seed(3)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 3, use_bias=True, name="conv")(x)
    x = layers.DepthwiseConv2D(3, depth_multiplier=multiplier, name="depthwise")(x)
    return keras.Model(image, layers.Dense(5, name="dense")(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("multiplier", [1, 2])
def test_corrected_biases_take_the_mean_error_away(
    multiplier: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = small(multiplier)
    pixels, _ = images(60)
    content = litert.convert_float(model)
    seen = quantize.look(content, pixels)
    reference = model.predict(pixels, verbose=0)

    def mean_error() -> float:
        predict = litert.predictor(runtime.start(litert.int8(content, seen), "int8"))
        return float(np.abs((predict(pixels) - reference).mean(0)).max())

    with_it = mean_error()
    monkeypatch.setattr(bias, "corrected", lambda _, quantized, __: quantized)
    assert with_it < 0.6 * mean_error()


def test_a_layer_that_is_always_zero_is_quantised_too() -> None:
    """A range of no width would take the converter down, and this process with it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(
        4, 3, activation="relu", bias_initializer=keras.initializers.Constant(-1000), name="dead"
    )(image)
    x = layers.Concatenate()(
        [layers.GlobalAveragePooling2D()(x), layers.GlobalAveragePooling2D()(image)]
    )
    model = keras.Model(image, layers.Dense(2)(x))
    pixels, _ = images(20)
    content = litert.convert_float(model)
    predict = litert.predictor(
        runtime.start(litert.int8(content, quantize.look(content, pixels)), "int8")
    )
    exact = model.predict(pixels, verbose=0)
    np.testing.assert_allclose(predict(pixels), exact, atol=0.02 * np.abs(exact).max())


def test_the_outlier_of_one_image_does_not_cost_all_others_their_steps() -> None:
    """A bright image among 200 makes one layer's numbers 50 times larger than all others do."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(image))
    x = layers.Dense(2, activation="relu", name="bright")(x)
    model = keras.Model(image, layers.Dense(2)(x))
    model.get_layer("bright").set_weights(
        [np.array([[400, 1], [400, -1], [400.0, 0]]), np.array([-760.0, 1])]
    )
    pixels = np.concatenate([images(199)[0], np.full((1, 8, 8, 3), 255, np.uint8)])
    content = litert.convert_float(model)
    seen = quantize.look(content, pixels)
    errors = []
    for ranges in (quantize.without_outliers, quantize.of_all):
        predict = litert.predictor(runtime.start(litert.int8(content, seen, ranges), "int8"))
        errors.append(np.abs(predict(pixels[:-1]) - model.predict(pixels[:-1], verbose=0)).mean())
    assert errors[0] < errors[1] / 3
