"""Tests for feature levels and the feature pyramid."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from kerakit.errors import UserError
from kerakit.models import EfficientNetLite
from kerakit.models.levels import feature_levels, feature_pyramid, find_input, upsample


def _sizes(levels: list[keras.KerasTensor]) -> list[tuple[int, ...]]:
    return [tuple(level.shape[1:3]) for level in levels]


@pytest.mark.parametrize("size", [(64, 96), (72, 40)])
@pytest.mark.parametrize(
    "name", ["EfficientNetLite", "EfficientNetV2B0", "MobileNet", "ResNet50V2"]
)
def test_backbones_have_all_levels(name: str, size: tuple[int, int]) -> None:
    """The levels of a backbone have its sizes, rounded; the last one is marked, none is added."""
    shape = (*size, 3)
    if name == "EfficientNetLite":
        model = EfficientNetLite(0, shape, include_top=False, weights=None)
    else:
        model = getattr(keras.applications, name)(
            input_shape=shape, include_top=False, weights=None
        )
    before = len(model.layers)
    levels = feature_levels(model.output)
    for stride, level in zip((8, 16, 32), levels, strict=True):
        for side, whole in zip(level.shape[1:3], size, strict=True):
            assert abs(side - whole / stride) < 1
    assert len(keras.Model(model.input, levels).layers) == before + 1
    marked = levels[-1]._keras_history.operation
    assert (marked.name, marked.input is model.output) == ("features", True)


def test_level_is_no_shortcut_and_no_middle_of_a_block() -> None:
    """All later tensors depend on a level: here the sum of a block, not its last convolution."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, 2, "same")(image)
    inner = layers.Conv2D(4, 3, padding="same")(x)
    total = layers.Add(name="total")([x, inner])
    shortcut = layers.MaxPooling2D(2)(total)
    middle = layers.ReLU(name="middle")(total)
    x = layers.Add()([shortcut, layers.Conv2D(4, 3, 2, "same")(middle)])
    half, _ = feature_levels(x, (2, 4))
    assert half is total


def test_missing_coarse_levels_are_added() -> None:
    """A backbone of strides 2 to 8 gets strided convolutions for 16 and 32."""
    image = keras.Input((64, 48, 3))
    x = image
    for _ in range(3):
        x = layers.Conv2D(4, 3, 2, "same")(x)
    levels = feature_levels(x, prefix="boxes_")
    assert _sizes(levels) == [(8, 6), (4, 3), (2, 2)]
    assert keras.Model(image, levels).get_layer("boxes_level_32_conv").strides == (2, 2)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (lambda image: layers.GlobalAveragePooling2D()(image), "before pooling"),
        (lambda image: layers.Conv2D(4, 3, 16, "same")(image), "no features of stride 8"),
        (
            lambda image: keras.applications.MobileNet(
                input_shape=(64, 64, 3), include_top=False, weights=None
            )(image),
            "nested",
        ),
    ],
)
def test_features_without_levels_are_errors(features: object, message: str) -> None:
    """Pooled features, missing fine strides and nested models are named."""
    with pytest.raises(UserError, match=message):
        feature_levels(features(keras.Input((64, 64, 3))))  # type: ignore[operator]


def test_pyramid_fits_odd_sizes() -> None:
    """Levels of 5, 3 and 2 rows are merged: resizing follows the finer level."""
    inputs = [keras.Input((n, n + 2, 3)) for n in (5, 3, 2)]
    outputs = feature_pyramid(inputs, 8)
    assert _sizes(outputs) == [(5, 7), (3, 5), (2, 4)]
    assert keras.Model(inputs, outputs).predict_on_batch(
        [np.ones((1, *each.shape[1:]), np.float32) for each in inputs]
    )[0].shape == (1, 5, 7, 8)


def test_upsample_repeats_pixels() -> None:
    """Doubling repeats each row and column."""
    x = np.arange(6, dtype=np.float32).reshape(1, 2, 3, 1)
    image = keras.Input((2, 3, 1))
    model = keras.Model(image, upsample(image, (4, 6), "up"))
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(model.predict_on_batch(x), expected)


def test_many_shortcuts_are_no_obstacle() -> None:
    """Every path through 60 blocks would be 2**60 paths."""
    image = keras.Input((32, 32, 3))
    x = layers.Conv2D(4, 3, 8, "same")(image)
    for _ in range(60):
        x = layers.Add()([x, layers.ReLU()(x)])
    assert find_input(x) is image
    assert [level.shape[1:3] for level in feature_levels(x, (8, 16))] == [(4, 4), (2, 2)]
