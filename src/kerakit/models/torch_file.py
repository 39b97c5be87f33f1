"""Tensors of a file written by ``torch.save``, read without torch and without executing it.

Such files are pickles, and unpickling executes the functions that they name. Here the opcodes are
only read (``pickletools``), and the few that describe tensors are interpreted; all others are
errors. The format is that of torch before 1.6: five pickles (magic number, version, system
information, state dictionary, names of the storages), followed by the bytes of the storages.
"""

from __future__ import annotations

import io
import pickletools
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError

# LONG1 of the first pickle; torch/serialization.py.
_MAGIC = 0x1950A86A20F9469CFC6C
_MARK = object()
_TYPES: dict[str, np.dtype[Any]] = {
    "torch FloatStorage": np.dtype("<f4"),
    "torch LongStorage": np.dtype("<i8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_VALUES = {"BININT", "BININT1", "BININT2", "LONG1", "BINUNICODE"}


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names; it is never imported."""

    of: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype[Any]


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_tensors(path: Path) -> dict[str, NDArray[Any]]:
    """Return the tensors of a state dictionary by name, float32 or int64.

    Raises:
        UserError: the file is damaged, has another format, or contains anything but tensors.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", DeprecationWarning
            )  # of escape sequences in damaged strings
            return _read(io.BytesIO(path.read_bytes()))
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        struct.error,
        OverflowError,
    ) as error:
        raise UserError(
            f"the weights in {path} cannot be read: {error}. Reinstall the package that contains "
            "them."
        ) from None


def _read(file: io.BytesIO) -> dict[str, NDArray[Any]]:
    magic, _, _, tensors, keys = (_describe(file) for _ in range(5))
    if magic != _MAGIC or not isinstance(tensors, dict) or not isinstance(keys, list):
        raise ValueError("not a dictionary that torch.save wrote")
    storages = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    contents = {}
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        dtype = storages[key].dtype
        content = file.read(count * dtype.itemsize) if count >= 0 else b""
        contents[key] = np.frombuffer(content, dtype)
        if len(contents[key]) != count:
            raise ValueError("it is truncated")
    return {name: _view(tensor, contents[tensor.storage.key]) for name, tensor in tensors.items()}


def _view(tensor: _Tensor, content: NDArray[Any]) -> NDArray[Any]:
    """Return the part of a storage that a tensor is."""
    last = tensor.offset + sum(
        (length - 1) * step for length, step in zip(tensor.shape, tensor.strides, strict=True)
    )
    if (
        min((tensor.offset, *tensor.strides)) < 0
        or min(tensor.shape, default=1) < 1
        or last >= len(content)
    ):
        raise ValueError("a tensor does not fit its storage")
    strides = [step * content.itemsize for step in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        content[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _describe(file: io.BytesIO) -> Any:
    """Follow the opcodes of one pickle; nothing is imported, and only known names are accepted."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name == "STOP":
            return stack.pop()
        if name == "BUILD":
            # It sets attributes (of the dictionary: its version); they are not needed.
            stack.pop()
        elif name == "MARK":
            stack.append(_MARK)
        elif name in _VALUES:
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("EMPTY_DICT", "EMPTY_LIST", "EMPTY_TUPLE"):
            stack.append({"EMPTY_DICT": {}, "EMPTY_LIST": [], "EMPTY_TUPLE": ()}[name])
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
        elif name == "GLOBAL":
            stack.append(_Name(argument))
        elif name == "TUPLE":
            stack.append(tuple(_pop_to_mark(stack)))
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif name == "APPENDS":
            items = _pop_to_mark(stack)
            stack[-1].extend(items)
        elif name == "SETITEM":
            value, key = stack.pop(), stack.pop()
            stack[-1][key] = value
        elif name == "SETITEMS":
            items = _pop_to_mark(stack)
            stack[-1].update(zip(items[::2], items[1::2], strict=True))
        elif name == "BINPERSID":
            stack.append(_storage(*stack.pop()))
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(_named(function, arguments))
        elif name != "PROTO":
            raise ValueError(f"it references {name}, which tensor files do not need")
    raise ValueError("it is truncated")


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    """Remove the last mark and what is above it from the stack; return the latter."""
    start = len(stack) - 1 - stack[::-1].index(_MARK)
    items = stack[start + 1 :]
    del stack[start:]
    return items


def _storage(kind: str, dtype: _Name, key: str, *_: object) -> _Storage:
    if kind != "storage" or dtype.of not in _TYPES:
        raise ValueError(f"it holds {dtype.of}")
    return _Storage(key, _TYPES[dtype.of])


def _named(function: Any, arguments: tuple[Any, ...]) -> Any:
    """Return the object that a call of an allowed function describes."""
    if function == _Name("collections OrderedDict") and not arguments:
        return {}
    if function == _Name("torch._utils _rebuild_tensor_v2"):
        storage, offset, shape, strides, _requires_grad, _hooks = arguments
        return _Tensor(storage, offset, shape, strides)
    raise ValueError(f"it calls {getattr(function, 'of', 'an unknown function')!r}: not allowed")
