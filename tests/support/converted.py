"""Files for the tests of what the Edge TPU takes: real ones, those of the real converter, and edited ones."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from kerakit.deploy import litert

PAIRS = Path(__file__).parent / "edgetpu_pairs"


def pair(name: str) -> bytes:
    """Return a file of ``edgetpu_pairs``."""
    return gzip.decompress((PAIRS / f"{name}.tflite.gz").read_bytes())


def behind_a_convolution(end: Callable[[Any], Any]) -> keras.Model:
    """Return a model of raw pixels, 16 by 16, with a convolution before what ``end`` makes of its 8 channels."""
    image = keras.Input((16, 16, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    return keras.Model(image, end(layers.Conv2D(8, 3, padding="same", activation="relu")(x)))


def classes(x: Any) -> Any:
    """Return the usual end of a classifier."""
    return layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x))


def int8(model: keras.Model, **changes: Any) -> bytes:
    """Convert as ``deploy.py`` does; ``changes`` are set on the converter."""
    import tensorflow as tf

    def calibration() -> Iterator[list[Any]]:
        for seed in range(2):
            pixels = np.random.default_rng(seed).integers(0, 256, (1, *model.input_shape[1:]))
            yield [pixels.astype(np.float32)]

    converter = litert._converter(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = calibration
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.uint8
    converter._experimental_disable_per_channel_quantization_for_dense_layers = True
    for name, value in changes.items():
        setattr(converter, name, value)
    return litert._convert(converter.convert)


def edited(content: bytes, change: Callable[[Any], None]) -> bytes:
    """Return a file after ``change`` was made to its ``schema.ModelT``."""
    from ai_edge_litert import schema_py_generated as schema
    from tensorflow.lite.tools import flatbuffer_utils

    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))
