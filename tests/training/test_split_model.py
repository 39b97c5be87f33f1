"""A model is split only where one tensor carries everything."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.training.split_model import (
    find_split,
    find_split_layers,
    freeze_lower,
    leaf_layers,
    split_at,
)


def chain(shortcuts: set[tuple[int, int]], length: int = 8) -> keras.Model:
    """Dense layers in a row; a shortcut (a, b) adds the output of a to the input of b."""
    outputs = [keras.Input((3,), name="pixels")]
    for i in range(1, length):
        x = outputs[-1]
        for a, b in sorted(shortcuts):
            if b == i and a < i - 1:
                x = keras.layers.Add(name=f"add_{a}_{b}")([x, outputs[a]])
        name = "features" if i == length - 2 else f"dense_{i}"
        outputs.append(keras.layers.Dense(3, name=name)(x))
    return keras.Model(outputs[0], outputs[-1])


def is_reachable(model: keras.Model, without: str) -> bool:
    """Whether the output depends on the input while the layer ``without`` outputs zeros."""
    results = []
    for pixels in (np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32) * 7):
        values: dict[int, Any] = {}
        for layer in model.layers:
            if isinstance(layer, keras.layers.InputLayer):
                value = pixels
            else:
                tensors = layer.input if isinstance(layer.input, list) else [layer.input]
                inputs = [values[id(tensor)] for tensor in tensors]
                value = np.asarray(layer(inputs if len(inputs) > 1 else inputs[0]))
            values[id(layer.output)] = np.zeros_like(value) if layer.name == without else value
        results.append(values[id(model.outputs[0])])
    return not np.array_equal(results[0], results[1])


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(2, 7)), max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_model_splits_where_no_other_path_exists(shortcuts: set[tuple[int, int]]) -> None:
    keras.utils.set_random_seed(0)
    model = chain(shortcuts)
    inner = [layer.name for layer in model.layers[1:-1]]
    assert find_split_layers(model) == [name for name in inner if not is_reachable(model, name)]


@pytest.fixture(scope="module")
def residual() -> keras.Model:
    return chain({(1, 4)})


def test_both_parts_together_are_the_model(residual: keras.Model) -> None:
    pixels = np.random.default_rng(0).random((5, 3), np.float32)
    for name in find_split_layers(residual):
        lower, upper = split_at(residual, name)
        np.testing.assert_allclose(upper(lower(pixels)), residual(pixels), rtol=1e-6)


def test_the_fraction_of_frozen_layers(residual: keras.Model) -> None:
    assert find_split(residual, 0) is None
    assert find_split(residual, 0.4) == "dense_1"  # not within the shortcut
    assert find_split(residual, 0.7) == "dense_4"
    assert find_split(residual, 1) == "features"


def test_a_layer_with_a_shortcut_past_it(residual: keras.Model) -> None:
    lower, upper = split_at(residual, "dense_2")
    assert len(lower.outputs) == 2
    pixels = np.random.default_rng(0).random((5, 3), np.float32)
    np.testing.assert_allclose(upper(lower(pixels)), residual(pixels), rtol=1e-6)
    with pytest.raises(UserError, match="no layer named 'missing'"):
        split_at(residual, "missing")


def test_a_sequential_model_is_split() -> None:
    layers = [keras.layers.Dense(3, name="features"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    pixels = np.random.default_rng(0).random((5, 4), np.float32)
    lower, upper = split_at(model)
    np.testing.assert_allclose(upper(lower(pixels)), model(pixels), rtol=1e-6)


def block(i: int) -> list[keras.layers.Layer]:
    convolution = keras.layers.Conv2D(2, 1, name=f"conv_{i}")
    return [convolution, keras.layers.BatchNormalization(name=f"norm_{i}")]


class Custom(keras.layers.Layer):
    """A layer that holds others in attributes, a list and a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = block(0)[0]
        self.others = [block(0)[1], *block(1)]
        self.more = {"a": keras.Sequential(block(2)), "b": block(3)}

    def call(self, x: Any) -> Any:
        for layer in [self.first, *self.others, self.more["a"], *self.more["b"]]:
            x = layer(x)
        return x


