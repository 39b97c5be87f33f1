"""Fallbacks for an int8 file that fails the accuracy gate, and their order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from kerakit.deploy import Calibration, ExportFolder, export_model
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.gate import AccuracyGate
from kerakit.deploy.quantization.fallbacks import try_fallbacks
from kerakit.deploy.quantization.ranges import collect_ranges
from kerakit.inference import keras_predict_fn
from kerakit.tasks import Classification
from kerakit.tflite.convert import convert_float

TASK = Classification(("red", "green"))


def images(count: int, seed: int = 0) -> tuple[Any, Any]:
    """Images that are a little redder than green, or the other way round, and their classes."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 2
    pixels = rng.integers(60, 140, (count, 8, 8, 3))
    pixels[np.arange(count), :, :, targets] += 30
    return pixels.astype(np.uint8), targets


def calibration(pixels: Any) -> Calibration:
    return Calibration(tuple(map(str, range(len(pixels)))), lambda: iter(pixels))


def of_two_scales() -> keras.Model:
    """A layer whose first output is a thousand times its second, which alone decides the class:
    one scale for both is too coarse.
    """
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="normalize")(image)
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


def make_gate(model: keras.Model, max_drop: float) -> AccuracyGate:
    return AccuracyGate(TASK, [images(40, seed=1)], keras_predict_fn(model), max_drop)


def test_the_layer_that_loses_the_signal_stays_in_float32(tmp_path: Path) -> None:
    model = of_two_scales()
    pixels, targets = images(40, seed=1)
    lines: list[str] = []
    folder = ExportFolder(tmp_path / "out")
    float32, int8 = export_model(
        model,
        TASK,
        folder,
        calibration(images(30)[0]),
        [(pixels[:25], targets[:25]), (pixels[25:], targets[25:])],
        formats=("float32", "int8"),
        log=lines.append,
    )
    assert float32.measurement is not None
    assert int8.measurement is not None
    assert float32.measurement.metrics["accuracy"] == 1
    assert int8.measurement.passed
    attempts = int8.details["fallbacks"]
    assert [attempt["passed"] for attempt in attempts] == [False] * (len(attempts) - 1) + [True]
    assert attempts[0]["metrics"]["accuracy"] < 0.8
    last = attempts[-1]
    assert "two_scales" in [layer["layer"] for layer in last["float32_layers"]]
    for layer in last["float32_layers"]:
        assert layer["snr_out_db"] <= 100
        assert layer["snr_in_db"] <= 100
    assert int8.details["selected"] == last["attempt"]
    content = (folder.path / "model.tflite").read_bytes()
    assert int8.size_bytes == len(content) == last["size_bytes"]
    mapping = forecast(content)
    assert last["on_tpu"] == mapping.on_tpu < len(mapping.operators)
    assert last["on_tpu"] + last["on_cpu"] == len(mapping.operators)
    assert sum(line.startswith("int8 fallback: ") for line in lines) == len(attempts)
    rows = json.loads(folder.report.read_text(encoding="utf-8"))["formats"]
    assert rows[-1]["details"]["fallbacks"] == attempts


class WithoutPixels(layers.Layer):
    """A layer that loses its values in files of batch size 1."""

    def call(self, x: Any) -> Any:
        return x * (0.0 if x.shape[0] == 1 else 1.0)


def test_a_drop_that_float32_has_too_is_not_left_to_quantization(tmp_path: Path) -> None:
    image = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(image))
    model = keras.Model(
        image, layers.Dense(2, activation="softmax", name="scores")(WithoutPixels()(x))
    )
    model.get_layer("scores").set_weights([np.array([[9, -9], [-9, 9], [0, 0]]), np.zeros(2)])
    lines: list[str] = []
    [int8] = export_model(
        model,
        TASK,
        ExportFolder(tmp_path / "out"),
        calibration(images(30)[0]),
        [images(40, seed=1)],
        formats=["int8"],
        log=lines.append,
    )
    assert int8.passed is False
    assert "no fallback was tried: the float32 file has an accuracy drop of 50.00 pp" in int8.reason
    assert "fallbacks" not in int8.details
    assert any(int8.reason in line for line in lines)


def test_more_calibration_images_come_before_float32() -> None:
    """Images of one color alone clip the activations of the other; the next images show them."""
    model = of_two_scales()
    model.get_layer("two_scales").set_weights(
        [np.array([[8, 0], [-8, 0], [0.0, 0]]), np.array([3.0, 0])]
    )
    model.get_layer("probabilities").set_weights(
        [np.array([[2, -2], [0.0, 0]]), np.array([-6.0, 6])]
    )
    pixels, colors = images(80)
    greens = pixels[colors == 1]
    few = Calibration(tuple(map(str, range(40))), lambda: iter(greens), lambda: calibration(pixels))
    content = convert_float(model)
    stats = collect_ranges(content, few.images())
    selected, attempts = try_fallbacks(
        content, model, few, stats, make_gate(model, 0.01), lambda _: None
    )
    assert [attempt.name for attempt in attempts] == [
        "percentile ranges, 40 images",
        "percentile ranges, 80 images",
    ]
    assert selected is attempts[-1]
    assert selected.measurement.passed
    assert not selected.float32_layers


def test_the_best_is_selected_where_none_passes() -> None:
    model = of_two_scales()
    content, calibrated = convert_float(model), calibration(images(30)[0])
    selected, attempts = try_fallbacks(
        content,
        model,
        calibrated,
        collect_ranges(content, calibrated.images()),
        make_gate(model, max_drop=-1),
        lambda _: None,
    )
    assert not any(attempt.measurement.passed for attempt in attempts)
    accuracies = [attempt.measurement.metrics["accuracy"] for attempt in attempts]
    assert len(set(accuracies)) > 1
    assert selected.measurement.metrics["accuracy"] == max(accuracies)
    names = [attempt.name.split(",")[0] for attempt in attempts]
    assert names[:3] == ["percentile ranges", "min-max ranges", "mean ranges"]
    counts = [len(attempt.float32_layers) for attempt in attempts]
    assert counts == sorted(counts)
    assert counts[-1] > 0
    # Of the layers in float32, the noisiest come first.
    noise = [layer.added for layer in attempts[-1].float32_layers]
    assert noise == sorted(noise, reverse=True)
