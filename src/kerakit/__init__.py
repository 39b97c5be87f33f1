"""Kerakit: the kit of parts that every Keras vision project needs.

The names in ``__all__`` are the public interface. They are imported when first used, so that ``import kerakit`` costs
nothing and ``python train.py --help`` answers before TensorFlow is loaded.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from kerakit.errors import ImageError, JobError, KerakitError, UserError

if TYPE_CHECKING:
    from kerakit.config import Config, InputSize, List
    from kerakit.data.augment import Augmenter
    from kerakit.data.decode import decode, read_image
    from kerakit.data.generator import BatchGenerator
    from kerakit.data.mix import Mix
    from kerakit.data.reader import DataReader, ImageIndex
    from kerakit.data.transforms import Recolor, Warp
    from kerakit.run import Run

__version__ = "0.1.0"

_HOMES = {
    "Augmenter": "kerakit.data.augment",
    "BatchGenerator": "kerakit.data.generator",
    "Config": "kerakit.config",
    "DataReader": "kerakit.data.reader",
    "ImageIndex": "kerakit.data.reader",
    "InputSize": "kerakit.config",
    "List": "kerakit.config",
    "Mix": "kerakit.data.mix",
    "Recolor": "kerakit.data.transforms",
    "Run": "kerakit.run",
    "Warp": "kerakit.data.transforms",
    "decode": "kerakit.data.decode",
    "read_image": "kerakit.data.decode",
}

__all__ = [  # noqa: RUF022 - by kind, errors last
    "Augmenter",
    "BatchGenerator",
    "Config",
    "DataReader",
    "ImageIndex",
    "InputSize",
    "List",
    "Mix",
    "Recolor",
    "Run",
    "Warp",
    "decode",
    "read_image",
    "ImageError",
    "JobError",
    "KerakitError",
    "UserError",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'kerakit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
