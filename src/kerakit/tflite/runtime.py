"""LiteRT's interpreter for TensorFlow Lite files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import redirect_native_output
from kerakit.errors import JobError, first_line
from kerakit.inference import PredictFn


def start_interpreter(content: bytes, name: str, **options: Any) -> Any:
    """Return a LiteRT interpreter on one thread, with allocated tensors.

    Args:
        content: bytes of a TensorFlow Lite file.
        name: name of the file, for errors.
        options: other arguments of ``ai_edge_litert.interpreter.Interpreter``.

    Raises:
        JobError: LiteRT cannot run the file.
    """
    from ai_edge_litert.interpreter import Interpreter

    try:
        with redirect_native_output():
            interpreter = Interpreter(model_content=content, num_threads=1, **options)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise JobError(f"LiteRT cannot run {name}: {first_line(error)}") from error
    return interpreter


def load_tflite(path: Path) -> PredictFn:
    """Load a TensorFlow Lite file with batch size 1; quantized outputs are dequantized.

    Raises:
        JobError: LiteRT cannot run the file.
    """
    return tflite_predict_fn(start_interpreter(path.read_bytes(), path.name))


def tflite_predict_fn(interpreter: Any) -> PredictFn:
    """Return the function that runs images through an interpreter, one by one."""
    (out,) = interpreter.get_output_details()
    scale, zero_point = out["quantization"]
    predict_stored = stored_predict_fn(interpreter)
    return lambda images: dequantize(predict_stored(images), scale, zero_point)


def stored_predict_fn(interpreter: Any) -> Callable[[NDArray[np.uint8]], NDArray[Any]]:
    """Return the same function without dequantization of the outputs."""
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(images: NDArray[np.uint8]) -> NDArray[Any]:
        rows = []
        for image in images:
            interpreter.set_tensor(into["index"], image[None].astype(into["dtype"]))
            interpreter.invoke()
            rows.append(interpreter.get_tensor(out["index"])[0])
        return np.stack(rows)

    return predict


def dequantize(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.float32]:
    """Return the real values of quantized ones, float32; scale 0 marks unquantized values."""
    real = values.astype(np.float32, copy=False)
    return real if scale == 0 else (real - zero_point) * np.float32(scale)
