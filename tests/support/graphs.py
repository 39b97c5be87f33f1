"""TensorFlow Lite files built operator by operator, without a converter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_OPTIONS = {
    "ADD": "Add",
    "CONCATENATION": "Concatenation",
    "CONV_2D": "Conv2D",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2D",
    "FULLY_CONNECTED": "FullyConnected",
    "MAX_POOL_2D": "Pool2D",
    "MUL": "Mul",
    "PACK": "Pack",
    "STRIDED_SLICE": "StridedSlice",
    "SUB": "Sub",
    "TRANSPOSE_CONV": "TransposeConv",
}

Shape = tuple[int, ...]


class Net:
    """A graph whose tensors are int8 unless stated; the last output is the output of the file.

    >>> net = Net()
    >>> net.op("SOFTMAX", [net.tensor((1, 10))], (1, 10)) > 0
    True
    """

    def __init__(self) -> None:
        self.model: Any = schema.ModelT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes, self.graph = [], schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model.subgraphs = [self.graph]
        self.last = 0

    def tensor(self, shape: Shape, kind: str = "INT8", data: Any = None, name: str = "") -> int:
        """Add a tensor, constant if it has data; return its index."""
        tensor: Any = schema.TensorT()
        tensor.name = (name or f"tensor{len(self.graph.tensors)}").encode()
        tensor.shape, tensor.buffer = np.array(shape, np.int32), 0
        tensor.type = getattr(schema.TensorType, kind)
        if kind in ("INT8", "UINT8"):
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array([0.5], np.float32)
            tensor.quantization.zeroPoint = np.array([0], np.int64)
        if data is not None:
            buffer: Any = schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            tensor.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def weights(self, *shape: int) -> int:
        """Add a constant of int8."""
        return self.tensor(shape, data=np.ones(math.prod(shape), np.int8))

    def bias(self, size: int) -> int:
        """Add a constant vector of int32."""
        return self.tensor((size,), "INT32", np.ones(size, np.int32))

    def integers(self, *values: int) -> int:
        """Add a constant vector of int32, such as axes."""
        return self.tensor((len(values),), "INT32", np.array(values, np.int32))

    def op(
        self,
        name: str,
        inputs: Sequence[int],
        *outputs: Shape,
        version: int = 1,
        custom: str = "",
        **options: int,
    ) -> int:
        """Add an operator; return the index of its first output."""
        number = getattr(schema.BuiltinOperator, name)
        code = schema.OperatorCodeT(
            builtinCode=number, deprecatedBuiltinCode=min(number, 127), version=version
        )
        code.customCode = custom.encode() or None
        self.model.operatorCodes.append(code)
        operator: Any = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs = np.array(inputs, np.int32)
        made = [self.tensor(shape) for shape in outputs]
        operator.outputs = np.array(made, np.int32)
        if name in _OPTIONS:
            kind = f"{_OPTIONS[name]}Options"
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            operator.builtinOptions = getattr(schema, f"{kind}T")()
            for option, value in options.items():
                assert hasattr(operator.builtinOptions, option), option
                setattr(operator.builtinOptions, option, value)
        self.graph.operators.append(operator)
        self.last = made[0]
        return made[0]

    def content(self) -> bytes:
        """Return the bytes of the file; its inputs are the tensors that no operator makes."""
        made = {one for operator in self.graph.operators for one in operator.outputs}
        free = [
            index
            for index, tensor in enumerate(self.graph.tensors)
            if index not in made and not tensor.buffer
        ]
        self.graph.inputs = np.array(free, np.int32)
        self.graph.outputs = np.array([self.last], np.int32)
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
