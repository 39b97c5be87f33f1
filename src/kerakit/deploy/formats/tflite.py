"""TensorFlow Lite: float32 models with weights in three types, full int8, and int16x8."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kerakit.deploy.formats.base import FLOAT32_FILE, ExportSource, WrittenFormat
from kerakit.deploy.formats.saved_model import OUTPUT
from kerakit.deploy.quantization.int8 import (
    find_float32_operators,
    quantize_int8,
    quantize_int16x8,
)
from kerakit.inference import PredictFn, output_names
from kerakit.tflite.convert import WeightType, convert_float
from kerakit.tflite.metadata import ModelInfo, OutputInfo, add_metadata
from kerakit.tflite.runtime import load_tflite


def describe_model(source: ExportSource) -> ModelInfo:
    """Return the metadata of the TensorFlow Lite files: outputs and labels of the task."""
    task, names = source.task, output_names(source.model)
    labels = [() if task is None else tuple(task.output_labels(name)) for name in names or ("",)]
    outputs = zip(names or (OUTPUT,), labels, strict=True)
    return ModelInfo(
        name=source.model.name,
        description=f"{task.name.capitalize()} by Kerakit." if task else "",
        outputs=tuple(OutputInfo(name, of_output) for name, of_output in outputs),
        activation=task.activation if task else "none",
    )


class _Tflite:
    """A TensorFlow Lite file."""

    def __init__(self, name: str, file: str) -> None:
        self.name, self.file = name, file

    def load(self, path: Path, names: tuple[str, ...] = ()) -> PredictFn:
        """Load the file with LiteRT's interpreter."""
        return load_tflite(path, names)

    def save(self, source: ExportSource, content: bytes, name: str | None = None) -> Path:
        """Write ``content`` with metadata into the folder, as ``name`` or the format's file."""
        path = source.folder / (name or self.file)
        path.write_bytes(add_metadata(content, describe_model(source)))
        return path


class FloatTflite(_Tflite):
    """A model with float32 activations: input pixels 0 to 255, output scores, both float32.

    Args:
        name: name of the format.
        file: its file name.
        weights: type in which weights are stored, which decides the size of the file.
    """

    def __init__(self, name: str, file: str, weights: WeightType) -> None:
        super().__init__(name, file)
        self._weights = weights

    def write(self, source: ExportSource) -> WrittenFormat:
        """Convert the Keras model."""
        return WrittenFormat(self.save(source, convert_float(source.model, self._weights)))


FLOAT32 = FloatTflite("float32", FLOAT32_FILE, "float32")
FLOAT16 = FloatTflite("float16", "model_float16.tflite", "float16")
DYNAMIC_RANGE = FloatTflite("dynamic_range", "model_dynamic_range.tflite", "int8")


class Int8Tflite(_Tflite):
    """Full int8: raw uint8 pixels as input, uint8 scores as output, batch size 1."""

    requires = FLOAT32.file

    def write(self, source: ExportSource) -> WrittenFormat:
        """Quantize the float32 file with the ranges of the calibration images."""
        content = (source.folder / self.requires).read_bytes()
        stats = source.activation_stats
        details = {"calibration": source.calibration.to_json()}
        path = self.save(source, quantize_int8(content, stats, model=source.model))
        half = None
        if count := len(stats.low) // 2:
            half = self.save(source, quantize_int8(content, stats.first(count)), "half.tflite")
        return WrittenFormat(path, details, half)


class Int16x8Tflite(_Tflite):
    """Int8 weights and int16 activations: closer to the Keras model, but slow on LiteRT.

    Input pixels 0 to 255 and output scores are float32, since neither cameras nor programs use
    int16.
    """

    requires = FLOAT32.file

    def write(self, source: ExportSource) -> WrittenFormat:
        """Quantize the float32 file with the ranges of the calibration images."""
        content = (source.folder / self.requires).read_bytes()
        quantized = quantize_int16x8(content, source.activation_stats)
        details: dict[str, Any] = {"calibration": source.calibration.to_json()}
        if in_float32 := find_float32_operators(quantized):
            details["float32_operators"] = in_float32
        return WrittenFormat(self.save(source, quantized), details)


INT8 = Int8Tflite("int8", "model.tflite")
INT16X8 = Int16x8Tflite("int16x8", "model_int16x8.tflite")
