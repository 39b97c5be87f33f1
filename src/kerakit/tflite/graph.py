"""The reader of TensorFlow Lite files: a graph of operators and tensors, safe on damaged files.

Only the first subgraph is read, the one that compilers map. The format is version 3 of
TensorFlow's schema.fbs.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError, printable

_MAX_ENTRIES = 1_000_000
"""Limit on the entries of one file, that of TensorFlow's own check (flatbuffers::Verifier)."""

_CHARACTERS_PER_ENTRY = 64
"""Number of characters of a name that count as one entry."""

_MAX_RANK = 32
"""Limit on the dimensions of a tensor; TensorFlow Lite's kernels have at most 8."""

_LONGEST_NAME = 200
"""Number of characters of a name in a message, and of a custom operator's name in a file."""

_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT32": np.dtype("<f4"),
    "FLOAT16": np.dtype("<f2"),
    "INT32": np.dtype("<i4"),
    "UINT8": np.dtype("u1"),
    "INT64": np.dtype("<i8"),
    "BOOL": np.dtype("?"),
    "INT16": np.dtype("<i2"),
    "INT8": np.dtype("i1"),
    "FLOAT64": np.dtype("<f8"),
}

_OUT_OF_BOUNDS = (
    struct.error,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""Errors of the schema's classes where an offset of the file leads outside of it."""

_OPTIONS = (
    "Add",
    "Concatenation",
    "Conv2D",
    "DepthwiseConv2D",
    "FullyConnected",
    "Mul",
    "Pack",
    "Pool2D",
    "StridedSlice",
    "Sub",
    "TransposeConv",
)
"""Option tables that are read; no consumer needs the others."""

_FUSED_ACTIVATIONS = ("NONE", "RELU", "RELU_N1_TO_1", "RELU6", "TANH", "SIGN_BIT")
"""ActivationFunctionType of the schema."""

_OPERANDS = {
    "CONV_2D": (0, 1, 2),
    "DEPTHWISE_CONV_2D": (0, 1, 2),
    "FULLY_CONNECTED": (0, 1, 2),
    "TRANSPOSE_CONV": (2, 1, 3),
}
"""Indices of input, weights and bias among the inputs of the operators that have weights."""


class _DamagedError(Exception):
    """The file contradicts itself; the text says where."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor.

    Attributes:
        name: name of the tensor.
        type: element type as the schema names it, such as "INT8".
        shape: sizes of its dimensions; () for a scalar.
        data: bytes of a constant, uint8 (n,); None for a computed tensor.
        scales: quantization scales, float32: none, one, or one per slice.
        zero_points: quantization zero points, int64.
        variable: whether it keeps its value between inferences.
        index: in the list of tensors of the file.
        buffer: index of the buffer that holds its data.
        quantized_dimension: the dimension that ``scales`` belong to if there are several.
        shape_signature: ``shape`` with -1 for dynamic sizes; () if the file has none.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8] | None
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    variable: bool
    index: int = 0
    buffer: int = 0
    quantized_dimension: int = 0
    shape_signature: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def is_constant(self) -> bool:
        """Whether its values are stored in the file."""
        return self.data is not None

    @cached_property
    def integers(self) -> tuple[int, ...]:
        """Values of an INT32 or INT64 constant; () for other tensors."""
        if self.data is None or self.type not in ("INT32", "INT64"):
            return ()
        dtype = _DTYPES[self.type]
        return () if self.data.size % dtype.itemsize else tuple(self.data.view(dtype).tolist())

    @cached_property
    def values(self) -> NDArray[Any]:
        """Stored values of a constant, in its type and shape, read-only.

        Raises:
            UserError: it is computed, sparse, or of a type that NumPy lacks.
        """
        dtype = _DTYPES.get(self.type)
        if self.data is None or dtype is None or self.data.size != self.size * dtype.itemsize:
            raise UserError(f"{_describe(self.name)} of type {self.type} is not a dense constant.")
        return self.data.view(dtype).reshape(self.shape)

    @property
    def channels(self) -> NDArray[Any]:
        """Stored values of a constant per quantized channel, (channels, values per channel)."""
        values = np.moveaxis(np.atleast_1d(self.values), self.quantized_dimension, 0)
        return values.reshape(len(values), -1)

    def dequantize(self) -> NDArray[np.float32]:
        """Return the real values of a constant, float32, in its shape.

        Raises:
            UserError: as ``values``; or the number of scales or zero points does not fit.
        """
        values = self.values.astype(np.float32)
        if not self.scales.size:
            return values
        return (values - self._per_channel(self.zero_points)) * self._per_channel(self.scales)

    def _per_channel(self, parameters: NDArray[Any]) -> NDArray[np.float32]:
        """Return quantization parameters in a shape that broadcasts over the values."""
        shape = [1] * len(self.shape)
        if parameters.size != 1:
            if not self.shape or parameters.size != self.shape[self.quantized_dimension]:
                raise UserError(
                    f"{_describe(self.name, self.shape)} has {parameters.size} quantization "
                    "parameters."
                )
            shape[self.quantized_dimension] = -1
        return parameters.astype(np.float32).reshape(shape)


class WeightedOperands(NamedTuple):
    """Operands of a convolution or dense layer; ``weights`` is constant."""

    input: Tensor
    weights: Tensor
    bias: Tensor | None


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator.

    Attributes:
        index: in the order of execution, from 0.
        op: name in the schema, such as "CONV_2D"; the number of an operator that the schema lacks.
        custom: name of a custom operator, whose ``op`` is "CUSTOM".
        version: version of the operator.
        inputs: tensors; None for an optional one that is omitted.
        outputs: tensors.
        options: the schema's table of options, or None.
    """

    index: int
    op: str
    custom: str
    version: int
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: Any

    def option(self, name: str, default: Any = 0) -> Any:
        """Return an option by its name in the schema's Python classes."""
        value = getattr(self.options, name, default)
        return default if value is None else value

    def input(self, index: int) -> Tensor | None:
        """Return an input; None if it is omitted or the operator has fewer."""
        return self.inputs[index] if index < len(self.inputs) else None

    @cached_property
    def activations(self) -> list[Tensor]:
        """Computed inputs, without constants."""
        return [tensor for tensor in self.inputs if tensor is not None and tensor.data is None]

    @property
    def fused_activation(self) -> str:
        """Activation that the operator applies to its output, such as "RELU6"; "NONE" without."""
        number = int(self.option("fusedActivationFunction"))
        return dict(enumerate(_FUSED_ACTIVATIONS)).get(number, str(number))

    @cached_property
    def weighted(self) -> WeightedOperands | None:
        """Operands of a convolution or dense layer with constant weights; None for others."""
        if self.op not in _OPERANDS:
            return None
        image, weights, bias = (self.input(index) for index in _OPERANDS[self.op])
        if image is None or weights is None or not weights.is_constant:
            return None
        return WeightedOperands(image, weights, bias)


@dataclass(frozen=True)
class Kind:
    """An operator code of the file, used by an operator or not."""

    code: int
    op: str
    custom: str
    version: int


@dataclass(frozen=True, eq=False)
class Graph:
    """Content of a file.

    Attributes:
        schema_version: version of the schema.
        kinds: operator codes.
        tensors: in the order of the file.
        operators: in the order of execution.
        inputs: tensors.
        outputs: tensors.
    """

    schema_version: int
    kinds: list[Kind]
    tensors: list[Tensor]
    operators: list[Operator]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def read_graph(content: bytes) -> Graph:
    """Read the bytes of a ``.tflite`` file.

    Raises:
        UserError: the content is not a TensorFlow Lite model, or damaged.
    """
    if content[4:8] != b"TFL3":
        raise UserError(
            "not a TensorFlow Lite model: bytes 4 to 8 are not TFL3. Expected a .tflite file."
        )
    try:
        return _Reader(content).graph()
    except _DamagedError as error:
        reason = str(error)
    except _OUT_OF_BOUNDS:
        reason = "an offset leads outside of the file, as in a truncated one"
    raise UserError(f"the TensorFlow Lite model is damaged: {reason}. Convert or copy it again.")


class _Reader:
    """Reads one file and counts its entries, since those of a damaged file may overlap."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model = schema.Model.GetRootAs(content, 0)
        self.left = _MAX_ENTRIES
        self.ops = _names(schema.BuiltinOperator)
        self.types = _names(schema.TensorType)
        self.options = {getattr(schema.BuiltinOptions, f"{name}Options") for name in _OPTIONS}

    def graph(self) -> Graph:
        kinds = [
            self._kind(self.model.OperatorCodes(i))
            for i in self._range(self.model.OperatorCodesLength())
        ]
        if self.model.SubgraphsLength() < 1:
            raise _DamagedError("it has no subgraph")
        subgraph = self.model.Subgraphs(0)
        tensors = [
            self._tensor(i, subgraph.Tensors(i)) for i in self._range(subgraph.TensorsLength())
        ]
        operators = [
            self._operator(i, subgraph.Operators(i), kinds, tensors)
            for i in self._range(subgraph.OperatorsLength())
        ]
        _check_order(operators)
        inputs = self._required(subgraph.InputsAsNumpy(), tensors)
        outputs = self._required(subgraph.OutputsAsNumpy(), tensors)
        return Graph(int(self.model.Version()), kinds, tensors, operators, inputs, outputs)

    def _range(self, length: int) -> Iterator[int]:
        self.left -= length
        if self.left < 0:
            raise _DamagedError(f"it has more than {_MAX_ENTRIES:,} entries")
        return iter(range(length))

    def _kind(self, code: Any) -> Kind:
        # Files from before 2020 have only the older field, of 8 bits; newer files have both.
        number = max(int(code.DeprecatedBuiltinCode()), int(code.BuiltinCode()))
        op = self.ops.get(number, str(number))
        custom = self._text(code.CustomCode())
        if len(custom) > _LONGEST_NAME:
            raise _DamagedError(f"the name of a custom operator has {len(custom):,} characters")
        return Kind(number, op, custom, int(code.Version()))

    def _tensor(self, index: int, table: Any) -> Tensor:
        name, shape = self._text(table.Name()), self._sizes(table.ShapeAsNumpy())
        type_ = self.types.get(int(table.Type()), str(table.Type()))
        buffer = int(table.Buffer())
        data = self._data(buffer)
        if (
            data is not None
            and type_ in _DTYPES
            and not table.Sparsity()
            and data.size != math.prod(shape) * _DTYPES[type_].itemsize
        ):
            raise _DamagedError(f"{_describe(name, shape)} has {data.size} bytes")
        quantization = table.Quantization()
        scales = self._vector(quantization.ScaleAsNumpy() if quantization else 0)
        zero_points = self._vector(quantization.ZeroPointAsNumpy() if quantization else 0)
        dimension = int(quantization.QuantizedDimension()) if quantization else 0
        if not 0 <= dimension < len(shape):
            if scales.size > 1 and shape:
                raise _DamagedError(f"{_describe(name, shape)} has no dimension {dimension}")
            dimension = 0
        return Tensor(
            name=name,
            type=type_,
            shape=shape,
            data=data,
            scales=scales.astype(np.float32),
            zero_points=zero_points.astype(np.int64),
            variable=bool(table.IsVariable()),
            index=index,
            buffer=buffer,
            quantized_dimension=dimension,
            shape_signature=self._sizes(table.ShapeSignatureAsNumpy()),
        )

    def _text(self, value: bytes | None) -> str:
        text = (value or b"").decode(errors="replace")
        self._range(len(text) // _CHARACTERS_PER_ENTRY)
        return text

    def _sizes(self, values: Any) -> tuple[int, ...]:
        sizes = self._vector(values).tolist()
        if len(sizes) > _MAX_RANK:
            raise _DamagedError(f"a tensor has {len(sizes):,} dimensions")
        return tuple(sizes)

    def _data(self, buffer: int) -> NDArray[np.uint8] | None:
        table = self.model.Buffers(self._checked(buffer, self.model.BuffersLength()))
        data = self._array(table.DataAsNumpy())
        return data.view(np.uint8) if data.size else None

    def _operator(
        self, index: int, table: Any, kinds: list[Kind], tensors: list[Tensor]
    ) -> Operator:
        kind = kinds[self._checked(int(table.OpcodeIndex()), len(kinds))]
        inputs = self._vector(table.InputsAsNumpy()).tolist()
        options = None
        if table.BuiltinOptionsType() in self.options:
            options = self.schema.BuiltinOptionsCreator(
                table.BuiltinOptionsType(), table.BuiltinOptions()
            )
        return Operator(
            index=index,
            op=kind.op,
            custom=kind.custom,
            version=kind.version,
            inputs=tuple(
                None if i == -1 else tensors[self._checked(i, len(tensors))] for i in inputs
            ),
            outputs=self._required(table.OutputsAsNumpy(), tensors),
            options=options,
        )

    def _required(self, indices: Any, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(
            tensors[self._checked(i, len(tensors))] for i in self._vector(indices).tolist()
        )

    @staticmethod
    def _checked(index: int, length: int) -> int:
        if not 0 <= index < length:
            raise _DamagedError(f"index {index} is not within 0 to {length - 1}")
        return index

    def _vector(self, values: Any) -> NDArray[Any]:
        """Return a vector that is short in a valid file."""
        array = self._array(values)
        self._range(array.size)
        return array

    @staticmethod
    def _array(values: Any) -> NDArray[Any]:
        """Return a vector of numbers; an empty one if absent: the schema's classes return 0."""
        return values if isinstance(values, np.ndarray) else np.empty(0, np.uint8)


def _describe(name: str, shape: tuple[int, ...] | None = None) -> str:
    """Return a tensor's name and shape for a message; a name in a damaged file may be endless."""
    text = f"tensor {printable(name[:_LONGEST_NAME])}"
    return text if shape is None else f"{text} of shape {list(shape)}"


def _check_order(operators: list[Operator]) -> None:
    """Raise _DamagedError if an operator reads an output of itself or of a later operator."""
    computed_later = {tensor for operator in operators for tensor in operator.outputs}
    for operator in operators:
        for tensor in operator.activations:
            if tensor in computed_later:
                raise _DamagedError(f"operator {operator.index} comes before its input")
        computed_later.difference_update(operator.outputs)


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
