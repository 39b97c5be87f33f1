"""A process that runs TensorFlow Lite files for ``kerakit.tflite.process``.

LiteRT trusts a file: a damaged one may end its process, or allocate all memory. Messages on stdin
and stdout are a byte for the kind, the length, and the content.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections.abc import Callable
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import KerakitError, UserError, first_line
from kerakit.machine import available_memory
from kerakit.tflite.runtime import dequantize, pixel_encoder, start_interpreter

LOAD, PREDICT, DONE, ERROR = b"L", b"P", b"D", b"E"
"""Kinds of messages: two requests, two replies."""

_HEADER = struct.Struct("<cQ")
_MIN_MEMORY = 2**32


def send(file: IO[bytes], kind: bytes, content: bytes) -> None:
    """Write a message."""
    file.write(_HEADER.pack(kind, len(content)))
    file.write(content)
    file.flush()


def receive(file: IO[bytes]) -> tuple[bytes, bytes] | None:
    """Read a message; None if the other process has ended."""
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        return None
    kind, length = _HEADER.unpack(header)
    content = file.read(length)
    return (kind, content) if len(content) == length else None


class _Model:
    """A file in this process; inputs are uint8 pixels, outputs float32."""

    def __init__(self, content: bytes) -> None:
        self._interpreter = start_interpreter(content, "it")
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        if len(inputs) != 1 or not outputs:
            raise UserError(
                f"it has {len(inputs)} inputs and {len(outputs)} outputs; expected one input"
            )
        self._input, self._outputs = inputs[0], outputs
        shape = [int(size) for size in self._input["shape"]]
        if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or min(shape) < 1:
            raise UserError(
                f"its input has the shape {shape}; expected [1, height, width, 3]: RGB pixels"
            )
        self.shape = (shape[1], shape[2], 3)
        self.outputs = [[int(size) for size in one["shape"]] for one in outputs]
        self._encode: Callable[[NDArray[np.uint8]], NDArray[Any]]
        self._encode, self.assumption = pixel_encoder(self._input)

    def describe(self) -> bytes:
        values = {"shape": self.shape, "outputs": self.outputs, "assumption": self.assumption}
        return json.dumps(values).encode()

    def predict(self, pixels: bytes) -> bytes:
        image = np.frombuffer(pixels, np.uint8).reshape(self.shape)
        self._interpreter.set_tensor(self._input["index"], self._encode(image)[None])
        self._interpreter.invoke()
        return b"".join(
            dequantize(
                self._interpreter.get_tensor(one["index"]).ravel(), *one["quantization"]
            ).tobytes()
            for one in self._outputs
        )


def _limit_resources() -> None:
    """End this process, not the machine, if a file asks for too much memory; write no core file."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        limit = max(_MIN_MEMORY, available_memory())
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main() -> None:
    """Reply to requests until stdin is closed."""
    replies = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (1, 2):  # native code writes to them
        os.dup2(null, descriptor)
    _limit_resources()
    model: _Model | None = None
    while (request := receive(sys.stdin.buffer)) is not None:
        kind, content = request
        try:
            if kind == LOAD:
                model = None  # frees its memory first
                model = _Model(content)
                send(replies, DONE, model.describe())
            else:
                assert model is not None  # noqa: S101 - the other process loads first
                send(replies, DONE, model.predict(content))
        except KerakitError as error:
            send(replies, ERROR, str(error).encode(errors="replace"))
        except Exception as error:
            send(replies, ERROR, first_line(error).encode(errors="replace"))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main()
