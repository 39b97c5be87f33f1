"""The formats of Keras: HDF5 and .keras."""

from __future__ import annotations

from pathlib import Path

from kerakit.console import quiet_logs
from kerakit.deploy.formats.base import ExportSource, WrittenFormat
from kerakit.files import check_disk_space
from kerakit.inference import PredictFn, keras_predict_fn
from kerakit.run import estimate_weights_size


class KerasFile:
    """A file for ``keras.models.load_model``; its file extension selects the format.

    Args:
        name: name of the format.
        file: its file name, ending in .h5 or .keras.
    """

    def __init__(self, name: str, file: str) -> None:
        self.name, self.file = name, file

    def write(self, source: ExportSource) -> WrittenFormat:
        """Save architecture and weights, without the optimizer's state."""
        path = source.folder / self.file
        check_disk_space(source.folder, estimate_weights_size(source.model))
        with quiet_logs():
            source.model.save(path, include_optimizer=False)
        return WrittenFormat(path)

    def load(self, path: Path) -> PredictFn:
        """Load the file with Keras."""
        import keras

        with quiet_logs():
            return keras_predict_fn(keras.models.load_model(path, compile=False))


KERAS = KerasFile("keras", "model.keras")
H5 = KerasFile("h5", "model.h5")
