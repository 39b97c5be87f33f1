"""Backbone: the frozen part of a model, which computes features."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit.errors import JobError
from kerakit.inference import PredictFn, keras_predict_fn
from kerakit.machine import available_cores, has_accelerator

Features = NDArray[np.float32]


class Backbone:
    """The frozen part of a model: features of images, and an identity.

    Args:
        model: model from uint8 images to features, (batch, ...).

    Attributes:
        model: as given.
        shape: shape of the features of one image.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.shape: tuple[int, ...] = tuple(model.output_shape[1:])

    @cached_property
    def predict(self) -> PredictFn:
        """Function from images to features."""
        return _fastest_predict_fn(self.model)

    @cached_property
    def identity(self) -> bytes:
        """Digest of layers, weights, and the libraries that compute."""
        identity = hashlib.sha256(self.model.to_json().encode())
        for weight in self.model.get_weights():
            identity.update(np.ascontiguousarray(weight).tobytes())
        backend = keras.backend.backend()
        versions = (
            *(backend, keras.version(), _version("ai-edge-litert"), has_accelerator()),
            getattr(importlib.import_module(backend), "__version__", ""),
            keras.config.dtype_policy().name,
        )
        identity.update(repr(versions).encode())
        return identity.digest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _fastest_predict_fn(backbone: keras.Model) -> PredictFn:
    if keras.backend.backend() != "tensorflow" or has_accelerator():
        return keras_predict_fn(backbone)
    from kerakit.tflite.convert import convert_float
    from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn

    cores = available_cores()
    try:
        # The converter's own lines are about an export, which this is not.
        with contextlib.redirect_stderr(io.StringIO()):
            content = convert_float(backbone)
        workers = [tflite_predict_fn(start_interpreter(content, "backbone")) for _ in range(cores)]
    except JobError:
        print(
            "features are computed by Keras, more slowly: TensorFlow's converter rejected the "
            "backbone. An export to TensorFlow Lite will fail.",
            flush=True,
        )
        return keras_predict_fn(backbone)
    pool = ThreadPoolExecutor(cores)

    def predict(images: NDArray[Any]) -> Features:
        parts = np.array_split(images, min(cores, len(images)))
        return np.concatenate(list(pool.map(lambda work, part: work(part), workers, parts)))

    return predict
