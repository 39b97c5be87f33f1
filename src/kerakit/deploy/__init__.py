"""From a trained model to files for devices, each loaded again and measured by what its users run it with.

Imports nothing heavy: flags are checked against ``FORMAT_NAMES`` before TensorFlow is loaded.
"""

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
)
"""The formats, in the order in which they are made."""

DEFAULT_FORMATS = ("h5", "float32", "int8", "edgetpu")
"""What is made where nothing else is asked for; of it, and of ALL, what cannot be made here is left out."""

ALL = "all"
"""As a format: all of them."""
