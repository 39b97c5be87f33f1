"""Keras layers behind the operators of a TensorFlow Lite file."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kerakit.tflite.graph import Graph, Operator

if TYPE_CHECKING:
    import keras


def keras_layer_names(graph: Graph, model: keras.Model) -> list[str]:
    """Return the name of the Keras layer behind each operator; the operator's if none is found.

    The converter names tensors by the scopes of their layers, such as
    ``model_1/sub_1/conv_1/convolution;model_1/relu_1/Relu``. TensorFlow enters the scope of a layer
    for the second time when the function to convert is traced, and then appends ``_1``.

    Args:
        graph: converted from ``model``.
        model: the Keras model; layers of nested models count too.
    """
    # Of several layers fused into one operator, the one with a weight matrix names it.
    has_matrix = {
        layer.name: any(len(weight.shape) >= 2 for weight in layer.weights)
        for layer in _all_layers(model)
    }
    return [_layer_name(operator, has_matrix) or operator.op for operator in graph.operators]


def _layer_name(operator: Operator, has_matrix: dict[str, bool]) -> str | None:
    tensors = [*([operator.weighted.weights] if operator.weighted else []), *operator.outputs]
    scopes = [
        scope
        for tensor in tensors
        for path in tensor.name.split(";")
        for scope in reversed(path.split("/"))
    ]
    names = [
        name
        for scope in scopes
        for name in (re.sub(r"_\d+$", "", scope), scope)
        if name in has_matrix
    ]
    return max(names, key=lambda name: has_matrix[name], default=None)


def _all_layers(model: keras.Model) -> Iterator[keras.Layer]:
    """Yield the layers of a model, those of nested models too."""
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _all_layers(layer)
