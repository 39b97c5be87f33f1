"""A dataset of any format as columns, for ``kerakit pack``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kerakit.data.annotations.mask_files import named_classes, to_metadata
from kerakit.data.annotations.recognize import DataFormat, recognize, recognize_listing
from kerakit.data.folders import index_folder
from kerakit.data.index import ImageIndex
from kerakit.data.label_columns import infer_kind, read_paths
from kerakit.data.mask_reader import MaskReader
from kerakit.data.object_reader import OBJECT_FORMATS, read_objects
from kerakit.data.shards.index import PLACE, Shards, mask_file_columns, open_shards
from kerakit.data.shards.member import Member
from kerakit.data.shards.objects import to_arrow
from kerakit.data.shards.splits import split_names
from kerakit.data.tables import index_columns
from kerakit.errors import UserError, printable


@dataclass
class Source:
    """The images of a dataset, and everything that readers know of them.

    Attributes:
        format: format of the dataset.
        kind: "classes", "table", "masks" or "objects".
        index: its images.
        labels: columns of labels, text (n,).
        masks: masks of each image, by column.
        sets: annotations of objects, by name.
        metadata: description for the index.
        label_columns: columns of the index that have the labels, by their names in the dataset.
    """

    format: DataFormat
    kind: str
    index: ImageIndex
    labels: dict[str, pa.Array] = field(default_factory=dict)
    masks: dict[str, Sequence[Any]] = field(default_factory=dict)
    sets: dict[str, pa.Array] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.index.keys)

    def image(self, row: int) -> Path | Member:
        """Return the image of a row."""
        if self.index.shards is not None:
            return self.index.shards.image(row)
        return self.index.root / os.fsdecode(self.index.keys[row].as_py())

    def files(self, row: int) -> list[Any]:
        """Return the image of a row, and its masks."""
        return [self.image(row), *(masks[row] for masks in self.masks.values())]

    def columns(self) -> dict[str, pa.Array]:
        """Return the columns of the index that do not depend on shards."""
        index = self.index
        nulls = pa.nulls(len(self), pa.float32())
        groups = index.groups
        return {
            "path": _text_or_bytes(index.keys.cast(pa.binary())),
            "split": split_names(index.splits),
            "group": pa.nulls(len(self), pa.string()) if groups is None else _text(groups),
            "sample_weight": nulls
            if index.sample_weights is None
            else pa.array(index.sample_weights, pa.float32()),
            **{self.label_columns[name]: column for name, column in self.labels.items()},
            **self.sets,
        }

    def describe(self, row: int) -> bytes:
        """Return the annotation of a row as JSON, for readers other than Kerakit."""
        key = self.index.keys[row].as_py()
        values: dict[str, Any] = {"path": _printable(key)}
        columns = {name: column[row].as_py() for name, column in self._described.items()}
        values |= {name: value for name, value in columns.items() if value is not None}
        for name, column in self.sets.items():
            if (found := column[row].as_py()) is not None:
                values[name] = found
                names = self.metadata["sets"][name]["class_names"]
                for one in found["objects"]:
                    label = one["class"]
                    one["class"] = names[label] if 0 <= label < len(names) else None
        return json.dumps(values, default=_decode, separators=(",", ":")).encode()

    def __post_init__(self) -> None:
        index = self.index
        self._described: dict[str, Any] = {"split": split_names(index.splits), **self.labels}
        if index.groups is not None:
            self._described["group"] = _text(index.groups)
        if index.sample_weights is not None:
            self._described["sample_weight"] = pa.array(index.sample_weights)
        own = {*PLACE, *self.sets, *mask_file_columns(self.masks)}
        self.label_columns = {
            name: f"label:{name}" if name in own else name for name in self.labels
        }


class _Masks(MaskReader):
    """Reader that exposes its index."""

    def read_index(self, data: Path) -> ImageIndex:
        self.index = super().read_index(data)
        return self.index


def read_source(data: Path, task: str = "") -> Source:
    """Read the list of images and the annotations of a dataset.

    Args:
        data: folder, table, annotation file, or shards.
        task: name of the task: "segmentation" prefers masks where there are boxes as well.

    Raises:
        UserError: no dataset.
    """
    shards = open_shards(data)
    found = recognize(data, task)
    if shards is None and found.name in OBJECT_FORMATS:
        return _read_objects(data, found, task)
    if shards is not None and shards.kind == "objects":
        return _repack_objects(shards, found)
    if found.name == "classes" and shards is None:
        index = index_folder(data)
        labels = pa.array(index.class_names, pa.string()).take(pa.array(index.targets))
        names = {"class_names": [*index.class_names]}
        return Source(found, "classes", index, {"label": labels}, metadata=names)
    if found.name == "masks":
        return _read_masks(data, found)
    index, cells = index_columns(data)
    if shards is not None:
        masks = {name: shards.masks(name) for name in shards.metadata["mask_columns"]}
        kept = ("class_names", "mask_classes")
        metadata = {name: shards.metadata[name] for name in kept if name in shards.metadata}
        return Source(found, shards.kind, index, cells, masks, metadata=metadata)
    masks = {}
    for name, column in cells.items():
        if name == "mask" or infer_kind(pc.fill_null(column, "")) == "mask":
            places = [data.parent / key for key in read_paths(data, name, column).to_pylist()]
            if name == "mask" or any(place.is_file() for place in places[:10]):
                masks[name] = places
    kind = "masks" if "mask" in masks else "table"
    return Source(found, kind, index, cells, masks)


def _read_masks(data: Path, found: DataFormat) -> Source:
    reader = _Masks(data)
    paths = [*(reader._masks or ())]
    _, listing = recognize_listing(data, "segmentation")
    assert listing is not None  # noqa: S101 - a folder
    named = to_metadata(named_classes(listing))
    places = [reader.index.root / path for path in paths]
    return Source(
        found,
        "masks",
        reader.index,
        {"mask": pa.array(paths, pa.string())},
        {"mask": places},
        metadata={"mask_classes": named},
    )


def _read_objects(data: Path, found: DataFormat, task: str) -> Source:
    root, _, annotations = (
        read_objects(data, shapes=True, task=task)
        if found.name
        in (
            "coco",
            "yolo",
            "labelme",
        )
        else read_objects(data, task=task)
    )
    sets = {"objects": annotations}
    poses = None
    if found.name in ("coco", "yolo", "labelme"):
        try:
            poses = read_objects(data, points=True)[2]
        except UserError:
            poses = None  # COCO files without keypoints beside others
    images = {image: row for row, image in enumerate(annotations.images)}
    splits = [*annotations.splits.tolist()]
    if poses is not None and poses.objects.keypoints:
        sets["poses"] = poses
        for image, split in zip(poses.images, poses.splits.tolist(), strict=True):
            if image not in images:
                images[image] = len(images)
                splits.append(split)
    keys = [image.encode("utf-8", "surrogateescape") for image in images]
    index = ImageIndex(
        root,
        pa.array(keys, pa.binary()),
        np.zeros(len(keys), np.int32),
        annotations.class_names,
        np.array(splits, np.int8),
        warnings=tuple(map(printable, annotations.warnings)),
    )
    arrays, metadata = {}, {}
    for name, one in sets.items():
        order = np.full(len(keys), -1, np.int64)
        order[[images[image] for image in one.images]] = np.arange(len(one.images))
        arrays[name] = to_arrow(one, order)
        metadata[name] = {
            "class_names": [*one.class_names],
            "point_names": [*one.point_names],
            "in_pixels": one.in_pixels,
        }
    return Source(found, "objects", index, sets=arrays, metadata={"sets": metadata})


def _repack_objects(shards: Shards, found: DataFormat) -> Source:
    index = replace(index_columns(shards.storage.root)[0], shards=shards)
    sets = {name: shards.annotations(name) for name in shards.metadata["sets"]}
    return Source(found, "objects", index, sets=sets, metadata={"sets": shards.metadata["sets"]})


def _text_or_bytes(values: pa.Array) -> pa.Array:
    """Return binary values as text, if all are UTF-8."""
    try:
        text = values.cast(pa.string())
        text.validate(full=True)
    except pa.ArrowInvalid:
        return values
    return text


def _text(values: pa.Array) -> pa.Array:
    return _text_or_bytes(values.cast(pa.binary()))


def _printable(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        return quote_from_bytes(key)


def _decode(value: Any) -> str:
    """Return run lengths as text."""
    return bytes(value).decode("ascii", "replace")
