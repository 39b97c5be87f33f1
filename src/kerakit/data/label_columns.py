"""Label columns of tables: classes, sets, numbers, paths of masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.annotations.mask_files import MaskClasses, find_classes
from kerakit.data.cells import parse_numbers
from kerakit.data.decode import IMAGE_EXTENSIONS
from kerakit.data.folders import check_printable
from kerakit.data.rarest import rarest_class
from kerakit.data.shards.index import Shards
from kerakit.data.shards.member import Member
from kerakit.data.tables import encode, normalize_keys
from kerakit.errors import UserError

Kind = Literal["class", "set", "number", "mask"]
KINDS: tuple[Kind, ...] = ("class", "set", "number", "mask")

SEPARATOR = ";"
"""Between the labels of a set."""

_MANY_NUMBERS = 20
"""Distinct integers from which a column contains numbers, not classes."""


@dataclass(frozen=True)
class LabelColumn:
    """A column of labels.

    Attributes:
        kind: kind of the labels.
        class_names: names of the classes; () for numbers.
        values: one per row: class indices int32 (n,), multi-hot bool (n, classes), numbers float32
            (n,), or paths of masks, text (n,).
        masks: classes of masks.
        files: paths of the masks, or members of shards.
    """

    kind: Kind
    class_names: tuple[str, ...]
    values: Any
    masks: MaskClasses | None = None
    files: Sequence[Any] = ()

    def target(self, row: int) -> Any:
        """Return the annotation of a row."""
        if self.kind == "class":
            return np.int32(self.values[row])
        if self.kind == "set":
            return self.values[row].astype(np.float32)
        if self.kind == "number":
            return self.values[row : row + 1]
        place = self.files[row]
        path = place if isinstance(place, Member) else str(place)
        return {"mask": path} if self.masks is None else self.masks.annotation(path)

    def strata(self) -> NDArray[np.int32]:
        """Return the strata of the split, int32 (n,)."""
        if self.kind == "class":
            strata: NDArray[np.int32] = self.values
            return strata
        if self.kind == "set":
            return rarest_class(self.values)
        return np.zeros(len(self.values), np.int32)


def read_column(
    path: Path,
    name: str,
    cells: pa.Array,
    kind: Kind | None = None,
    shards: Shards | None = None,
) -> LabelColumn:
    """Return a column of text as labels; the kind is inferred where it is not given.

    Args:
        path: the table, for messages.
        name: name of the column.
        cells: text (n,).
        kind: its kind.
        shards: shards that contain its masks; None: files.

    Raises:
        UserError: an empty cell, except for sets; a number that is none.
    """
    cells = pc.utf8_trim_whitespace(pc.fill_null(cells, ""))
    in_shards = shards is not None and name in shards.metadata["mask_columns"]
    kind = kind or ("mask" if in_shards else infer_kind(cells))
    if kind == "set":
        return LabelColumn(kind, *_read_sets(path, cells))
    if kind == "mask":
        if shards is not None:
            if not in_shards:
                raise UserError(f"{shards.name} has no masks in the column {name!r}.")
            files: Sequence[Any] = shards.masks(name)
        else:
            cells = read_paths(path, name, cells)
            files = [path.parent / key for key in cells.to_pylist()]
        masks = find_classes(None, files, ())
        return LabelColumn(kind, masks.names, cells, masks, files)
    _check_filled(path, name, cells)
    if kind == "number":
        return LabelColumn(kind, (), parse_numbers(path, name, cells))
    codes, names = encode(pa.chunked_array([cells]))
    check_printable(names, path)
    return LabelColumn(kind, names, codes)


def read_paths(path: Path, name: str, cells: pa.Array) -> pa.Array:
    """Return a column of paths, relative to the table.

    Raises:
        UserError: an empty cell, or a path outside the table's folder.
    """
    cells = pc.utf8_trim_whitespace(pc.fill_null(cells, ""))
    _check_filled(path, name, cells)
    return normalize_keys(path, cells)


def _check_filled(path: Path, name: str, cells: pa.Array) -> None:
    if (row := pc.index(pc.is_in(cells, pa.array(["", "nan", "NaN"])), True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: the column {name!r} is empty. Fill it in, or remove the row."
        )


def infer_kind(cells: pa.Array) -> Kind:
    """Return the kind of a column of text (n,).

    >>> infer_kind(pa.array(["0.5", "2"])), infer_kind(pa.array(["cat;dog", ""]))
    ('number', 'set')
    """
    values = [value.strip() for value in pc.unique(cells).to_pylist() if value and value.strip()]
    if any(SEPARATOR in value for value in values):
        return "set"
    if values and all(Path(value).suffix.lower() in IMAGE_EXTENSIONS for value in values):
        return "mask"
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        return "class"
    integers = all(number.is_integer() for number in numbers)
    return "class" if integers and len(numbers) <= _MANY_NUMBERS else "number"


def _read_sets(path: Path, cells: pa.Array) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Return the sorted labels, and those of each row, bool (n, classes)."""
    lists = pc.split_pattern(cells, SEPARATOR)
    rows = pc.list_parent_indices(lists).to_numpy()
    parts = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    used = pc.not_equal(parts, "")
    parts, rows = parts.filter(used), rows[used.to_numpy(zero_copy_only=False)]
    codes, names = encode(pa.chunked_array([parts], pa.string()))
    check_printable(names, path)
    presence = np.zeros((len(cells), len(names)), np.bool_)
    presence[rows, codes] = True
    return names, presence
