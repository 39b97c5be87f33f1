"""Operators that are appended to a TensorFlow Lite file, to compute further on its outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kerakit.tflite.edit import pack_model, unpack_model

_METADATA = b"TFLITE_METADATA"
"""Name of the buffer that describes inputs and outputs."""

_TYPES = {"float32": "FLOAT32", "int32": "INT32", "bool": "BOOL", "uint8": "UINT8"}


class Appender:
    """Appends operators after those of a file; version 1 of each, for old runtimes.

    Tensors are indices, as in the file.

    Args:
        content: the file.

    Attributes:
        outputs: outputs of the file.
    """

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self._schema: Any = schema
        self._model = unpack_model(content)
        self._graph = self._model.subgraphs[0]
        self.outputs = [int(index) for index in self._graph.outputs]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return tuple(int(size) for size in self._graph.tensors[tensor].shape)

    def scale(self, tensor: int) -> float:
        """Return the quantization scale of a tensor."""
        return float(self._graph.tensors[tensor].quantization.scale[0])

    def constant(self, values: ArrayLike, dtype: str = "float32") -> int:
        """Add a constant tensor."""
        array = np.asarray(values, dtype)
        buffer = self._schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self._model.buffers.append(buffer)
        return self._add(array.shape, dtype, len(self._model.buffers) - 1)

    def reshape(self, tensor: int, shape: Sequence[int]) -> int:
        """Add a RESHAPE, which keeps type and quantization."""
        target = self.constant(shape, "int32")
        [output] = self.apply("RESHAPE", [tensor, target], [(shape, "float32")])
        source, result = (self._graph.tensors[index] for index in (tensor, output))
        result.type, result.quantization = source.type, source.quantization
        return output

    def apply(
        self,
        op: str,
        inputs: Sequence[int],
        outputs: Sequence[tuple[Sequence[int], str]],
        options: Mapping[str, Any] | None = None,
        custom: bytes | None = None,
    ) -> list[int]:
        """Add an operator; return its outputs.

        Args:
            op: name in the schema, or of a custom operator.
            inputs: tensors.
            outputs: shape and type of each output.
            options: ``{"table": name of the options table, field: value}``.
            custom: options of a custom operator.
        """
        operator = self._schema.OperatorT()
        operator.opcodeIndex = self._code(op, custom is not None)
        operator.inputs = np.array(inputs, np.int32)
        indices = [self._add(shape, dtype, 0) for shape, dtype in outputs]
        operator.outputs = np.array(indices, np.int32)
        if custom is not None:
            operator.customOptions = np.frombuffer(custom, np.uint8)
        if options is not None:
            fields = dict(options)
            table = fields.pop("table")
            operator.builtinOptionsType = getattr(self._schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(self._schema, f"{table}T")()
            for name, value in fields.items():
                setattr(operator.builtinOptions, name, value)
        self._graph.operators.append(operator)
        return indices

    def finish(self, outputs: Sequence[int]) -> bytes:
        """Return the file with these outputs, without signatures and metadata of the old ones."""
        self._graph.outputs = np.array(outputs, np.int32)
        self._model.signatureDefs = None
        metadata = self._model.metadata or []
        self._model.metadata = [one for one in metadata if bytes(one.name) != _METADATA]
        return pack_model(self._model)

    def _add(self, shape: Sequence[int], dtype: str, buffer: int) -> int:
        tensor = self._schema.TensorT()
        tensor.shape = np.array(shape, np.int32)
        tensor.type = getattr(self._schema.TensorType, _TYPES[dtype])
        tensor.buffer = buffer
        tensor.name = f"appended_{len(self._graph.tensors)}"
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def _code(self, op: str, is_custom: bool) -> int:
        code = self._schema.OperatorCodeT()
        kinds = self._schema.BuiltinOperator
        number = kinds.CUSTOM if is_custom else getattr(kinds, op)
        code.builtinCode, code.version = number, 1
        # Readers of before 2020 know this field alone; 127 marks larger numbers.
        code.deprecatedBuiltinCode = min(number, 127)
        code.customCode = op if is_custom else None
        self._model.operatorCodes.append(code)
        return len(self._model.operatorCodes) - 1
