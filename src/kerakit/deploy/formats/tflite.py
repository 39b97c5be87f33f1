"""TensorFlow Lite: floats with weights in float32, float16 or int8; full int8 with uint8 pixels in and scores out; int16x8."""

from __future__ import annotations

from pathlib import Path

from kerakit.deploy.formats.base import Source, Written
from kerakit.deploy.quantization import ranges
from kerakit.deploy.quantization.int8 import int8, to_int16x8
from kerakit.inference import PredictFn
from kerakit.tflite.convert import WeightType, convert_float, run_converter
from kerakit.tflite.runtime import load_tflite


class Floats:
    """The trained model for any CPU or GPU that TensorFlow Lite runs on: float32 pixels, 0 to 255, in; float32 scores out.

    Args:
        name: of the format.
        file: its file name.
        weights: how they are stored; they are what the file's size comes from.
    """

    def __init__(self, name: str, file: str, weights: WeightType) -> None:
        self.name, self.file, self._weights = name, file, weights

    def write(self, source: Source) -> Written:
        """Convert."""
        return Written(
            _write(source.folder / self.file, convert_float(source.model, self._weights))
        )

    def load(self, path: Path) -> PredictFn:
        """Load the file with LiteRT's interpreter."""
        return load_tflite(path)


FLOAT32 = Floats("float32", "model_float32.tflite", "float32")
FLOAT16 = Floats("float16", "model_float16.tflite", "float16")
DYNAMIC_RANGE = Floats("dynamic_range", "model_dynamic_range.tflite", "int8")


class Int8:
    """Weights and activations in int8, raw uint8 pixels in, uint8 scores out, a batch of one: what devices run."""

    name, file, made_from = "int8", "model.tflite", FLOAT32.file

    def write(self, source: Source) -> Written:
        """Quantise ``model_float32.tflite`` of the same folder with the ranges that the calibration images show."""
        content = (source.folder / self.made_from).read_bytes()
        seen = ranges.look(content, source.calibration.images())
        half = len(seen.low) // 2
        return Written(
            _write(source.folder / self.file, int8(content, seen)),
            {"calibration": source.calibration.facts()},
            half=_write(source.folder / "half.tflite", int8(content, seen.first(half)))
            if half
            else None,
        )

    def load(self, path: Path) -> PredictFn:
        """Load the file with LiteRT's interpreter."""
        return load_tflite(path)


class Int16x8:
    """Weights in int8, activations in int16: nearer to the trained model, and slow: LiteRT has only plain kernels for it.

    Float32 pixels, 0 to 255, in; float32 scores out: in int16 neither would be what a camera gives or a program expects.
    """

    name, file, made_from = "int16x8", "model_int16x8.tflite", FLOAT32.file

    def write(self, source: Source) -> Written:
        """Quantise ``model_float32.tflite`` of the same folder with the ranges that the calibration images show."""
        content = (source.folder / self.made_from).read_bytes()
        seen = ranges.look(content, source.calibration.images())
        quantized = run_converter(lambda: to_int16x8(content, seen))
        return Written(
            _write(source.folder / self.file, quantized),
            {"calibration": source.calibration.facts()},
        )

    def load(self, path: Path) -> PredictFn:
        """Load the file with LiteRT's interpreter."""
        return load_tflite(path)


INT8, INT16X8 = Int8(), Int16x8()


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
