"""Backbone: the frozen part of a model, which computes features."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.errors import JobError
from kerakit.inference import PredictFn, keras_predict_fn, output_names
from kerakit.machine import available_cores, has_accelerator, package_version

Features = NDArray[np.float32]


class Backbone:
    """The frozen part of a model: features of images, and an identity.

    Args:
        model: model from uint8 images to features, (batch, ...), or to a list of several.

    Attributes:
        model: as given.
        shapes: shapes of the features of one image, one per output.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.shapes: list[tuple[int, ...]] = [tuple(each.shape[1:]) for each in model.outputs]

    def predict(self, images: NDArray[Any]) -> list[Features]:
        """Return the features of images, one array (n, ...) per output."""
        features = self._predict(images)
        several = list(features.values()) if isinstance(features, dict) else [features]
        return [np.ascontiguousarray(each, np.float32) for each in several]

    @cached_property
    def _predict(self) -> PredictFn:
        return _fastest_predict_fn(self.model)

    @cached_property
    def identity(self) -> bytes:
        """Digest of layers, weights, and the libraries that compute."""
        identity = hashlib.sha256(self.model.to_json().encode())
        for weight in self.model.get_weights():
            identity.update(np.ascontiguousarray(weight).tobytes())
        backend = keras.backend.backend()
        versions = (
            *(backend, keras.version(), package_version("ai-edge-litert") or "", has_accelerator()),
            getattr(importlib.import_module(backend), "__version__", ""),
            keras.config.dtype_policy().name,
        )
        identity.update(repr(versions).encode())
        return identity.digest()


def _fastest_predict_fn(backbone: keras.Model) -> PredictFn:
    if keras.backend.backend() != "tensorflow" or has_accelerator():
        return keras_predict_fn(backbone)
    from kerakit.tflite.convert import convert_float
    from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn

    cores, names = available_cores(), output_names(backbone)
    try:
        # The converter's own lines are about an export, which this is not.
        with contextlib.redirect_stderr(io.StringIO()):
            content = convert_float(backbone)
        workers = [
            tflite_predict_fn(start_interpreter(content, "backbone"), names) for _ in range(cores)
        ]
    except JobError:
        print(
            "features are computed by Keras, more slowly: TensorFlow's converter rejected the "
            "backbone. An export to TensorFlow Lite will fail.",
            flush=True,
        )
        return keras_predict_fn(backbone)
    pool = ThreadPoolExecutor(cores)

    def predict(images: NDArray[Any]) -> Any:
        parts = np.array_split(images, min(cores, len(images)))
        return nested.concatenate(list(pool.map(lambda work, part: work(part), workers, parts)))

    return predict
