"""Objects of annotation files as an Arrow column, and back, without loss."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.annotations.objects import UNKNOWN, Annotations, ObjectColumns

OBJECT = pa.struct(
    [
        ("box", pa.list_(pa.float64(), 4)),
        ("class", pa.int32()),
        ("crowd", pa.bool_()),
        ("polygons", pa.list_(pa.list_(pa.float32()))),
        (
            "mask",
            pa.struct(
                [
                    ("height", pa.int64()),
                    ("width", pa.int64()),
                    ("counts", pa.binary()),
                    ("runs", pa.list_(pa.int64())),
                ]
            ),
        ),
        ("keypoints", pa.list_(pa.float32())),
    ]
)
"""An object: x1, y1, x2, y2 and other coordinates as in its annotation file."""

ANNOTATED = pa.struct(
    [("width", pa.int32()), ("height", pa.int32()), ("objects", pa.list_(OBJECT))]
)
"""The size that annotations declare, and the objects of an image; null: it is not listed."""


def to_arrow(annotations: Annotations, order: NDArray[np.int64]) -> pa.Array:
    """Return the annotations of images as ANNOTATED (n,).

    Args:
        annotations: of all images.
        order: int64 (n,), the image of each row in ``annotations``, or -1: null.
    """
    columns = annotations.objects
    rows = np.frombuffer(columns.rows, np.int64)
    used = np.flatnonzero(rows >= 0)
    by_image = used[np.argsort(rows[used], kind="stable")]
    counts = np.bincount(rows[used], minlength=len(annotations.images))
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    objects = _objects(columns).take(pa.array(by_image))
    per_image = pa.ListArray.from_arrays(pa.array(offsets), objects)
    sizes = annotations.sizes.astype(np.int32)
    rows_of = pa.array(np.where(order < 0, 0, order))
    missing = pa.array(order < 0)
    fields = [pa.array(sizes[:, 0]), pa.array(sizes[:, 1]), per_image]
    return pa.StructArray.from_arrays(
        [field.take(rows_of) for field in fields], fields=[*ANNOTATED], mask=missing
    )


def _objects(columns: ObjectColumns) -> pa.Array:
    count = len(columns)
    boxes = pa.FixedSizeListArray.from_arrays(pa.array(np.frombuffer(columns.boxes, np.float64)), 4)
    crowd = pa.array(np.frombuffer(bytes(columns.crowd), np.bool_))
    part_sizes = 2 * np.frombuffer(columns.part_sizes, np.int32)
    corners = np.concatenate([[0], np.cumsum(part_sizes)]).astype(np.int32)
    parts = pa.ListArray.from_arrays(
        pa.array(corners), pa.array(np.frombuffer(columns.points, np.float32))
    )
    owners = np.frombuffer(columns.part_objects, np.int64)
    starts = np.searchsorted(owners, np.arange(count + 1)).astype(np.int32)
    polygons = pa.ListArray.from_arrays(pa.array(starts), parts)
    masks: list[Any] = [None] * count
    for i, (height, width, runs) in columns.rle.items():
        is_text = isinstance(runs, bytes)
        masks[i] = {
            "height": height,
            "width": width,
            "counts": runs if is_text else None,
            "runs": None if is_text else runs,
        }
    keypoints: list[Any] = [None] * count
    for i, values in columns.keypoints.items():
        keypoints[i] = np.frombuffer(values, np.float32)
    arrays = [
        boxes,
        pa.array(np.frombuffer(columns.classes, np.int32)),
        crowd,
        polygons,
        pa.array(masks, OBJECT.field("mask").type),
        pa.array(keypoints, OBJECT.field("keypoints").type),
    ]
    return pa.StructArray.from_arrays(arrays, fields=[*OBJECT])


def from_arrow(
    column: pa.Array, keys: pa.Array, splits: NDArray[np.int8], metadata: dict[str, Any]
) -> Annotations:
    """Return the annotations of the images that a column lists.

    Args:
        column: ANNOTATED (n,).
        keys: binary (n,), paths of the images.
        splits: int8 (n,), indices into MODES, or UNASSIGNED.
        metadata: "class_names", "point_names" and "in_pixels".

    Raises:
        ValueError: annotations that Kerakit did not write.
    """
    listed = column.is_valid()
    used = column.filter(listed)
    sizes = np.stack([used.field(i).to_numpy(zero_copy_only=False) for i in (0, 1)], axis=1)
    images = [key.decode("utf-8", "surrogateescape") for key in keys.filter(listed).to_pylist()]
    per_image = used.field(2)
    columns = ObjectColumns()
    counts = per_image.value_lengths().to_numpy(zero_copy_only=False)
    columns.rows.frombytes(np.repeat(np.arange(len(counts)), counts).astype(np.int64).tobytes())
    objects = per_image.flatten()
    if column.type != ANNOTATED or objects.null_count or per_image.null_count:
        raise ValueError("its annotations have another type")
    box, classes, crowd, polygons, masks, keypoints = (objects.field(i) for i in range(6))
    columns.boxes.frombytes(box.flatten().to_numpy(zero_copy_only=False).tobytes())
    names = len(metadata["class_names"])
    if len(classes) and not -1 <= pc.min(classes).as_py() <= pc.max(classes).as_py() < names:
        raise ValueError("an object has a class without a name")
    columns.classes.frombytes(classes.to_numpy(zero_copy_only=False).astype(np.int32).tobytes())
    columns.crowd.extend(crowd.to_numpy(zero_copy_only=False).astype(np.bool_).tobytes())
    per_object = polygons.value_lengths().to_numpy(zero_copy_only=False)
    owners = np.repeat(np.arange(len(per_object)), per_object)
    columns.part_objects.frombytes(owners.astype(np.int64).tobytes())
    parts = polygons.flatten()
    lengths = parts.value_lengths().to_numpy(zero_copy_only=False)
    columns.part_sizes.frombytes((lengths // 2).astype(np.int32).tobytes())
    columns.points.frombytes(parts.flatten().to_numpy(zero_copy_only=False).tobytes())
    for i in np.flatnonzero(masks.is_valid().to_numpy(zero_copy_only=False)).tolist():
        mask = masks[i].as_py()
        runs = mask["runs"] if mask["counts"] is None else mask["counts"]
        columns.rle[i] = (mask["height"], mask["width"], runs)
    for i in np.flatnonzero(keypoints.is_valid().to_numpy(zero_copy_only=False)).tolist():
        values = keypoints[i].values.to_numpy(zero_copy_only=False).astype(np.float32)
        columns.keypoints[i] = array("f", values.tobytes())
    for i in np.flatnonzero(np.frombuffer(columns.classes, np.int32) == UNKNOWN).tolist():
        columns.labels[i] = "unknown class"
    return Annotations(
        images,
        sizes.astype(np.int32).reshape(-1, 2),
        splits[listed.to_numpy(zero_copy_only=False)],
        columns,
        tuple(metadata["class_names"]),
        bool(metadata["in_pixels"]),
        tuple(metadata["point_names"]),
    )
