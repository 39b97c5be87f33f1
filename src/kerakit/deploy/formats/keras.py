"""Plain Keras: HDF5 and the native format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kerakit.console import quiet_logs
from kerakit.deploy.formats.base import Source, Written
from kerakit.files import check_disk_space
from kerakit.run import estimate_weights_size


class KerasFile:
    """A file that ``keras.models.load_model`` opens; the ending of its name decides how it is stored.

    Args:
        name: of the format.
        file: its file name, ending in .h5 or .keras.
    """

    def __init__(self, name: str, file: str) -> None:
        self.name, self.file = name, file

    def write(self, source: Source) -> Written:
        """Save architecture and weights, without the optimizer's state."""
        path = source.folder / self.file
        check_disk_space(source.folder, estimate_weights_size(source.model))
        with quiet_logs():
            source.model.save(path, include_optimizer=False)
        return Written(path)

    def load(self, path: Path) -> PredictFn:
        """Load the file with Keras."""
        import keras

        with quiet_logs():
            return predictor(keras.models.load_model(path, compile=False))


def predictor(model: Any) -> PredictFn:
    """Return what runs ``model``, a ``keras.Model``, on a batch of images."""
    return lambda images: np.asarray(model.predict_on_batch(images), np.float32)


KERAS = KerasFile("keras", "model.keras")
H5 = KerasFile("h5", "model.h5")
