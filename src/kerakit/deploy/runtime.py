"""LiteRT's interpreter."""

from __future__ import annotations

from typing import Any

from kerakit.errors import JobError
from kerakit.quiet import native_output


def start(content: bytes, name: str) -> Any:
    """Return an interpreter of one thread for a TensorFlow Lite file, ready to run; ``name`` is for the error.

    Raises:
        JobError: LiteRT does not run it.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        with native_output():
            interpreter = Interpreter(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise JobError(f"LiteRT does not run {name}: {str(error).splitlines()[0]}") from error
    return interpreter
