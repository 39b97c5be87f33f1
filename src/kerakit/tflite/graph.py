"""A TensorFlow Lite file as a graph of operators and tensors, read so that no damaged file can do harm.

Only the first subgraph is read: it is the one that a compiler places. The format is that of TensorFlow's schema.fbs, version 3.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError

_MOST_ENTRIES = 1_000_000
"""Tables read of one file, as TensorFlow's own check of a file allows (flatbuffers::Verifier)."""

_LETTERS_AN_ENTRY = 64
"""Letters of names that count as one of those."""

_BYTES = {
    "FLOAT32": 4,
    "FLOAT16": 2,
    "INT32": 4,
    "UINT8": 1,
    "INT64": 8,
    "BOOL": 1,
    "INT16": 2,
    "INT8": 1,
    "FLOAT64": 8,
}

_OUTSIDE = (
    struct.error,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
)
"""What the schema's classes raise where a file points outside of itself."""

_OPTIONS = (
    "Concatenation",
    "Conv2D",
    "DepthwiseConv2D",
    "FullyConnected",
    "Pack",
    "Pool2D",
    "StridedSlice",
)
"""Kinds of options that are read: others have nothing that a compiler's choice is known to depend on."""


class _DamagedError(Exception):
    """The file contradicts itself; the text says where."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor.

    Attributes:
        name: of the tensor.
        type: of its elements, as the schema names it, such as "INT8".
        shape: its sizes; () for one number.
        data: its bytes, uint8 (n,), where they are a part of the file; else None.
        scales: what an integer is worth, float32: none, one, or one for each slice.
        zero_points: the integers that stand for 0, int64.
        variable: whether it keeps its value from one inference to the next.
    """

    name: str
    type: str
    shape: tuple[int, ...]
    data: NDArray[np.uint8] | None
    scales: NDArray[np.float32]
    zero_points: NDArray[np.int64]
    variable: bool

    @property
    def size(self) -> int:
        """How many elements it has."""
        return math.prod(self.shape)

    @cached_property
    def integers(self) -> tuple[int, ...]:
        """The values of a constant of integers; () where it is none."""
        kind = {"INT32": "<i4", "INT64": "<i8"}.get(self.type)
        if self.data is None or kind is None or self.data.size % np.dtype(kind).itemsize:
            return ()
        return tuple(self.data.view(kind).tolist())


