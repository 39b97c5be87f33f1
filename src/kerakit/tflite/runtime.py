"""LiteRT's interpreter for TensorFlow Lite files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import redirect_native_output
from kerakit.errors import JobError, UserError, first_line
from kerakit.inference import PredictFn, name_outputs


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


def load_tflite(path: Path, names: tuple[str, ...] = ()) -> PredictFn:
    """Load a TensorFlow Lite file with batch size 1; quantized outputs are dequantized.

    Args:
        path: path of the file.
        names: names of several outputs, in the order of the file; () for one output.

    Raises:
        JobError: LiteRT cannot run the file.
    """
    return tflite_predict_fn(start_interpreter(path.read_bytes(), path.name), names)


def tflite_predict_fn(interpreter: Any, names: tuple[str, ...] = ()) -> PredictFn:
    """Return the function that runs images through an interpreter, one by one."""
    scales = [one["quantization"] for one in interpreter.get_output_details()]
    predict_stored = stored_predict_fn(interpreter)

    def predict(images: NDArray[np.uint8]) -> Any:
        stored = predict_stored(images)
        real = [dequantize(values, *scale) for values, scale in zip(stored, scales, strict=True)]
        return name_outputs(real, names)

    return predict


def stored_predict_fn(interpreter: Any) -> Callable[[NDArray[np.uint8]], list[NDArray[Any]]]:
    """Return the same function without names and dequantization: a list, one array per output."""
    (into,), outputs = interpreter.get_input_details(), interpreter.get_output_details()

    def predict(images: NDArray[np.uint8]) -> list[NDArray[Any]]:
        rows: list[list[NDArray[Any]]] = [[] for _ in outputs]
        for image in images:
            interpreter.set_tensor(into["index"], image[None].astype(into["dtype"]))
            interpreter.invoke()
            for row, out in zip(rows, outputs, strict=True):
                row.append(interpreter.get_tensor(out["index"])[0])
        return [np.stack(row) for row in rows]

    return predict


PIXEL_RANGES = ((0.0, 255.0), (0.0, 1.0), (-1.0, 1.0))
"""Real values of the darkest and the brightest pixel, as models are usually trained."""

_TOLERANCE = 0.25
"""Largest deviation of an end of a quantized range from PIXEL_RANGES, as a fraction of its width.

A converter sets the range by calibration images, which may lack black or white.
"""


def pixel_encoder(details: Any) -> tuple[Callable[[NDArray[np.uint8]], NDArray[Any]], str]:
    """Return the function from uint8 pixels to the values of an input tensor, and an assumption.

    Args:
        details: an entry of ``get_input_details``.

    Returns:
        The function; what was assumed because the file leaves it open, "" if nothing.

    Raises:
        UserError: the file does not say which values pixels have.
    """
    dtype, (scale, zero_point) = np.dtype(details["dtype"]), details["quantization"]
    if dtype.kind == "f":
        return (
            lambda image: image.astype(dtype),
            f"its input is {dtype.name} without a range; assumed: pixels from 0 to 255",
        )
    if dtype == np.uint8 and (scale == 0 or (scale, zero_point) == (1, 0)):
        return (lambda image: image), ""
    if dtype.kind not in "iu" or scale == 0 or not np.isfinite(scale):
        raise UserError(
            f"its input is {dtype.name} without a scale and zero point, so the values of pixels "
            "are unknown; expected uint8, int8, int16 or float32"
        )
    limits = np.iinfo(dtype)
    low, high = (float(scale) * (value - zero_point) for value in (limits.min, limits.max))
    fitting = [
        ends for ends in PIXEL_RANGES if _fits(low, high, ends, symmetric=dtype.itemsize > 1)
    ]
    if not fitting and dtype == np.uint8:
        return (
            lambda image: image,
            f"its uint8 input has values from {low:.3g} to {high:.3g}; assumed: pixels from 0 to "
            "255 as they are",
        )
    if len(fitting) != 1:
        open_ = "both 0 to 1 and -1 to 1" if fitting else "no usual range of pixels"
        raise UserError(
            f"its {dtype.name} input has values from {low:.3g} to {high:.3g}, which fits {open_} "
            "(0 to 255, 0 to 1, -1 to 1). Convert it with uint8 or float32 input"
        )
    darkest, brightest = fitting[0]
    # In float64: the same rounding for all pixels, whatever the type.
    real = darkest + np.arange(256) * ((brightest - darkest) / 255)
    stored = np.clip(np.round(real / float(scale)) + zero_point, limits.min, limits.max)
    if dtype == np.uint8 and np.abs(stored - np.arange(256)).max() <= 1:
        return (lambda image: image), ""  # half a step apart at most: the scale is that of bytes
    table = stored.astype(dtype)
    return (lambda image: table[image]), ""


def _fits(low: float, high: float, ends: tuple[float, float], symmetric: bool) -> bool:
    """Whether a quantized range is that of pixels; a symmetric one includes negative values."""
    darkest, brightest = ends
    allowed = _TOLERANCE * (brightest - darkest)
    if symmetric:
        return abs(high - brightest) <= _TOLERANCE * brightest
    return abs(low - darkest) <= allowed and abs(high - brightest) <= allowed


def dequantize(values: NDArray[Any], scale: float, zero_point: int) -> NDArray[np.float32]:
    """Return the real values of quantized ones, float32; scale 0 marks unquantized values."""
    real = values.astype(np.float32, copy=False)
    return real if scale == 0 else (real - zero_point) * np.float32(scale)
