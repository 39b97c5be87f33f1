"""Plain Keras: HDF5 and the native format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kerakit.deploy.format import Predict, Source, Written
from kerakit.files import require_space
from kerakit.quiet import no_advice
from kerakit.run import bytes_of


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
        require_space(source.folder, bytes_of(source.model))
        with no_advice():
            source.model.save(path, include_optimizer=False)
        return Written(path)

    def load(self, path: Path) -> Predict:
        """Load the file with Keras."""
        import keras

        with no_advice():
            return predictor(keras.models.load_model(path, compile=False))


def predictor(model: Any) -> Predict:
    """Return what runs ``model``, a ``keras.Model``, on a batch of images."""
    return lambda images: np.asarray(model.predict_on_batch(images), np.float32)


KERAS = KerasFile("keras", "model.keras")
H5 = KerasFile("h5", "model.h5")
