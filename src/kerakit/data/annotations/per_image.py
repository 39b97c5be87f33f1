"""Formats with one annotation file per image: Pascal VOC, YOLO, LabelMe, KITTI."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

import numpy as np

from kerakit.console import progress
from kerakit.data.annotations.listing import (
    Listing,
    is_in_mask_folder,
    is_list,
    pair_files,
    parse_json,
    read_file,
)
from kerakit.data.annotations.objects import (
    UNKNOWN,
    Annotations,
    ObjectColumns,
    declared_size,
    sort_names,
)
from kerakit.data.annotations.yolo import YoloNames, add_boxes, add_lines, parse_boxes
from kerakit.data.folders import normalize_name
from kerakit.data.index import UNASSIGNED
from kerakit.errors import UserError, first_line, list_names

DONT_CARE = "DontCare"
"""Class of KITTI for regions without labels."""

_MANY = 10_000
"""Number of annotation files whose reading has a progress display."""

Parse = Callable[[bytes, int, "_Collector"], None]
"""Adds the content of an annotation file of an image, given by its row, to a collector."""


def read_voc(listing: Listing, shapes: bool = False) -> Annotations:  # noqa: ARG001
    """Return the boxes of Pascal VOC's XML files. Objects marked difficult are crowds."""
    return _read(listing, listing.with_extension(".xml"), _parse_voc)


def read_labelme(listing: Listing, shapes: bool = False, points: bool = False) -> Annotations:
    """Return the shapes of LabelMe's JSON files.

    With ``points``, the shapes of type point are the keypoints of one object per image.
    """
    files = listing.with_extension(".json")
    collector = _Collector(shapes)
    annotations = _read(listing, files, _parse_labelme, collector)
    names = sort_names(name for found in collector.points.values() for name in found)
    annotations.point_names = names
    if points:
        annotations.objects = ObjectColumns()
        for row, found in collector.points.items():
            xs, ys = zip(*found.values(), strict=True)
            annotations.objects.add(row, (min(xs), min(ys), max(xs), max(ys)), 0)
            rows = [(*found[name], 2.0) if name in found else (0.0, 0.0, 0.0) for name in names]
            annotations.objects.add_keypoints([value for one in rows for value in one])
    return annotations


def read_kitti(listing: Listing, shapes: bool = False) -> Annotations:  # noqa: ARG001
    """Return the boxes of KITTI's text files. Regions DontCare are crowds of every class."""
    collector = _Collector()
    files = [path for path in listing.with_extension(".txt") if not is_list(path)]
    annotations = _read(listing, files, _parse_kitti, collector)
    columns = annotations.objects
    names = tuple(name for name in annotations.class_names if name != DONT_CARE)
    if names == annotations.class_names:
        return annotations
    ignored = annotations.class_names.index(DONT_CARE)
    classes = np.frombuffer(columns.classes, np.int32)
    is_region = classes == ignored
    # A region is a crowd of each class.
    copies = np.repeat(np.arange(len(classes)), np.where(is_region, len(names), 1))
    nth = np.arange(len(copies)) - np.searchsorted(copies, copies)
    of_objects = classes - (classes > ignored)
    kept = ObjectColumns()
    kept.rows.frombytes(np.frombuffer(columns.rows, np.int64)[copies].tobytes())
    boxes = np.frombuffer(columns.boxes, np.float64).reshape(-1, 4)
    kept.boxes.frombytes(boxes[copies].tobytes())
    labels = np.where(is_region[copies], nth, of_objects[copies]).astype(np.int32)
    kept.classes.frombytes(labels.tobytes())
    kept.crowd.extend(is_region[copies].tobytes())
    annotations.objects, annotations.class_names = kept, names
    return annotations


