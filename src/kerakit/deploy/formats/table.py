"""The export formats, by name."""

from __future__ import annotations

from kerakit.deploy.formats.base import Format
from kerakit.deploy.formats.edgetpu import EDGETPU
from kerakit.deploy.formats.keras import H5, KERAS
from kerakit.deploy.formats.onnx import ONNX
from kerakit.deploy.formats.openvino import OPENVINO
from kerakit.deploy.formats.saved_model import SAVED_MODEL
from kerakit.deploy.formats.tflite import DYNAMIC_RANGE, FLOAT16, FLOAT32, INT8, INT16X8
from kerakit.deploy.formats.web import WEB

FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        *(H5, KERAS, SAVED_MODEL, FLOAT32, FLOAT16, DYNAMIC_RANGE),
        *(INT8, EDGETPU, ONNX, OPENVINO, INT16X8, WEB),
    )
}
"""In the order of ``FORMAT_NAMES``: each after the one that it requires, slow ones last."""
