"""A model is cut only where one tensor carries everything."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.training.split_model import below, boundaries, split


def chain(shortcuts: set[tuple[int, int]], length: int = 8) -> keras.Model:
    """Dense layers in a row; each shortcut (a, b) adds the output of layer a to the input of layer b."""
    outputs = [keras.Input((3,), name="pixels")]
    for i in range(1, length):
        x = outputs[-1]
        for a, b in sorted(shortcuts):
            if b == i and a < i - 1:
                x = keras.layers.Add(name=f"add_{a}_{b}")([x, outputs[a]])
        outputs.append(
            keras.layers.Dense(3, name="features" if i == length - 2 else f"dense_{i}")(x)
        )
    return keras.Model(outputs[0], outputs[-1])


def reachable(model: keras.Model, without: str) -> bool:
    """Whether the output depends on the input where the layer ``without`` gives zeros: by numbers, not by the graph."""
    probe = [np.zeros((1, 3), np.float32), np.ones((1, 3), np.float32) * 7]
    answers = []
    for pixels in probe:
        values: dict[int, Any] = {}
        for layer in model.layers:
            if isinstance(layer, keras.layers.InputLayer):
                value = pixels
            else:
                tensors = layer.input if isinstance(layer.input, list) else [layer.input]
                given_ = [values[id(tensor)] for tensor in tensors]
                value = np.asarray(layer(given_ if len(given_) > 1 else given_[0]))
            values[id(layer.output)] = np.zeros_like(value) if layer.name == without else value
        answers.append(values[id(model.outputs[0])])
    return not np.array_equal(answers[0], answers[1])


@given(st.sets(st.tuples(st.integers(0, 5), st.integers(2, 7)), max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_boundary_is_where_nothing_goes_past(shortcuts: set[tuple[int, int]]) -> None:
    keras.utils.set_random_seed(0)
    model = chain(shortcuts)
    inner = [layer.name for layer in model.layers[1:-1]]
    assert boundaries(model) == [name for name in inner if not reachable(model, name)]


@pytest.fixture(scope="module")
def residual() -> keras.Model:
    return chain({(1, 4)})


def test_both_parts_together_are_the_model(residual: keras.Model) -> None:
    pixels = np.random.default_rng(0).random((5, 3), np.float32)
    for name in boundaries(residual):
        lower, upper = split(residual, name)
        np.testing.assert_allclose(upper(lower(pixels)), residual(pixels), rtol=1e-6)


def test_where_to_cut(residual: keras.Model) -> None:
    names = [layer.name for layer in residual.layers]
    assert names == [
        "pixels",
        "dense_1",
        "dense_2",
        "dense_3",
        "add_1_4",
        "dense_4",
        "dense_5",
        "features",
        "dense_7",
    ]
    assert below(residual, 0) is None
    assert below(residual, 0.4) == "dense_1"  # not within the shortcut
    assert below(residual, 0.7) == "dense_4"
    assert below(residual, 1) == "features"


def test_a_layer_that_a_shortcut_goes_past_is_refused(residual: keras.Model) -> None:
    with pytest.raises(UserError, match=r"dense_2.*other layers too"):
        split(residual, "dense_2")
