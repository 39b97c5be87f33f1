"""Tables of boxes: a row per box, with the names of columns that are in use."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.annotations.listing import Listing, split_of_path
from kerakit.data.annotations.objects import UNKNOWN, Annotations, ObjectColumns, sort_names
from kerakit.data.cells import read_splits, to_numbers
from kerakit.data.decode import IMAGE_EXTENSIONS
from kerakit.data.folders import normalize_name
from kerakit.data.index import UNASSIGNED
from kerakit.data.table_files import read_header, read_text_batches
from kerakit.errors import UserError, list_names

_IMAGE = ("path", "image", "filename", "file", "imagepath", "imagename", "imageid", "filepath")
_LABEL = ("label", "class", "classname", "labelname", "category", "categoryname", "name", "classid")
_CROWD = ("crowd", "iscrowd", "difficult", "isdifficult", "isgroupof")
_FORMS = {
    "corners": (
        ("xmin", "ymin", "xmax", "ymax"),
        ("x1", "y1", "x2", "y2"),
        ("left", "top", "right", "bottom"),
    ),
    "center": (("xcenter", "ycenter", "width", "height"), ("xcenter", "ycenter", "w", "h")),
    "size": (
        ("x", "y", "width", "height"),
        ("x", "y", "w", "h"),
        ("xmin", "ymin", "width", "height"),
        ("left", "top", "width", "height"),
    ),
}
"""Columns of a box by its form, in the order in which they are looked for."""

_SINGLE = "object"
"""Name of the class where a table has no column of labels."""


class BoxColumns(NamedTuple):
    """The columns of a table of boxes, by their names in the file.

    Attributes:
        image: paths or names of images.
        form: a key of ``_FORMS``.
        sides: four columns of the form.
        label: classes; None: one class.
        crowd: regions that are neither objects nor background, or None.
        split: train, val or test, or None.
        size: width and height of the image, or ().
        unused: the others.
    """

    image: str
    form: str
    sides: tuple[str, ...]
    label: str | None
    crowd: str | None
    split: str | None
    size: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def used(self) -> set[str]:
        """All names but ``unused``."""
        optional = {self.label, self.crowd, self.split} - {None}
        return {self.image, *self.sides, *self.size, *map(str, optional)}


def find_columns(names: Sequence[str]) -> BoxColumns | None:
    """Return the columns of boxes by the names of all columns; None without an image or a box.

    Case, spaces, ``_``, and the prefix ``bbox`` don't matter.

    >>> find_columns(["filename", "width", "height", "class", "xmin", "ymin", "xmax", "ymax"])[:3]
    ('filename', 'corners', ('xmin', 'ymin', 'xmax', 'ymax'))
    >>> find_columns(["image_id", "bbox_x", "bbox_y", "bbox_w", "bbox_h"])[1:4]
    ('size', ('bbox_x', 'bbox_y', 'bbox_w', 'bbox_h'), None)
    """
    plain: dict[str, str] = {}
    for name in names:
        key = re.sub(r"[\W_]", "", name.casefold())
        plain.setdefault(re.sub(r"^b?box(?=.)", "", key), name)
    image = next((plain[one] for one in _IMAGE if one in plain), None)
    found = next(
        (
            (form, sides)
            for form, several in _FORMS.items()
            for sides in several
            if all(side in plain for side in sides)
        ),
        None,
    )
    if image is None or found is None:
        return None
    form, sides = found
    sizes = (("imagewidth", "imageheight"), ("width", "height"))
    size = next((two for two in sizes if not set(two) & set(sides) and set(two) <= set(plain)), ())
    label, crowd, split = (
        next((plain[one] for one in several if one in plain), None)
        for several in (_LABEL, _CROWD, ("split",))
    )
    columns = tuple(plain[side] for side in sides)
    shape = tuple(plain[one] for one in size)
    found_columns = BoxColumns(image, form, columns, label, crowd, split, shape, ())
    unused = tuple(name for name in names if name and name not in found_columns.used)
    return found_columns._replace(unused=unused)


def is_box_table(path: Path) -> bool:
    """Whether a file has the header of a table of boxes, and no column of masks."""
    try:
        names = read_header(path)
    except (UserError, OSError):
        return False
    return find_columns(names) is not None and "mask" not in map(str.casefold, names)


def no_boxes(path: Path) -> UserError:
    """Return the error for a table without boxes."""
    names = read_header(path)
    first = f"its columns are {', '.join(names[:20])}"
    if any(name.lower().endswith(tuple(IMAGE_EXTENSIONS)) for name in names):
        first = f"its first row is no header: {', '.join(names[:20])}"
    return UserError(
        f"{path} has no boxes: {first}. Expected a row per box with the columns path (or image, "
        "filename), xmin, ymin, xmax, ymax (or x, y, width, height) and label."
    )


def read_box_tables(listing: Listing, files: Sequence[str]) -> Annotations:
    """Return the boxes of tables. Rows without a box list images without objects.

    Coordinates are in pixels, or in fractions if most of a file are at most 1.

    Raises:
        UserError: a table cannot be read, or has a split of another name.
    """
    collected = _Collected(listing)
    for file in files:
        collected.add(file)
    return collected.annotations()


class _Collected:
    """The boxes of the tables read so far, in fractions or pixels."""

    def __init__(self, listing: Listing) -> None:
        self._listing = listing
        self._stems = {
            image.rpartition("/")[2].rpartition(".")[0]: image for image in listing.images
        }
        self._rows: dict[str, int] = {}
        self._splits: list[int] = []
        self._sizes: list[tuple[int, int]] = []
        self._names: dict[str, int] = {}
        self._parts: list[tuple[NDArray[Any], ...]] = []
        self._missing: dict[str, None] = {}
        self._text: dict[tuple[str, str], str] = {}
        self._warnings: list[str] = []
        self._in_pixels: bool | None = None

    def add(self, file: str) -> None:
        path = self._listing.root / file
        columns = find_columns(read_header(path))
        if columns is None:
            raise no_boxes(path)
        if columns.unused:
            self._warnings.append(
                f"{file}: columns that are not used: {len(columns.unused)} "
                f"({list_names(columns.unused)})."
            )
        first = len(self._parts)
        for table in read_text_batches(path, columns.used):
            self._parts.append(self._read_rows(file, table, columns))
        sides = np.concatenate([corners[:, 2:] for _, corners, *_ in self._parts[first:]])
        in_pixels = not (len(sides) and np.nanmedian(sides, overwrite_input=True) <= 1)
        if self._in_pixels not in (None, in_pixels):
            raise UserError(
                f"{path} has boxes in {'pixels' if in_pixels else 'fractions'}, and another table "
                "of the dataset not. Write all in pixels."
            )
        self._in_pixels = in_pixels

    def _read_rows(
        self, file: str, table: pa.Table, columns: BoxColumns
    ) -> tuple[NDArray[Any], ...]:
        """Return image, corners, label and crowd of the boxes of some rows."""
        known = len(self._rows)
        images, codes = _encode(table[columns.image])
        rows = self._find_rows(file, images)[codes]
        self._set_images(self._listing.root / file, rows, known, table, columns)
        values = np.empty((table.num_rows, 4))
        for i, side in enumerate(columns.sides):
            values[:, i] = to_numbers(table[side])
            self._name_text(file, side, table[side], np.isnan(values[:, i]))
        used = (rows >= 0) & ~np.isnan(values).all(axis=1)
        crowd = np.zeros(len(rows), np.bool_)
        if columns.crowd is not None:
            crowd = np.nan_to_num(to_numbers(table[columns.crowd])) > 0
        labels = self._label(table, columns)
        corners = _to_corners(values[used], columns.form)
        return rows[used].astype(np.int32), corners, labels[used].astype(np.int32), crowd[used]

    def _find_rows(self, file: str, names: Sequence[str]) -> NDArray[np.int64]:
        """Return the row of each image, -1 for those that do not exist."""
        folder = file.rpartition("/")[0]
        found, mode = [], split_of_path(file)
        for name in names:
            image = self._listing.find_image(name.removeprefix("./"), folder, mode)
            image = image or self._stems.get(name.rpartition("/")[2])  # image_id without extension
            if image is None:
                note = self._listing.why_missing(name)
                self._missing[f"{file}: {name or 'a row without an image'}{note}"] = None
                found.append(-1)
                continue
            if image not in self._rows:
                self._rows[image] = len(self._rows)
                self._splits.append(UNASSIGNED)
                self._sizes.append((0, 0))
            found.append(self._rows[image])
        return np.array(found, np.int64)

    def _set_images(
        self, path: Path, rows: NDArray[np.int64], known: int, table: pa.Table, columns: BoxColumns
    ) -> None:
        """Set split and size of the images from row ``known`` on, by the first row of each."""
        unique, first = np.unique(rows, return_index=True)
        unique, first = unique[unique >= known], first[unique >= known]
        if columns.split is not None:
            for row, split in zip(
                unique, read_splits(path, table[columns.split])[first], strict=True
            ):
                self._splits[row] = int(split)
        if columns.size:
            sizes = np.stack([to_numbers(table[name]) for name in columns.size], axis=1)[first]
            valid = (sizes > 0) & (sizes < 2**31)
            sizes = np.where(valid.all(axis=1, keepdims=True), sizes, 0)
            for row, (width, height) in zip(unique, sizes.astype(int).tolist(), strict=True):
                self._sizes[row] = (width, height)

    def _name_text(self, file: str, side: str, cells: Any, missing: NDArray[np.bool_]) -> None:
        """Add a fault for the first cell of a column that has text instead of a number."""
        if not missing.any() or (file, side) in self._text:
            return
        for value in pc.unique(cells.filter(pa.array(missing))).to_pylist()[:20]:
            if (text := (value or "").strip()).casefold() not in ("", "nan"):
                self._text[file, side] = f"column {side}: {text!r:.40}; expected a number"
                return

    def _label(self, table: pa.Table, columns: BoxColumns) -> NDArray[np.int64]:
        """Return the number of the name of each box in ``_names``, UNKNOWN for an empty cell."""
        if columns.label is None:
            names, codes = [_SINGLE], np.zeros(table.num_rows, np.int64)
        else:
            names, codes = _encode(table[columns.label])
        numbers = [
            self._names.setdefault(name, len(self._names)) if name else UNKNOWN
            for name in map(normalize_name, names)
        ]
        return np.array(numbers, np.int64)[codes]

    def annotations(self) -> Annotations:
        names = sort_names(self._names)
        order = {name: i for i, name in enumerate(names)}
        numbers = np.array([*(order[name] for name in self._names), UNKNOWN], np.int32)
        objects = ObjectColumns()
        for rows, boxes, labels, crowd in self._parts:
            objects.rows.frombytes(rows.astype(np.int64).tobytes())
            objects.boxes.frombytes(boxes.tobytes())
            objects.classes.frombytes(numbers[labels].tobytes())
            objects.crowd.extend(crowd.tobytes())
        self._parts.clear()
        images, splits = list(self._rows), np.array(self._splits, np.int8)
        if (splits == UNASSIGNED).all():
            splits = self._listing.given_splits(images)
        if self._missing:
            self._warnings.append(
                f"images of tables that do not exist: {len(self._missing):,} "
                f"({list_names(list(self._missing))})."
            )
        return Annotations(
            images,
            np.array(self._sizes, np.int32).reshape(-1, 2),
            splits,
            objects,
            names,
            in_pixels=bool(self._in_pixels),
            faults=[
                *((key, "label without image", "") for key in self._missing),
                *((file, "invalid annotation", text) for (file, _), text in self._text.items()),
            ],
            warnings=self._warnings,
        )


def _encode(column: Any) -> tuple[list[str], NDArray[np.int64]]:
    """Return the different texts of a column, "" for empty cells, and the number of each row's."""
    text = pc.utf8_trim_whitespace(pc.fill_null(column, "")).combine_chunks()
    encoded = text.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def _to_corners(values: NDArray[np.float64], form: str) -> NDArray[np.float64]:
    """Return x1, y1, x2, y2 of boxes of a form, (n, 4)."""
    if form == "corners":
        return values
    first, size = values[:, :2], values[:, 2:]
    low = first - size / 2 if form == "center" else first
    return np.concatenate([low, low + size], axis=1)