@dataclass(frozen=True, eq=False)
class Operator:
    """An operator.

    Attributes:
        index: its place in the order of execution, from 0.
        op: its name in the schema, such as "CONV_2D"; its number where the schema doesn't know it.
        custom: its name where it is of no builtin kind (``op`` is then "CUSTOM").
        version: of its kind.
        inputs: its tensors; None where an optional one is left out.
        outputs: its tensors.
        options: the schema's table of its options, or None.
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

    def input(self, place: int) -> Tensor | None:
        """Return the input at ``place``; None where there is none."""
        return self.inputs[place] if place < len(self.inputs) else None

    @cached_property
    def activations(self) -> list[Tensor]:
        """The inputs that are computed, not constant."""
        return [tensor for tensor in self.inputs if tensor is not None and tensor.data is None]


@dataclass(frozen=True)
class Kind:
    """A kind of operator that a file names, used or not."""

    code: int
    op: str
    custom: str
    version: int


@dataclass(frozen=True, eq=False)
class Graph:
    """What a file holds.

    Attributes:
        schema_version: of the format.
        kinds: the kinds of operators that it names.
        operators: in the order of execution.
        inputs: what is fed.
        outputs: what is returned.
    """

    schema_version: int
    kinds: list[Kind]
    operators: list[Operator] = field(default_factory=list)
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()


def read_graph(content: bytes) -> Graph:
    """Read the bytes of a ``.tflite`` file.

    Raises:
        UserError: they are no TensorFlow Lite model, or damaged.
    """
    if content[4:8] != b"TFL3":
        raise UserError(
            "this is no TensorFlow Lite model: bytes 4 to 8 are not TFL3. Expected a .tflite file."
        )
    try:
        return _Reader(content).graph()
    except _DamagedError as error:
        reason = str(error)
    except _OUTSIDE:
        reason = "it points outside of itself, as a file does that was cut off"
    raise UserError(f"the TensorFlow Lite model is damaged: {reason}. Convert or copy it again.")


class _Reader:
    """Reads one file; counts what it reads, since entries of a damaged file may overlap."""

    def __init__(self, content: bytes) -> None:
        from ai_edge_litert import schema_py_generated as schema

        self.schema = schema
        self.model = schema.Model.GetRootAs(content, 0)
        self.left = _MOST_ENTRIES
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
        tensors = [self._tensor(subgraph.Tensors(i)) for i in self._range(subgraph.TensorsLength())]
        operators = [
            self._operator(i, subgraph.Operators(i), kinds, tensors)
            for i in self._range(subgraph.OperatorsLength())
        ]
        _refuse_disorder(operators)
        ends = (
            self._required(subgraph.InputsAsNumpy(), tensors),
            self._required(subgraph.OutputsAsNumpy(), tensors),
        )
        return Graph(int(self.model.Version()), kinds, operators, *ends)

    def _range(self, length: int) -> Iterator[int]:
        self.left -= length
        if self.left < 0:
            raise _DamagedError(f"it has more than {_MOST_ENTRIES:,} entries")
        return iter(range(length))

    def _kind(self, code: Any) -> Kind:
        # Files of before 2020 have only the older field, of 8 bits; newer files fill in both.
        number = max(int(code.DeprecatedBuiltinCode()), int(code.BuiltinCode()))
        return Kind(
            number,
            self.ops.get(number, str(number)),
            self._text(code.CustomCode()),
            int(code.Version()),
        )

    def _tensor(self, table: Any) -> Tensor:
        quantization = table.Quantization()
        name, shape = (
            self._text(table.Name()),
            tuple(int(size) for size in self._vector(table.ShapeAsNumpy())),
        )
        kind = self.types.get(int(table.Type()), str(table.Type()))
        data = self._data(int(table.Buffer()))
        if (
            data is not None
            and kind in _BYTES
            and not table.Sparsity()
            and data.size != math.prod(shape) * _BYTES[kind]
        ):
            raise _DamagedError(f"the constant {name} of shape {list(shape)} has {data.size} bytes")
        return Tensor(
            name=name,
            type=kind,
            shape=shape,
            data=data,
            scales=self._vector(quantization.ScaleAsNumpy() if quantization else 0).astype(
                np.float32
            ),
            zero_points=self._vector(quantization.ZeroPointAsNumpy() if quantization else 0).astype(
                np.int64
            ),
            variable=bool(table.IsVariable()),
        )

    def _text(self, value: bytes | None) -> str:
        text = (value or b"").decode(errors="replace")
        self._range(len(text) // _LETTERS_AN_ENTRY)
        return text

    def _data(self, buffer: int) -> NDArray[np.uint8] | None:
        data = self._array(
            self.model.Buffers(self._place(buffer, self.model.BuffersLength())).DataAsNumpy()
        )
        return data.view(np.uint8) if data.size else None

    def _operator(
        self, index: int, table: Any, kinds: list[Kind], tensors: list[Tensor]
    ) -> Operator:
        kind = kinds[self._place(int(table.OpcodeIndex()), len(kinds))]
        places = self._vector(table.InputsAsNumpy()).tolist()
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
                None if i == -1 else tensors[self._place(i, len(tensors))] for i in places
            ),
            outputs=self._required(table.OutputsAsNumpy(), tensors),
            options=options,
        )

    def _required(self, places: Any, tensors: list[Tensor]) -> tuple[Tensor, ...]:
        return tuple(tensors[self._place(i, len(tensors))] for i in self._vector(places).tolist())

    @staticmethod
    def _place(index: int, length: int) -> int:
        if not 0 <= index < length:
            raise _DamagedError(f"entry {index} of {length} is named")
        return index

    def _vector(self, values: Any) -> NDArray[Any]:
        """Return a vector that is not long in a sound file."""
        array = self._array(values)
        self._range(array.size)
        return array

    @staticmethod
    def _array(values: Any) -> NDArray[Any]:
        """Return a vector of numbers; an empty one where the file leaves it out, for which the schema's classes return 0."""
        return values if isinstance(values, np.ndarray) else np.empty(0, np.uint8)


def _refuse_disorder(operators: list[Operator]) -> None:
    """Raise _DamagedError if an operator reads what itself or a later one makes: they are executed in the order of the file."""
    made_later = {tensor for operator in operators for tensor in operator.outputs}
    for operator in operators:
        for tensor in operator.activations:
            if tensor in made_later:
                raise _DamagedError(f"operator {operator.index} comes before what it reads")
        made_later.difference_update(operator.outputs)


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}
