"""Objects as columns: boxes, classes, polygons and keypoints of a million objects."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.data.decode import read_upright_sizes

if TYPE_CHECKING:
    from kerakit.data.shards.index import Shards

TOLERANCE = 1e-3
"""Fraction of the image by which boxes leave it because of rounding."""

FAULTS = {
    "box with NaN": "omitted",
    "unknown class": "omitted",
    "inverted corners": "corrected",
    "box without area": "omitted",
    "box outside the image": "clipped, omitted if nothing is left",
    "duplicate box": "omitted",
}
"""Kinds of faulty boxes, and what a reader does with them."""

_CHUNK = 2**17
"""Objects that are converted at once."""

UNKNOWN = -1
"""Class index of an object whose class is unknown."""


MAX_SIDE = 2**31 - 1
"""Largest width and height that an annotation file may declare."""


def declared_size(width: Any, height: Any) -> tuple[int, int]:
    """Return width and height as an annotation file declares them; (0, 0) where they are invalid.

    >>> declared_size("640", 480.0), declared_size(None, 480), declared_size("1e400", -1)
    ((640, 480), (0, 0), (0, 0))
    """
    try:
        size = int(float(width)), int(float(height))
    except (TypeError, ValueError, OverflowError):
        return (0, 0)
    return size if 0 < min(size) <= max(size) <= MAX_SIDE else (0, 0)


@dataclass
class ObjectColumns:
    """Objects in the order of their files: growing columns.

    Attributes:
        rows: image of each object.
        boxes: x1, y1, x2, y2 of each object, as in the file.
        classes: class index, or UNKNOWN.
        crowd: 1 for regions that are neither an object nor background.
        labels: class as in the file, of objects with an unknown class.
        points: x and y of the corners of polygons.
        part_sizes: number of corners of each polygon.
        part_objects: object of each polygon.
        rle: run lengths of masks, by object: height, width, counts.
        keypoints: x, y and visibility of the points of each object that has them.
    """

    rows: array[int] = field(default_factory=lambda: array("q"))
    boxes: array[float] = field(default_factory=lambda: array("d"))
    classes: array[int] = field(default_factory=lambda: array("i"))
    crowd: bytearray = field(default_factory=bytearray)
    labels: dict[int, str] = field(default_factory=dict)
    points: array[float] = field(default_factory=lambda: array("f"))
    part_sizes: array[int] = field(default_factory=lambda: array("i"))
    part_objects: array[int] = field(default_factory=lambda: array("q"))
    rle: dict[int, tuple[int, int, bytes | list[int]]] = field(default_factory=dict)
    keypoints: dict[int, array[float]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def add(
        self, row: int, box: Sequence[float], label: int, crowd: bool = False, name: str = ""
    ) -> None:
        """Append an object."""
        if label == UNKNOWN:
            self.labels[len(self.rows)] = name
        self.rows.append(row)
        self.boxes.extend(box)
        self.classes.append(label)
        self.crowd.append(crowd)

    def add_keypoints(self, values: Sequence[float]) -> None:
        """Set the keypoints of the last object: x, y and visibility in turn."""
        self.keypoints[len(self.rows) - 1] = array("f", values)

    def add_polygon(self, corners: Sequence[float]) -> None:
        """Append a polygon, x and y in turn, to the last object."""
        points = array("f", map(float, corners))
        self.part_objects.append(len(self.rows) - 1)
        self.part_sizes.append(len(points) // 2)
        self.points.extend(points)


@dataclass
class Annotations:
    """The content of annotation files.

    Attributes:
        images: path of each image relative to the root.
        sizes: width and height of each image, int32 (n, 2), 0 where unknown.
        splits: int8 (n,), indices into MODES, or UNASSIGNED.
        objects: their columns.
        class_names: in the order of the class indices.
        in_pixels: whether coordinates are in pixels, not in fractions.
        point_names: names of the keypoints of an object.
        faults: (key, kind, detail) of faults other than those of boxes.
        warnings: sentences about the files.
        shards: shards that contain the images; None: files.
    """

    images: list[str]
    sizes: NDArray[np.int32]
    splits: NDArray[np.int8]
    objects: ObjectColumns
    class_names: tuple[str, ...]
    in_pixels: bool = True
    point_names: tuple[str, ...] = ()
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    shards: Shards | None = None


@dataclass(frozen=True)
class Boxes:
    """Valid boxes of n images, sorted by image.

    Attributes:
        offsets: int64 (n + 1,): objects of image i are offsets[i] to offsets[i + 1].
        boxes: float32 (m, 4), x1, y1, x2, y2 as fractions.
        classes: int32 (m,).
        crowd: bool (m,).
        source: int64 (m,), index of each object in ``ObjectColumns``.
        faults: indices in ``ObjectColumns`` of the objects by kind of fault.
    """

    offsets: NDArray[np.int64]
    boxes: NDArray[np.float32]
    classes: NDArray[np.int32]
    crowd: NDArray[np.bool_]
    source: NDArray[np.int64]
    faults: dict[str, NDArray[np.int64]]

    def presence(self, classes: int) -> NDArray[np.int32]:
        """Return the number of objects per image and class, int32 (n, classes); without crowds."""
        counts = np.zeros((len(self.offsets) - 1, classes), np.int32)
        rows = np.repeat(np.arange(len(counts)), np.diff(self.offsets))
        objects = ~self.crowd
        np.add.at(counts, (rows[objects], self.classes[objects]), 1)
        return counts

    def warnings(self) -> list[str]:
        """Return one line per kind of fault with its number."""
        return [
            f"{kind} ({FAULTS[kind]}): {len(self.faults[kind]):,}."
            for kind in FAULTS
            if len(self.faults[kind])
        ]


def clean_boxes(annotations: Annotations) -> Boxes:
    """Return the valid boxes as fractions of their images.

    Inverted corners are exchanged, boxes are clipped; those without area, with NaN, of an unknown
    class, and exact copies of another one are omitted.
    """
    columns = annotations.objects
    rows = np.frombuffer(columns.rows, np.int64)
    exists = rows >= 0
    classes = np.frombuffer(columns.classes, np.int32)
    known = classes != UNKNOWN
    # In parts: a dozen temporary arrays of a million boxes would take 300 MB.
    parts = [
        _clip(annotations, slice(start, start + _CHUNK))
        for start in range(0, max(1, len(rows)), _CHUNK)
    ]
    clipped, finite, inverted, flat, outside, has_area = (
        np.concatenate(part) for part in zip(*parts, strict=True)
    )
    del parts
    usable = np.flatnonzero(finite & known & has_area)
    order = usable[np.argsort(rows[usable], kind="stable")]
    unique = _find_first(rows[order], classes[order], clipped[order])
    source = order[unique]
    counts = np.bincount(rows[source], minlength=len(annotations.images))
    crowd = np.frombuffer(bytes(columns.crowd), np.bool_)
    return Boxes(
        np.concatenate([[0], np.cumsum(counts)]),
        clipped[source],
        classes[source],
        crowd[source],
        source,
        {
            "box with NaN": np.flatnonzero(exists & ~finite),
            "unknown class": np.flatnonzero(exists & ~known),
            "inverted corners": np.flatnonzero(inverted),
            "box without area": np.flatnonzero(flat),
            "box outside the image": np.flatnonzero(outside & ~flat),
            "duplicate box": order[~unique],
        },
    )


def _clip(annotations: Annotations, part: slice) -> tuple[NDArray[Any], ...]:
    """Return the clipped boxes of some objects as fractions, float32 (n, 4), and bool (n,).

    These are: finite, with inverted corners, without area, outside the image, and with an area
    after clipping.
    """
    rows = np.frombuffer(annotations.objects.rows, np.int64)[part]
    boxes = np.frombuffer(annotations.objects.boxes, np.float64).reshape(-1, 4)[part]
    if annotations.in_pixels and len(rows):
        sizes = np.maximum(annotations.sizes, 1)[rows].astype(np.float64)
        boxes = boxes / np.concatenate([sizes, sizes], axis=1)
    finite = (rows >= 0) & np.isfinite(boxes).all(axis=1)
    first, second = boxes[:, :2], boxes[:, 2:]
    inverted = finite & (second < first).any(axis=1)
    low, high = np.minimum(first, second), np.maximum(first, second)
    flat = finite & (high <= low).any(axis=1)
    outside = finite & ((low < -TOLERANCE) | (high > 1 + TOLERANCE)).any(axis=1)
    clipped = np.concatenate([low, high], axis=1).clip(0, 1).astype(np.float32)
    has_area = np.all(clipped[:, 2:] > clipped[:, :2], axis=1)
    return clipped, finite, inverted, flat, outside, has_area


def fill_sizes(root: Path, annotations: Annotations) -> None:
    """Read the size of each image with objects in pixels whose files do not have it.

    Images that cannot be read keep the size 0 and lose their objects.
    """
    rows = np.unique(np.frombuffer(annotations.objects.rows, np.int64))
    if not annotations.in_pixels or not len(rows):
        return
    unknown = rows[(annotations.sizes[rows] <= 0).any(axis=1)]
    paths = [f"{root}/{annotations.images[row]}" for row in unknown.tolist()]
    annotations.sizes[unknown] = read_upright_sizes(paths)


def box_faults(annotations: Annotations, boxes: Boxes) -> Iterator[tuple[int, str, str]]:
    """Yield image, kind and detail of each faulty box."""
    columns = annotations.objects
    for kind in FAULTS:
        for i in boxes.faults[kind].tolist():
            label = columns.classes[i]
            name = annotations.class_names[label] if label != UNKNOWN else columns.labels.get(i)
            corners = ", ".join(f"{value:.6g}" for value in columns.boxes[4 * i : 4 * i + 4])
            yield columns.rows[i], kind, f"{name or 'no label'} at {corners}"


def _find_first(
    rows: NDArray[np.int64], classes: NDArray[np.int32], boxes: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Return which objects differ from all earlier ones: same image, class and box, bool (m,)."""
    numbers = [rows, classes, *(boxes + np.float32(0)).view(np.uint32).T]  # -0.0 is 0.0
    codes = np.zeros(len(rows), np.uint64)
    for column in numbers:  # FNV-1a
        codes = (codes ^ column.astype(np.uint64)) * np.uint64(0x9E3779B97F4A7C15)
        codes ^= codes >> np.uint64(29)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    original = first[inverse]
    # Equal codes of different objects: none is a copy.
    is_first = np.zeros(len(rows), np.bool_)
    for column in numbers:
        is_first |= column != column[original]
    is_first[first] = True
    return is_first


def sort_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return class names in alphabetical order, numbers by their value."""
    return tuple(
        sorted(
            set(names),
            key=lambda name: (not name.isdigit(), int(name) if name.isdigit() else 0, name),
        )
    )