def nested(kind: str) -> keras.Model:
    """A backbone of 8 layers in the form ``kind``, between Rescaling and the head."""
    image = keras.Input((4, 4, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    layers = [layer for i in range(4) for layer in block(i)]
    inner = keras.Input((4, 4, 3))
    if kind == "functional":
        y = inner
        for layer in layers:
            y = layer(y)
        x = keras.Model(inner, y, name="base")(x, training=False)
    elif kind == "sequential":
        x = keras.Sequential(layers, name="base")(x)
    elif kind == "twice":
        x = keras.Sequential([keras.Sequential(layers[:3]), *layers[3:]], name="base")(x)
    elif kind == "custom layer":
        x = keras.Model(inner, Custom()(inner), name="base")(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, keras.layers.Dense(2, "softmax")(x), name=kind.replace(" ", "_"))


@pytest.mark.parametrize("kind", ["functional", "sequential", "twice", "custom layer"])
def test_the_lower_layers_of_a_nested_backbone_are_frozen(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nested(kind)
    leaves = [leaf for leaf in leaf_layers(model) if "_" in leaf.name and leaf.weights]
    assert [leaf.name for leaf in leaves[:8]] == [
        f"{name}_{i}" for i in range(4) for name in ("conv", "norm")
    ]
    assert find_split(model, 0.7) is None
    model.trainable = True
    for leaf in leaf_layers(model):
        leaf.trainable = not isinstance(leaf, keras.layers.BatchNormalization)
    freeze_lower(model, 0.7)
    assert "frozen: " in capsys.readouterr().out
    trained = {variable.path.split("/")[-2] for variable in model.trainable_variables}
    assert {name for name in trained if "conv" in name} == {"conv_3"}
    assert not [name for name in trained if "norm" in name]
    lower, upper = split_at(model)
    pixels = np.random.default_rng(0).random((2, 4, 4, 3), np.float32)
    np.testing.assert_allclose(upper(lower(pixels)), model(pixels), rtol=1e-5)


def test_a_path_past_a_nested_model_is_an_error() -> None:
    image = keras.Input((3,))
    base = keras.Sequential([keras.layers.Dense(3)], name="base")(image)
    x = keras.layers.Dense(3, name="features")(base)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Add()([x, base])), name="mine")
    lower, upper = split_at(model)
    assert len(lower.outputs) == 2
    pixels = np.random.default_rng(0).random((5, 3), np.float32)
    np.testing.assert_allclose(upper(lower(pixels)), model(pixels), rtol=1e-5)


def test_a_head_that_needs_the_image_is_an_error() -> None:
    image = keras.Input((3,))
    x = keras.layers.Dense(3, name="features")(image)
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.Add()([x, image])), name="mine")
    with pytest.raises(UserError, match="need the image itself"):
        split_at(model)


def test_a_head_on_several_levels_is_split_off() -> None:
    """As of a detector: the head uses layers of the backbone before its last one, too."""
    image = keras.Input((16, 16, 3))
    x, levels = image, []
    for i in range(3):
        x = keras.layers.Conv2D(4, 3, 2, "same", name=f"conv_{i}")(x)
        x = keras.layers.Add(name=f"add_{i}")([x, keras.layers.ReLU(name=f"relu_{i}")(x)])
        levels.append(x)
    levels[-1] = keras.layers.Identity(name="features")(x)
    outputs = {f"o{i}": keras.layers.Conv2D(2, 1)(level) for i, level in enumerate(levels)}
    model = keras.Model(image, outputs)
    pixels = np.random.default_rng(0).random((2, 16, 16, 3), np.float32)
    assert find_split(model, 0.7) == "conv_2"
    assert find_split(model, 0) is None  # nothing is frozen
    for name, count in (("features", 3), ("conv_2", 3), ("add_1", 2), ("add_0", 1)):
        lower, upper = split_at(model, name)
        assert len(lower.outputs) == count
        expected, found = model(pixels), upper(lower(pixels))
        assert sorted(found) == sorted(expected)
        for key, value in expected.items():
            np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6)


def test_features_inside_a_nested_model_are_named() -> None:
    image = keras.Input((3,))
    base = keras.Sequential([keras.layers.Dense(3, name="features")], name="base")(image)
    model = keras.Model(image, keras.layers.Dense(2)(base), name="mine")
    with pytest.raises(UserError, match="inside the nested model 'base'"):
        split_at(model)


def test_a_model_without_features_is_not_silent(capsys: pytest.CaptureFixture[str]) -> None:
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    assert find_split(model, 0.7) is None
    freeze_lower(model, 0.7)
    assert "WARNING" in capsys.readouterr().out
    assert all(layer.trainable for layer in model.layers)
