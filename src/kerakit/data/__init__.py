"""Datasets, augmentation and batches: from image files to uint8 batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerakit.lazy import lazy_names

if TYPE_CHECKING:
    from kerakit.data.cache import open_cache
    from kerakit.data.decode import Pixels, decode_image, read_image
    from kerakit.data.generator import BatchGenerator
    from kerakit.data.index import ImageIndex
    from kerakit.data.mix import Mix
    from kerakit.data.reader import (
        DataReader,
        Reader,
        check_class_names,
        data_warnings,
        held_out_mode,
    )
    from kerakit.data.recorded import record_split, restore_reader
    from kerakit.data.transforms import Recolor, Warp
    from kerakit.data.unlabeled import UnlabeledReader
    from kerakit.device.preprocessing import Preprocessing
    from kerakit.report.plots import image_grid

__all__ = [
    "BatchGenerator",
    "DataReader",
    "ImageIndex",
    "Mix",
    "Pixels",
    "Preprocessing",
    "Reader",
    "Recolor",
    "UnlabeledReader",
    "Warp",
    "check_class_names",
    "data_warnings",
    "decode_image",
    "held_out_mode",
    "image_grid",
    "open_cache",
    "read_image",
    "record_split",
    "restore_reader",
]

_HOMES = {
    "BatchGenerator": "kerakit.data.generator",
    "DataReader": "kerakit.data.reader",
    "ImageIndex": "kerakit.data.index",
    "Mix": "kerakit.data.mix",
    "Pixels": "kerakit.data.decode",
    "Preprocessing": "kerakit.device.preprocessing",
    "Reader": "kerakit.data.reader",
    "Recolor": "kerakit.data.transforms",
    "UnlabeledReader": "kerakit.data.unlabeled",
    "Warp": "kerakit.data.transforms",
    "check_class_names": "kerakit.data.reader",
    "data_warnings": "kerakit.data.reader",
    "decode_image": "kerakit.data.decode",
    "held_out_mode": "kerakit.data.reader",
    "image_grid": "kerakit.report.plots",
    "open_cache": "kerakit.data.cache",
    "read_image": "kerakit.data.decode",
    "record_split": "kerakit.data.recorded",
    "restore_reader": "kerakit.data.recorded",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
