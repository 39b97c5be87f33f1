"""A model is split only where one tensor carries everything."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.training.split_model import find_split, find_split_layers, split_at


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


def test_a_layer_with_a_shortcut_past_it_is_an_error(residual: keras.Model) -> None:
    with pytest.raises(UserError, match="dense_2"):
        split_at(residual, "dense_2")
    with pytest.raises(UserError, match="no layer named 'missing'"):
        split_at(residual, "missing")


def test_a_sequential_model_is_split() -> None:
    layers = [keras.layers.Dense(3, name="features"), keras.layers.Dense(2)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    pixels = np.random.default_rng(0).random((5, 4), np.float32)
    lower, upper = split_at(model)
    np.testing.assert_allclose(upper(lower(pixels)), model(pixels), rtol=1e-6)
