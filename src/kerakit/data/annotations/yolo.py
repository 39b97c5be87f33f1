"""YOLO: names of classes, splits, and lines of text files."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from kerakit.data.annotations.listing import Listing, is_list, read_text
from kerakit.data.annotations.objects import UNKNOWN, ObjectColumns
from kerakit.data.folders import check_printable, normalize_name
from kerakit.data.split import MODES
from kerakit.errors import UserError, first_line

_NAME_FILES = ("classes.txt", "obj.names", "names.txt", "labels.txt", "class_names.txt")

_PLAIN = re.compile(rb"[0-9eE+\-. \t\r\n]*")

_BOX = 5
"""Numbers of a line with a box: class, x and y of the center, width, height."""


class YoloNames:
    """Names of classes and splits of a dataset in YOLO's format.

    Attributes:
        names: names of the classes, None where no file has them.
        kpt_shape: number of keypoints, and of values per keypoint, of a pose dataset.
        files: text files other than labels.
    """

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._paths: dict[str, Any] = {}
        self.names: tuple[str, ...] | None = None
        self.kpt_shape: tuple[int, int] | None = None
        self.files = name_files(listing)
        found: dict[str, tuple[str, ...]] = {}
        for path in listing.with_extension(".yaml", ".yml"):
            content = _read_yaml(listing.root / path)
            if isinstance(content, dict) and "names" in content:
                found[path] = _yaml_names(listing.root / path, content["names"])
                self._read_yaml(path, content)
        if not found:
            for path in listing.others:
                name = path.rpartition("/")[2].casefold()
                if name in _NAME_FILES or name.endswith(".names"):
                    lines = read_text(listing.root / path).strip().splitlines()
                    found[path] = tuple(map(normalize_name, lines))
        for path, names in found.items():
            check_printable(names, listing.root / path)
            if self.names not in (None, names):
                other = next(iter(found))
                raise UserError(
                    f"{listing.root / other} and {listing.root / path} name different classes. "
                    "Expected one list of names. Remove the others."
                )
            self.names = names

    def splits(self, images: Sequence[str]) -> dict[str, int]:
        """Return the split of the images that data.yaml assigns, as indices into MODES."""
        found: dict[str, int] = {}
        for mode, prefixes in self._paths.items():
            for prefix in prefixes:
                if prefix.endswith(".txt"):
                    found |= self._read_list(prefix, images, MODES.index(mode))
                else:
                    start = f"{prefix}/" if prefix else ""
                    number = MODES.index(mode)
                    found |= {image: number for image in images if image.startswith(start)}
        return found

    def _read_yaml(self, path: str, content: dict[str, Any]) -> None:
        """Find the folders and lists of data.yaml that exist."""
        root = self._listing.root
        shape = content.get("kpt_shape")
        if isinstance(shape, list) and len(shape) == 2 and all(isinstance(n, int) for n in shape):
            self.kpt_shape = (shape[0], shape[1])
        base = path.rpartition("/")[0]
        inner = str(content.get("path") or "")
        for mode in MODES:
            values = content.get(mode)
            for value in values if isinstance(values, list) else [values]:
                if not isinstance(value, str):
                    continue
                # Paths are of the machine that wrote the file: the longest end that exists.
                for start in (base, posixpath.join(base, inner)):
                    plain = posixpath.normpath(posixpath.join(start, value.replace("\\", "/")))
                    parts = [part for part in plain.split("/") if part not in ("", "..", ".")]
                    ends = ["/".join(parts[i:]) for i in range(len(parts))]
                    existing = next((end for end in ends if (root / end).exists()), None)
                    if existing is not None:
                        self._paths.setdefault(mode, set()).add(existing)
                        break

    def _read_list(self, path: str, images: Sequence[str], number: int) -> dict[str, int]:
        known = set(images)
        found = {}
        for line in read_text(self._listing.root / path).splitlines():
            parts = line.strip().replace("\\", "/").split("/")
            ends = ("/".join(parts[i:]) for i in range(len(parts)) if parts[i] not in (".", ".."))
            if (image := next((end for end in ends if end in known), None)) is not None:
                found[image] = number
        return found


def name_files(listing: Listing) -> set[str]:
    """Return the text files other than labels: names of classes, and lists of images."""
    return {
        path
        for path in listing.with_extension(".txt")
        if is_list(path) or path.rpartition("/")[2].casefold() in _NAME_FILES
    }


def parse_boxes(data: bytes) -> list[float] | None:
    """Return the numbers of lines of five numbers each; None for other content."""
    if not _PLAIN.fullmatch(data):
        return None
    words = data.split()
    if len(words) % _BOX:
        return None
    lines = data.splitlines()
    if len(words) != _BOX * len(lines) or any(len(line.split()) != _BOX for line in lines):
        return None
    try:
        return list(map(float, words))
    except ValueError:
        return None


def add_boxes(
    values: NDArray[np.float64],
    rows: NDArray[np.int64],
    columns: ObjectColumns,
    names: Sequence[str] | None,
) -> int:
    """Add boxes, float64 (n, 5): class, center, width and height; return the highest class."""
    labels, half = values[:, 0], values[:, 3:] / 2
    valid = np.isfinite(labels) & (labels >= 0) & (labels < 2**31) & (labels == np.floor(labels))
    classes = np.where(valid, labels, UNKNOWN).astype(np.int32)
    highest = int(classes.max(initial=UNKNOWN))
    if names is not None:
        classes[classes >= len(names)] = UNKNOWN
    first = len(columns)
    for i in np.flatnonzero(classes == UNKNOWN).tolist():
        columns.labels[first + i] = f"class {labels[i]:g}"
    with np.errstate(invalid="ignore", over="ignore"):
        corners = np.concatenate([values[:, 1:3] - half, values[:, 1:3] + half], axis=1)
    columns.rows.frombytes(rows.tobytes())
    columns.boxes.frombytes(corners.tobytes())
    columns.classes.frombytes(classes.tobytes())
    columns.crowd.extend(bytes(len(values)))
    return highest


def add_lines(
    data: bytes,
    row: int,
    columns: ObjectColumns,
    names: Sequence[str] | None,
    shapes: bool,
    kpt_shape: tuple[int, int] | None,
) -> tuple[list[str], int]:
    """Add lines of boxes, polygons or poses; return the faults, and the highest class.

    A line has the class, and either a box, a box and its score, a box and keypoints (with
    ``kpt_shape``), or at least three corners of a polygon.
    """
    faults, highest = [], -1
    for number, line in enumerate(data.splitlines(), 1):
        words = line.split()
        if not words:
            continue
        try:
            label, *values = map(float, words)
        except ValueError:
            text = line.decode(errors="replace")
            faults.append(f"line {number}: {text!r:.60}; expected numbers, separated by spaces")
            continue
        if not label.is_integer() or not 0 <= label < 2**31:
            faults.append(f"line {number}: class {words[0].decode(errors='replace')}")
            continue
        polygon: list[float] = []
        count = 0 if kpt_shape is None else kpt_shape[0] * kpt_shape[1]
        if len(values) in (4, 5) or (count and len(values) == 4 + count):
            x, y, width, height = values[:4]
            box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        elif len(values) >= 6 and len(values) % 2 == 0:
            polygon = values
            box = (min(values[::2]), min(values[1::2]), max(values[::2]), max(values[1::2]))
        else:
            faults.append(f"line {number}: {len(words)} numbers; expected a box or a polygon")
            continue
        index = int(label)
        highest = max(highest, index)
        is_known = names is None or index < len(names)
        columns.add(row, box, index if is_known else UNKNOWN, name=f"class {index}")
        if shapes and polygon:
            columns.add_polygon(polygon)
        if kpt_shape is not None and len(values) == 4 + count:
            columns.add_keypoints(_keypoints(values[4:], kpt_shape))
    return faults, highest


def is_yolo(lines: Sequence[bytes]) -> bool:
    """Whether lines have a class number and at least four numbers."""
    for line in lines:
        try:
            label, *values = map(float, line.split())
        except ValueError:
            return False
        if len(values) < 4 or not label.is_integer():
            return False
    return bool(lines)


def _keypoints(values: Sequence[float], shape: tuple[int, int]) -> list[float]:
    points = [values[i : i + shape[1]] for i in range(0, len(values), shape[1])]
    return [
        value
        for point in points
        for value in (*point[:2], point[2] if len(point) > 2 else 2.0 * any(point))
    ]


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(read_text(path))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: {getattr(error, 'problem', '')}" if mark else ""
        raise UserError(
            f"cannot read {path}: invalid YAML ({where or first_line(error)})."
        ) from None


def _yaml_names(path: Path, value: Any) -> tuple[str, ...]:
    """Return the names of a list, or of a dictionary by number."""
    if isinstance(value, dict):
        value = {int(key) if str(key).isdecimal() else key: name for key, name in value.items()}
        if set(value) != set(range(len(value))):
            raise UserError(
                f"{path}: the numbers of names are {', '.join(map(str, list(value)[:20]))}; "
                f"expected 0 to {len(value) - 1}."
            )
        value = [value[i] for i in range(len(value))]
    if not isinstance(value, list) or not value:
        raise UserError(f"{path}: names is {value!r}; expected a list of class names.")
    return tuple(normalize_name(str(name)) for name in value)