def read_yolo(listing: Listing, shapes: bool = False, points: bool = False) -> Annotations:
    """Return the boxes, polygons or keypoints of YOLO's text files."""
    names = YoloNames(listing)
    files = [path for path in listing.with_extension(".txt") if path not in names.files]
    collector = _Collector(shapes)
    # Files of boxes alone are converted at once.
    numbers, counts, owners = array("d"), array("q"), array("q")
    highest = -1

    def parse(data: bytes, row: int, into: _Collector) -> None:
        nonlocal highest
        boxes = None if shapes or points else parse_boxes(data)
        if boxes is not None:
            numbers.extend(boxes)
            counts.append(len(boxes) // 5)
            owners.append(row)
            return
        details, last = add_lines(data, row, into.columns, names.names, shapes, names.kpt_shape)
        into.faults += [(into.file, "invalid annotation", detail) for detail in details]
        highest = max(highest, last)

    splits = names.splits(listing.images)
    annotations = _read(listing, files, parse, collector, splits)
    values = np.frombuffer(numbers, np.float64).reshape(-1, 5)
    rows = np.repeat(np.frombuffer(owners, np.int64), np.frombuffer(counts, np.int64))
    highest = max(highest, add_boxes(values, rows, annotations.objects, names.names))
    annotations.in_pixels = False
    annotations.class_names = names.names or tuple(map(str, range(highest + 1)))
    if names.names is None:
        annotations.warnings.append(
            "no names of classes (data.yaml or classes.txt): the classes are numbers."
        )
    if names.kpt_shape:
        annotations.point_names = tuple(f"point {i}" for i in range(names.kpt_shape[0]))
    return annotations


class _Collector:
    """Content of the annotation files read so far."""

    def __init__(self, shapes: bool = False) -> None:
        self.columns = ObjectColumns()
        self.shapes = shapes
        self.sizes: dict[int, tuple[int, int]] = {}
        self.names: dict[str, int] = {}
        self._indices: dict[str, int] = {}  # by names as written
        self.faults: list[tuple[str, str, str]] = []
        self.points: dict[int, dict[str, tuple[float, float]]] = {}
        self.file = ""
        self.difficult = 0

    def class_index(self, name: str) -> int:
        """Return the number of a class name, a new one for a new name."""
        if (index := self._indices.get(name)) is None:
            index = self.names.setdefault(normalize_name(name), len(self.names))
            self._indices[name] = index
        return index

    def invalid(self, detail: str) -> None:
        """Add a fault of the file."""
        self.faults.append((self.file, "invalid annotation", detail))


def _track(images: Sequence[str], files: Sequence[str | None]) -> Iterator[tuple[str, str | None]]:
    """Yield images and their files, with the progress of reading many of them."""
    pairs = zip(images, files, strict=True)
    if len(images) < _MANY:
        yield from pairs
        return
    with progress("reading annotations", len(images), "files") as update:
        for done, pair in enumerate(pairs):
            yield pair
            if done % 256 == 255:
                update(done + 1)


def _read(
    listing: Listing,
    files: Sequence[str],
    parse: Parse,
    collector: _Collector | None = None,
    splits: Any = None,
) -> Annotations:
    """Return the content of one annotation file per image.

    An image without file has no objects; but images of a folder where none has a file are ignored.
    """
    collector = collector or _Collector()
    images = [image for image in listing.images if not is_in_mask_folder(image)] or listing.images
    pairs, unpaired = pair_files(images, files)
    folders = {image.rpartition("/")[0] for image, file in zip(images, pairs, strict=True) if file}
    warnings, unreadable, kept = [], [], []
    ignored = 0
    root = f"{listing.root}/"
    for image, file in _track(images, pairs):
        if file is None:
            if image.rpartition("/")[0] in folders:
                kept.append(image)
            else:
                ignored += 1
            continue
        collector.file = file
        size = len(collector.columns)
        try:
            parse(read_file(root + file), len(kept), collector)
        # LookupError: an unknown encoding of XML.
        except (
            UserError,
            ValueError,
            LookupError,
            ElementTree.ParseError,
            expat.ExpatError,
        ) as error:
            if len(collector.columns) > size:
                raise AssertionError("objects of a file that cannot be read") from error
            unreadable.append(file)
            collector.faults.append((image, "unreadable labels", f"{file}: {first_line(error)}"))
            continue
        kept.append(image)
    if not kept and unreadable:
        raise UserError(
            f"none of the {len(unreadable):,} annotation files of {listing.root} can be read: "
            f"{collector.faults[0][2]}."
        )
    if not folders:
        raise UserError(
            f"{listing.root} has {len(files):,} annotation files, but none for its "
            f"{len(images):,} images. Expected the same names, such as images/1.jpg and "
            f"annotations/1{Path(files[0]).suffix if files else '.txt'}."
        )
    collector.faults += [(file, "label without image", "") for file in unpaired]
    for count, text, examples in (
        (len(unreadable), "images whose annotation file cannot be read, omitted", unreadable),
        (len(unpaired), "annotation files without an image, ignored", unpaired),
        (ignored, "images in folders without annotation files, ignored", []),
    ):
        if count:
            note = f" ({list_names(examples)})" if examples else ""
            warnings.append(f"{text}: {count:,}{note}.")
    if collector.difficult:
        warnings.append(
            f"objects marked difficult, neither trained on nor scored: {collector.difficult:,}."
        )
    sizes = np.zeros((len(kept), 2), np.int32)
    for row, pair in collector.sizes.items():
        sizes[row] = pair
    given = listing.given_splits(kept)
    if splits:
        given = np.array([splits.get(image, UNASSIGNED) for image in kept], np.int8)
    annotations = Annotations(
        kept, sizes, given, collector.columns, (), faults=collector.faults, warnings=warnings
    )
    _sort_classes(annotations, collector.names)
    return annotations


def _sort_classes(annotations: Annotations, names: dict[str, int]) -> None:
    """Renumber the classes in the order of their names."""
    if not names:
        return
    annotations.class_names = sort_names(names)
    final = np.full(len(names) + 1, UNKNOWN, np.int32)
    for index, name in enumerate(annotations.class_names):
        final[names[name]] = index
    classes = np.frombuffer(annotations.objects.classes, np.int32)
    classes[:] = final[classes]


# ------------------------------------------------------------------------------------- Pascal VOC


_ENCODING = re.compile(rb"<\?xml[^>]*encoding=", re.IGNORECASE)

_SIDES = ("width", "height")


def _reject_entity(*_: object) -> int:
    raise ValueError("it defines entities, which are not read")


def _check_entities(data: bytes) -> None:
    """Raise ValueError if XML defines entities: nothing is expanded or fetched."""
    is_plain = data[:1] == b"<" and b"<!" not in data and not _ENCODING.match(data)
    if is_plain:
        return
    parser = expat.ParserCreate()
    parser.EntityDeclHandler = _reject_entity
    parser.ExternalEntityRefHandler = _reject_entity
    parser.Parse(data, True)


def _parse_voc(data: bytes, row: int, into: _Collector) -> None:
    if not data.strip():
        raise ValueError("it is empty")
    _check_entities(data)
    root = ElementTree.fromstring(data)  # noqa: S314 - without entities
    for each in root:
        if each.tag == "object":
            _add_object(each, row, into)
        elif each.tag == "size":
            into.sizes[row] = declared_size(*map(each.findtext, _SIDES))


def _add_object(each: ElementTree.Element, row: int, into: _Collector) -> None:
    name, corners = each.findtext("name"), each.find("bndbox")
    if name is None or corners is None:
        into.invalid(f"an object without {'name' if name is None else 'bndbox'}")
        return
    text = corners.findtext
    try:
        box = (
            float(text("xmin", "")),
            float(text("ymin", "")),
            float(text("xmax", "")),
            float(text("ymax", "")),
        )
    except ValueError:
        sides = {side.tag: side.text for side in corners}
        into.invalid(f"{name}: bndbox {sides!r:.100}; expected four numbers")
        return
    is_difficult = each.findtext("difficult", "0").strip() in ("1", "true", "True")
    into.difficult += is_difficult
    into.columns.add(row, box, into.class_index(name), is_difficult)


# --------------------------------------------------------------------------------- LabelMe, KITTI


def _parse_labelme(data: bytes, row: int, into: _Collector) -> None:
    content = parse_json(data)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise ValueError("it has no list 'shapes'")
    into.sizes[row] = declared_size(content.get("imageWidth"), content.get("imageHeight"))
    for shape in content["shapes"]:
        try:
            _add_shape(shape, row, into)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
            into.invalid(f"shape {shape!r:.80}; expected label, points and shape_type")


def _add_shape(shape: dict[str, Any], row: int, into: _Collector) -> None:
    name = str(shape["label"])
    corners = [(float(x), float(y)) for x, y in shape["points"]]
    kind = shape.get("shape_type") or "polygon"
    if kind == "point":
        point, place = normalize_name(name), corners[0]
        found = into.points.setdefault(row, {})
        if point in found:
            into.invalid(f"{point}: two points of this name, the first one is used")
        found.setdefault(point, place)
        return
    if kind == "circle":
        (x, y), edge = corners
        radius = math.dist((x, y), edge)
        angles = [2 * math.pi * i / 32 for i in range(32)]
        corners = [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]
    if kind in ("line", "linestrip") or not corners:
        into.invalid(f"{name}: shapes of type {kind} have no area")
        return
    xs, ys = zip(*corners, strict=True)
    box = (min(xs), min(ys), max(xs), max(ys))
    into.columns.add(row, box, into.class_index(name))
    if into.shapes:
        if kind in ("rectangle", "mask"):
            left, top, right, bottom = box
            corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        into.columns.add_polygon([value for corner in corners for value in corner])


def _parse_kitti(data: bytes, row: int, into: _Collector) -> None:
    rows: list[tuple[str, list[float]]] = []
    for line in data.splitlines():
        words = line.split()
        if not words:
            continue
        try:
            rows.append((words[0].decode("utf-8", "replace"), [float(word) for word in words[4:8]]))
        except ValueError:
            sides = b" ".join(words[4:8]).decode("utf-8", "replace")
            into.invalid(f"sides {sides!r:.60}; expected four numbers")
            continue
        if len(rows[-1][1]) < 4:
            into.invalid(f"a line of {len(words)} columns; expected at least 8")
            rows.pop()
    for name, box in rows:
        into.columns.add(row, box, into.class_index(name))


def is_kitti(lines: Iterable[bytes]) -> bool:
    """Whether lines have the columns of KITTI: a name and at least 14 numbers."""
    rows = [line.split() for line in lines if line.strip()]
    return bool(rows) and all(
        len(row) in (15, 16) and not _is_number(row[0]) and all(map(_is_number, row[1:]))
        for row in rows
    )


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
