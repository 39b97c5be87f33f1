"""Datasets, augmentation and batches: from image files to uint8 batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerakit.lazy import lazy_names

if TYPE_CHECKING:
    from kerakit.data.annotations.recognize import DataFormat, recognize
    from kerakit.data.base_reader import BaseReader
    from kerakit.data.cache import open_cache
    from kerakit.data.decode import Pixels, decode_image, read_image
    from kerakit.data.generator import BatchGenerator
    from kerakit.data.index import ImageIndex
    from kerakit.data.keypoint_reader import KeypointReader
    from kerakit.data.mask_reader import MaskReader
    from kerakit.data.mix import Mix
    from kerakit.data.mosaic import Mosaic
    from kerakit.data.object_reader import ObjectReader
    from kerakit.data.reader import (
        DataReader,
        Reader,
        check_class_names,
        data_warnings,
        held_out_mode,
    )
    from kerakit.data.recorded import describe_data, record_split, restore_reader
    from kerakit.data.table_reader import MultiLabelReader, RegressionReader, TableReader
    from kerakit.data.transforms import Recolor, Warp
    from kerakit.data.unlabeled import UnlabeledReader
    from kerakit.device.preprocessing import Preprocessing
    from kerakit.report.plots import image_grid, save_image

__all__ = [
    "BaseReader",
    "BatchGenerator",
    "DataFormat",
    "DataReader",
    "ImageIndex",
    "KeypointReader",
    "MaskReader",
    "Mix",
    "Mosaic",
    "MultiLabelReader",
    "ObjectReader",
    "Pixels",
    "Preprocessing",
    "Reader",
    "Recolor",
    "RegressionReader",
    "TableReader",
    "UnlabeledReader",
    "Warp",
    "check_class_names",
    "data_warnings",
    "decode_image",
    "describe_data",
    "held_out_mode",
    "image_grid",
    "open_cache",
    "read_image",
    "recognize",
    "record_split",
    "restore_reader",
    "save_image",
]

_HOMES = {
    "BaseReader": "kerakit.data.base_reader",
    "BatchGenerator": "kerakit.data.generator",
    "DataFormat": "kerakit.data.annotations.recognize",
    "DataReader": "kerakit.data.reader",
    "ImageIndex": "kerakit.data.index",
    "KeypointReader": "kerakit.data.keypoint_reader",
    "MaskReader": "kerakit.data.mask_reader",
    "Mix": "kerakit.data.mix",
    "Mosaic": "kerakit.data.mosaic",
    "MultiLabelReader": "kerakit.data.table_reader",
    "ObjectReader": "kerakit.data.object_reader",
    "Pixels": "kerakit.data.decode",
    "Preprocessing": "kerakit.device.preprocessing",
    "Reader": "kerakit.data.reader",
    "Recolor": "kerakit.data.transforms",
    "RegressionReader": "kerakit.data.table_reader",
    "TableReader": "kerakit.data.table_reader",
    "UnlabeledReader": "kerakit.data.unlabeled",
    "Warp": "kerakit.data.transforms",
    "check_class_names": "kerakit.data.reader",
    "data_warnings": "kerakit.data.reader",
    "decode_image": "kerakit.data.decode",
    "describe_data": "kerakit.data.recorded",
    "held_out_mode": "kerakit.data.reader",
    "image_grid": "kerakit.report.plots",
    "save_image": "kerakit.report.plots",
    "open_cache": "kerakit.data.cache",
    "read_image": "kerakit.data.decode",
    "recognize": "kerakit.data.annotations.recognize",
    "record_split": "kerakit.data.recorded",
    "restore_reader": "kerakit.data.recorded",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
