"""What is in a TensorFlow Lite file: operators, their tensors, and the Keras layers that they came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Operator:
    """One operator: the place of its tensors in the file, and the layer that it came from."""

    kind: str
    layer: str
    inputs: list[int]
    outputs: list[int]
    activation: str
    weighted: tuple[int, int, int] | None  # the tensors of input, weights and bias (-1: none)


class TfliteFile:
    """The first graph of a TensorFlow Lite file."""

    def __init__(self, content: bytes, layers: Sequence[Any]) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._model = schema.ModelT.InitFromPackedBuf(content, 0)
        self.tensors: list[Any] = self._model.subgraphs[0].tensors
        self.types = {
            number: name
            for name, number in vars(schema.TensorType).items()
            if isinstance(number, int)
        }
        self._kinds = {
            number: name
            for name, number in vars(schema.BuiltinOperator).items()
            if isinstance(number, int)
        }
        self._activations = {
            number: name
            for name, number in vars(schema.ActivationFunctionType).items()
            if isinstance(number, int)
        }
        # The converter names a tensor by the scopes of its layers: those with weights say best what an operator is.
        self._ranks = {
            layer.name: max((len(weight.shape) for weight in layer.weights), default=0)
            for layer in layers
        }
        self.operators = [self._operator(one) for one in self._model.subgraphs[0].operators]

    def _operator(self, one: Any) -> Operator:
        kind = self._kinds[self._model.operatorCodes[one.opcodeIndex].builtinCode]
        inputs, outputs = list(one.inputs), list(one.outputs)
        places = {
            "CONV_2D": (0, 1, 2),
            "DEPTHWISE_CONV_2D": (0, 1, 2),
            "FULLY_CONNECTED": (0, 1, 2),
            "TRANSPOSE_CONV": (2, 1, 3),
        }
        weighted = None
        if kind in places:
            into, weights, bias = (inputs[i] if i < len(inputs) else -1 for i in places[kind])
            weighted = (into, weights, bias) if self.is_constant(weights) else None
        activation = self._activations[getattr(one.builtinOptions, "fusedActivationFunction", 0)]
        named = [*([weighted[1]] if weighted else []), *outputs]
        return Operator(kind, self._layer(named) or kind, inputs, outputs, activation, weighted)

    def _layer(self, indices: list[int]) -> str | None:
        """Return the Keras layer that the tensors are named after.

        A name is such as ``model_1/sub_1/conv_1/convolution;model_1/relu_1/Relu``: TensorFlow enters a layer's scope for the
        second time when the function to convert is traced, and then puts ``_1`` after its name.
        """
        scopes = [
            s
            for i in indices
            for name in tensor_name(self.tensors[i]).split(";")
            for s in reversed(name.split("/"))
        ]
        layers = [
            layer for s in scopes for layer in (re.sub(r"_\d+$", "", s), s) if layer in self._ranks
        ]
        return max(layers, key=lambda layer: self._ranks[layer] >= 2, default=None)

    def is_constant(self, index: int) -> bool:
        """Return whether a tensor's values are stored in the file."""
        return self._model.buffers[self.tensors[index].buffer].data is not None

    def values(self, index: int) -> NDArray[Any]:
        """Return a constant tensor as it is stored: int8 or int32."""
        tensor = self.tensors[index]
        data = bytes(self._model.buffers[tensor.buffer].data)
        return np.frombuffer(data, self.types[tensor.type].lower()).reshape(tuple(tensor.shape))

    def channels(self, index: int) -> NDArray[np.int8]:
        """Return weights as (output channels, weights of each)."""
        values = np.moveaxis(
            self.values(index), self.tensors[index].quantization.quantizedDimension, 0
        )
        return values.reshape(len(values), -1)

    def scales(self, index: int) -> NDArray[np.float64]:
        """Return the scales of a tensor; none if it has none."""
        quantization = self.tensors[index].quantization
        found = () if quantization is None or quantization.scale is None else quantization.scale
        return np.asarray(found, np.float64)


def tensor_name(tensor: Any) -> str:
    """Return the name that the converter gave a tensor."""
    return bytes(tensor.name).decode(errors="replace")
