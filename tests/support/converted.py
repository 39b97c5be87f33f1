"""TensorFlow Lite files for tests: real pairs, files of the real converter, edited files."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from kerakit.tflite.convert import make_converter, run_converter

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
    import tensorflow as tf

    def images() -> Iterator[list[Any]]:
        for seed in range(2):
            pixels = np.random.default_rng(seed).integers(0, 256, (1, *model.input_shape[1:]))
            yield [pixels.astype(np.float32)]

    converter = make_converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = images
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
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
