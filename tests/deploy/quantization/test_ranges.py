"""Statistics of activations, and the ranges that are chosen from them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from kerakit import JobError
from kerakit.deploy.quantization.ranges import (
    ActivationRecorder,
    ActivationStats,
    Ranges,
    collect_ranges,
    mean_ranges,
    min_max_ranges,
    percentile_ranges,
)
from kerakit.tflite.convert import convert_float


def pixels(count: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3)).astype(np.uint8)


def test_ranges_and_means_are_those_of_each_layer() -> None:
    """Also of an addition over one of its inputs: TensorFlow's calibrator mixes up the two."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    first = layers.Conv2D(4, 3, padding="same", name="first")(x)
    second = layers.Conv2D(4, 3, padding="same", name="second")(first)
    total = layers.Add(name="sum")([first, second])
    model = keras.Model(image, layers.Dense(3)(layers.Flatten()(total)))
    images = pixels(20)
    stats = collect_ranges(convert_float(model), images)
    assert stats.low.shape == stats.high.shape == (20, len(stats.tensors))
    assert (stats.low[:, 0] == 0).all()
    assert (stats.high[:, 0] == 255).all()
    np.testing.assert_allclose(stats.means[0], images.mean((1, 2)), rtol=1e-5)
    for name in ("first", "second", "sum"):
        expected = keras.Model(image, model.get_layer(name).output).predict(images, verbose=0)
        low, high = expected.min((1, 2, 3)), expected.max((1, 2, 3))
        distances = np.abs(stats.low - low[:, None]) + np.abs(stats.high - high[:, None])
        column = int(distances.max(axis=0).argmin())
        assert distances[:, column].max() < 1e-4, name
        np.testing.assert_allclose(stats.means[column], expected.mean((1, 2)), atol=1e-5)
    half = stats.first(10)
    np.testing.assert_array_equal(half.high, stats.high[:10])
    assert all(len(mean) == 10 for mean in half.means)


@pytest.mark.parametrize("value", [np.inf, np.nan])
def test_activations_that_are_not_finite_are_refused(value: float) -> None:
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(image)))
    model.set_weights([np.full(weight.shape, value) for weight in model.get_weights()])
    with pytest.raises(JobError, match="NaN or infinite"):
        collect_ranges(convert_float(model), pixels(2))


def stats_of(low: Any, high: Any) -> ActivationStats:
    return ActivationStats(np.arange(low.shape[1]), low, high, [])


numbers = st.floats(-1e3, 1e3, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=30))
def test_ranges_lie_within_min_max(rows: list[tuple[float, float]]) -> None:
    values = np.sort(np.array(rows, np.float32), axis=1)
    stats = stats_of(values[:, :1], values[:, 1:])
    whole = min_max_ranges(stats)
    assert whole.low == values.min()
    assert whole.high == values.max()
    choices: tuple[Callable[[ActivationStats], Ranges], ...] = (percentile_ranges, mean_ranges)
    for choose in choices:
        low, high = choose(stats)
        assert low.dtype == high.dtype == np.float32
        assert whole.low - 1e-3 <= low <= high <= whole.high + 1e-3


def test_percentiles_clip_the_outlier_of_one_image_in_two_hundred() -> None:
    high = np.ones((200, 1), np.float32)
    high[17] = 50
    stats = stats_of(-high, high)
    assert percentile_ranges(stats).high == pytest.approx(1)
    assert percentile_ranges(stats).low == pytest.approx(-1)
    assert min_max_ranges(stats).high == 50
    assert mean_ranges(stats).high == pytest.approx(1 + 49 / 200)


def test_recorded_activations_of_one_image() -> None:
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 255, name="scaled")(image)
    model = keras.Model(image, layers.GlobalAveragePooling2D(name="mean")(x))
    recorder = ActivationRecorder(convert_float(model), "the model")
    (pixel,) = pixels(1)
    raw, scaled, mean = recorder.record(pixel)
    assert len(recorder.names) == len(recorder.tensors) == 3
    np.testing.assert_array_equal(raw[0], pixel)
    np.testing.assert_allclose(scaled[0], pixel / 255, rtol=1e-5)
    np.testing.assert_allclose(mean[0], pixel.mean((0, 1)) / 255, rtol=1e-5)
