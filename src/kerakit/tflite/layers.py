"""Keras layers behind the operators of a converted model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from kerakit.errors import list_names
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
    has_matrix = _layers_with_matrix(model)
    return [
        _find_layer(_tensor_paths(operator), has_matrix) or operator.op
        for operator in graph.operators
    ]


def describe_operators(operators: Iterable[tuple[str, str]], model: keras.Model | None) -> str:
    """Return the kinds of operators, each with the names of its layers.

    Args:
        operators: kind and path of each, as in "functional_1/conv_1/convolution".
        model: the Keras model; None: kinds alone.
    """
    has_matrix = {} if model is None else _layers_with_matrix(model)
    layers: dict[str, dict[str, None]] = {}
    for kind, path in sorted(operators):
        found = layers.setdefault(kind, {})
        if (name := _find_layer([path], has_matrix)) is not None:
            found[name] = None
    return ", ".join(kind + describe_layers(list(names)) for kind, names in layers.items())


def describe_layers(names: Sequence[str]) -> str:
    """Return the names of layers in brackets, "" without any.

    >>> describe_layers(["stem"]), describe_layers([])
    (" (layer 'stem')", '')
    """
    if not names:
        return ""
    plural = "s" if len(names) > 1 else ""
    return f" (layer{plural} {list_names([repr(name) for name in names])})"


def layers_in_text(text: str, model: keras.Model) -> list[str]:
    """Return the names of the layers whose scopes are in a message, in order."""
    has_matrix = _layers_with_matrix(model)
    paths = re.findall(r"[\w.\-]+(?:/[\w.\-]+)+", text)
    found = (_find_layer([path], has_matrix) for path in paths if ".py" not in path)
    return [name for name in dict.fromkeys(found) if name is not None]


def _layers_with_matrix(model: keras.Model) -> dict[str, bool]:
    """Return the names of the layers, and whether each has a weight matrix."""
    return {
        layer.name: any(len(weight.shape) >= 2 for weight in layer.weights)
        for layer in _all_layers(model)
    }


def _tensor_paths(operator: Operator) -> list[str]:
    tensors = [*([operator.weighted.weights] if operator.weighted else []), *operator.outputs]
    return [path for tensor in tensors for path in tensor.name.split(";")]


def _find_layer(paths: Iterable[str], has_matrix: dict[str, bool]) -> str | None:
    """Return the innermost layer of the paths; of several, fused into one, that with a matrix."""
    names = [
        name
        for path in paths
        for scope in reversed(path.split("/"))
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
