"""TensorFlow Lite files for tests: real pairs, files of the real converter, edited files."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from kerakit.tflite.convert import make_int8_converter, run_converter

PAIRS = Path(__file__).parents[1] / "deploy" / "edgetpu" / "pairs"
PAIR_NAMES = sorted(
    path.name.removesuffix("_edgetpu.tflite.gz") for path in PAIRS.glob("*_edgetpu.tflite.gz")
)
"""Models of which ``pairs`` has the file before and after the Edge TPU compiler."""


def read_pair(name: str) -> bytes:
    """Return the content of a file of ``pairs``."""
    return gzip.decompress((PAIRS / f"{name}.tflite.gz").read_bytes())


def add_convolution(end: Callable[[Any], Any]) -> keras.Model:
    """Return a model of 16x16 pixels: a convolution, then what ``end`` makes of its 8 channels."""
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    return keras.Model(image, end(layers.Conv2D(8, 3, padding="same", activation="relu")(x)))


def classify(x: Any) -> Any:
    """Return the usual head of a classifier."""
    return layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def convert_int8(model: keras.Model, **options: Any) -> bytes:
    """Convert to int8 with uint8 input and output; ``options`` are set on the converter."""
    shape = model.input_shape[1:]
    images = [np.random.default_rng(seed).integers(0, 256, shape) for seed in range(2)]
    converter = make_int8_converter(model, images)
    for name, value in options.items():
        setattr(converter, name, value)
    return run_converter(converter.convert)


def edit(content: bytes, change: Callable[[Any], None]) -> bytes:
    """Return a file after ``change`` was applied to its ``schema.ModelT``."""
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
