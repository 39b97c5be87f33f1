"""Operators are named after their Keras layers."""

from __future__ import annotations

import keras
from keras import layers

from digits import Exported
from kerakit.tflite.convert import convert_float
from kerakit.tflite.graph import read_graph
from kerakit.tflite.layers import keras_layer_names


def weighted_layers(content: bytes, model: keras.Model) -> list[tuple[str, str]]:
    graph = read_graph(content)
    names = keras_layer_names(graph, model)
    assert len(names) == len(graph.operators)
    return [(one.op, names[one.index]) for one in graph.operators if one.weighted]


def test_layers_that_keras_named_itself(exported_digits: Exported) -> None:
    """conv2d and conv2d_1 are distinguished."""
    content = exported_digits.int8.read_bytes()
    assert weighted_layers(content, exported_digits.model) == [
        ("CONV_2D", "conv2d"),
        ("DEPTHWISE_CONV_2D", "depthwise_conv2d"),
        ("CONV_2D", "conv2d_1"),
        ("FULLY_CONNECTED", "dense"),
        ("FULLY_CONNECTED", "dense_1"),
    ]


def test_layers_of_nested_models() -> None:
    inner = keras.Sequential([layers.Conv2D(2, 1, name="deep")], name="inner")
    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Dense(2, name="top")(layers.Flatten()(inner(image))))
    assert weighted_layers(convert_float(model), model) == [
        ("CONV_2D", "deep"),
        ("FULLY_CONNECTED", "top"),
    ]


def test_an_operator_without_a_layer_keeps_its_own_name() -> None:
    image = keras.Input((4, 4, 3))
    model = keras.Model(image, keras.ops.abs(image))
    other = keras.Sequential([keras.Input((1,)), layers.Dense(1, name="unrelated")])
    graph = read_graph(convert_float(model))
    assert keras_layer_names(graph, other) == ["ABS"]
