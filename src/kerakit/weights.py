"""Weights of models, and files of them: what is checked before they are used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from kerakit.errors import UserError, first_line, list_names, printable
from kerakit.files import damaged

if TYPE_CHECKING:
    import h5py
    import keras

_MAX_DEPTH = 100
"""Depth of groups in a weights file; that of Keras is the nesting of models."""


def estimate_weights_size(model: keras.Model) -> int:
    """Return the approximate size of a weights file of ``model`` in bytes (float32, HDF5)."""
    return int(sum(math.prod(weight.shape) for weight in model.weights) * 4 * 1.05) + 2**20


def check_hdf5(path: Path) -> None:
    """Raise UserError for a file that refers to other files, or is damaged.

    HDF5 follows such references silently: weights would be the content of any file of this machine.
    """
    import h5py

    def check(group: h5py.Group, depth: int) -> None:
        for name in group:
            link = group.get(name, getlink=True)
            item = group.get(name) if isinstance(link, h5py.HardLink) else None
            is_external = isinstance(item, h5py.Dataset) and (item.external or item.is_virtual)
            if not isinstance(link, h5py.HardLink) or is_external:
                raise UserError(
                    f"{path} refers to other data at {printable(name)}; expected a file of weights "
                    "without links. It was not written by Keras."
                )
            if isinstance(item, h5py.Group):
                if depth > _MAX_DEPTH:
                    raise ValueError("its groups are nested too deeply")
                check(item, depth + 1)

    try:
        with h5py.File(path, "r") as file:
            check(file, 0)
    except UserError:
        raise
    except Exception as error:
        # h5py raises OSError, RuntimeError, TypeError and others for damaged files.
        raise damaged(path, first_line(error)) from None


def check_weights(model: keras.Model, origin: str) -> None:
    """Raise UserError if weights are NaN or infinite, as after a diverged training.

    Args:
        model: a built model.
        origin: the weights' file or model, for the message.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, name="scores")])
    >>> model.set_weights([weight + float("nan") for weight in model.get_weights()])
    >>> check_weights(model, "best.weights.h5")
    Traceback (most recent call last):
    kerakit.errors.UserError: best.weights.h5 has NaN or infinite weights in 2 of 2 arrays, ...
    """
    import numpy as np

    invalid = [weight for weight in model.weights if not np.isfinite(np.asarray(weight)).all()]
    if invalid:
        # A weight's path is LAYER/WEIGHT, with nested models in front.
        layers = list(dict.fromkeys(weight.path.rpartition("/")[0] for weight in invalid))
        raise UserError(
            f"{origin} has NaN or infinite weights in {len(invalid)} of {len(model.weights)} "
            f"arrays, those of the layers {list_names(layers)}. The training diverged: train again "
            "with a lower --learning_rate, or from another checkpoint."
        )
