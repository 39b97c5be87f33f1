"""A classifier of real digits, trained for a second and exported to int8."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import kerakit.device

TRAINED = 1500
"""Number of images for training and calibration; the others are held out."""


def digits() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return 1,797 images, uint8 (n, 8, 8, 3), and their class indices."""
    data = load_digits()
    gray = np.round(data.images * (255 / 16)).astype(np.uint8)
    return np.repeat(gray[..., None], 3, axis=-1), data.target


@dataclass(frozen=True)
class Exported:
    """A Keras model and the folder of its export."""

    model: Any
    folder: Path

    @property
    def int8(self) -> Path:
        return self.folder / "model.tflite"

    @cached_property
    def held_out(self) -> np.ndarray[Any, Any]:
        return digits()[0][TRAINED:]


def train() -> Any:
    """Return a trained ``keras.Model`` with Keras's own layer names, as conv2d, conv2d_1."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    keras.backend.clear_session()
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    x = layers.Conv2D(16, 1)(x)
    x = layers.Dense(32, activation="relu")(layers.Flatten()(x))
    model = keras.Model(image, layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    images, targets = digits()
    model.fit(images[:TRAINED], targets[:TRAINED], epochs=6, batch_size=32, verbose=0)
    return model


def calibration(images: np.ndarray[Any, Any]) -> Any:
    """Return the ``Calibration`` on ``images``."""
    from kerakit.deploy import Calibration

    return Calibration(tuple(map(str, range(len(images)))), lambda: iter(images))


NAMES = [f"digit {i}" for i in range(10)]


def export_digits(model: Any, folder: Path, names: list[str] = NAMES, **changes: Any) -> Exported:
    """Export ``model`` to int8; ``changes`` are arguments of ``export_model``."""
    from kerakit.deploy import ExportFolder, export_model
    from kerakit.tasks import Classification

    images, targets = digits()
    arguments: dict[str, Any] = {
        "calibration": calibration(images[:200]),
        "held_out": [
            (images[i : i + 32], targets[i : i + 32]) for i in range(TRAINED, len(images), 32)
        ],
        "formats": ["int8"],
        "log": lambda _: None,
        **changes,
    }
    results = export_model(model, Classification(names), ExportFolder(folder), **arguments)
    assert [result.status for result in results] == ["exported"], results
    return Exported(model, folder)


def load_program() -> Any:
    """Return the module of the program of the device bundle, imported as on a device."""
    folder = Path(kerakit.device.__file__).parent
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    name = "program_of_the_bundle"  # a project has a predict.py, too
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, folder / "predict.py")
        assert spec is not None and spec.loader is not None  # noqa: PT018
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def open_bundle(folder: Path, file: str = "model.tflite") -> Any:
    """Return the model of a device bundle, by its program."""
    program = load_program()
    here, program.HERE = program.HERE, folder
    try:
        return program.Model(folder / file)
    finally:
        program.HERE = here
