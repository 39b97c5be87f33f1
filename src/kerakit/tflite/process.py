"""Unknown TensorFlow Lite files, run in a process of their own.

LiteRT trusts a file: a damaged one may end its process. Files of an export run in this process.
"""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
import threading
import weakref
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError
from kerakit.tflite.graph import read_graph
from kerakit.tflite.worker import DONE, LOAD, PREDICT, receive, send

TIMEOUT_S = 300.0
"""Limit for one request, in seconds."""


@dataclass(frozen=True)
class LoadedModel:
    """Input and output of a loaded file.

    Attributes:
        input_size: (width, height) in pixels.
        outputs: shapes of the outputs, (1, ...) each.
        assumption: what the file leaves open about its input and was assumed; "" if nothing.
    """

    input_size: tuple[int, int]
    outputs: tuple[tuple[int, ...], ...]
    assumption: str


class ModelProcess:
    """A process for one file at a time. It ends with this object, or at a file that ends it.

    Args:
        timeout_s: limit for loading, and for one image.
    """

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._sizes: list[int] = []
        self._shapes: list[tuple[int, ...]] = []
        self._process: subprocess.Popen[bytes] | None = None

    def load(self, content: bytes) -> LoadedModel:
        """Load the bytes of a file.

        Raises:
            UserError: it is damaged, or not a model of one RGB image; the text begins with a verb.
        """
        read_graph(content)
        values = json.loads(self._request(LOAD, content))
        height, width, _ = values["shape"]
        shapes = tuple(tuple(shape) for shape in values["outputs"])
        self._sizes = [math.prod(shape) for shape in shapes]
        self._shapes = [shape[1:] for shape in shapes]
        return LoadedModel((width, height), shapes, values["assumption"])

    def predict(self, images: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Map uint8 (n, height, width, 3) to a list of the outputs, float32 (n, ...) each.

        Raises:
            UserError: the file cannot run.
        """
        rows = [self._request(PREDICT, np.ascontiguousarray(image).tobytes()) for image in images]
        values = np.stack([np.frombuffer(row, np.float32) for row in rows])
        parts = np.split(values, np.cumsum(self._sizes)[:-1], axis=1)
        return [
            part.reshape(len(images), *shape)
            for part, shape in zip(parts, self._shapes, strict=True)
        ]

    def _request(self, kind: bytes, content: bytes) -> bytes:
        process = self._start()
        assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018
        timer = threading.Timer(self._timeout_s, process.kill)
        timer.daemon = True  # a signal during its start does not leave it to delay the exit
        try:
            timer.start()
            send(process.stdin, kind, content)
            reply = receive(process.stdout)
        except BrokenPipeError:
            reply = None
        finally:
            timer.cancel()
        if reply is None:
            self._process = None
            _stop(process)
            raise UserError(f"it is damaged: it ended LiteRT ({_describe_end(process.returncode)})")
        if reply[0] != DONE:
            raise UserError(reply[1].decode())
        return reply[1]

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            # -P: a module in the current folder is not imported.
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "kerakit.tflite.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            weakref.finalize(self, _stop, self._process)
        return self._process


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process that waits for a request, or has ended."""
    for pipe in (process.stdin, process.stdout):
        try:
            if pipe is not None:
                pipe.close()
        except BrokenPipeError:
            pass
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _describe_end(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    if -code == getattr(signal, "SIGKILL", None):
        return "it ran out of time or memory"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"
