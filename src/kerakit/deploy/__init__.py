"""Export of trained models to files for devices, each verified on held-out images.

The names in ``__all__`` are the public interface. They are imported on first use: scripts check
their flags against ``FORMAT_NAMES`` before TensorFlow is imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerakit.lazy import lazy_names

if TYPE_CHECKING:
    from kerakit.deploy.edgetpu.compiled import check_compiled_file
    from kerakit.deploy.edgetpu.untrained import describe_unsupported, forecast_model
    from kerakit.deploy.export import export_model
    from kerakit.deploy.folder import ExportFolder
    from kerakit.deploy.formats.base import EdgeTpuOptions
    from kerakit.deploy.hub import check_push, fetch_export, is_hub_address, push_export
    from kerakit.deploy.predict import (
        ExportedModel,
        find_images,
        load_exported,
        predict_images,
        write_predictions,
    )
    from kerakit.deploy.quantization.calibration import Calibration, select_calibration_images
    from kerakit.deploy.results import FormatResult, print_results
    from kerakit.inference import keras_predict_fn

FORMAT_NAMES = (
    "h5",
    "keras",
    "saved_model",
    "float32",
    "float16",
    "dynamic_range",
    "int8",
    "edgetpu",
    "onnx",
    "openvino",
    "int16x8",
    "web",
)
"""Names of the formats, in the order in which they are written.

>>> "int8" in FORMAT_NAMES
True
"""

DEFAULT_FORMATS = ("h5", "float32", "int8", "edgetpu")
"""Formats that are exported by default; unavailable ones are skipped.

>>> set(DEFAULT_FORMATS) <= set(FORMAT_NAMES)
True
"""

ALL_FORMATS = "all"
"""In place of names: all formats; unavailable ones are skipped.

>>> ALL_FORMATS in FORMAT_NAMES
False
"""

_HOMES = {
    "Calibration": "kerakit.deploy.quantization.calibration",
    "EdgeTpuOptions": "kerakit.deploy.formats.base",
    "ExportFolder": "kerakit.deploy.folder",
    "ExportedModel": "kerakit.deploy.predict",
    "FormatResult": "kerakit.deploy.results",
    "check_compiled_file": "kerakit.deploy.edgetpu.compiled",
    "check_push": "kerakit.deploy.hub",
    "describe_unsupported": "kerakit.deploy.edgetpu.untrained",
    "export_model": "kerakit.deploy.export",
    "fetch_export": "kerakit.deploy.hub",
    "find_images": "kerakit.deploy.predict",
    "forecast_model": "kerakit.deploy.edgetpu.untrained",
    "is_hub_address": "kerakit.deploy.hub",
    "keras_predict_fn": "kerakit.inference",
    "load_exported": "kerakit.deploy.predict",
    "predict_images": "kerakit.deploy.predict",
    "print_results": "kerakit.deploy.results",
    "push_export": "kerakit.deploy.hub",
    "select_calibration_images": "kerakit.deploy.quantization.calibration",
    "write_predictions": "kerakit.deploy.predict",
}

__all__ = [
    "ALL_FORMATS",
    "DEFAULT_FORMATS",
    "FORMAT_NAMES",
    "Calibration",
    "EdgeTpuOptions",
    "ExportFolder",
    "ExportedModel",
    "FormatResult",
    "check_compiled_file",
    "check_push",
    "describe_unsupported",
    "export_model",
    "fetch_export",
    "find_images",
    "forecast_model",
    "is_hub_address",
    "keras_predict_fn",
    "load_exported",
    "predict_images",
    "print_results",
    "push_export",
    "select_calibration_images",
    "write_predictions",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
