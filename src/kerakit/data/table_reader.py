"""Readers of tables with label columns: sets, numbers, masks, several outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.base_reader import BaseReader, LabelFault
from kerakit.data.folders import check_printable, warn_of_case_variants
from kerakit.data.index import ImageIndex
from kerakit.data.label_columns import KINDS, Kind, LabelColumn, read_column
from kerakit.data.object_reader import ListedObjects, list_objects
from kerakit.data.rarest import rarest_class
from kerakit.data.shards.member import Member
from kerakit.data.table_files import is_table
from kerakit.data.tables import index_columns
from kerakit.errors import UserError, list_names

_OTHER = "a table, or annotations of objects: "
"""Start of the formats in the error for data without labels."""


class TableReader(BaseReader):
    r"""Images in a table with one or several columns of labels.

    The columns are ``path``, optionally ``split``, ``group`` and ``sample_weight``, and labels: a
    class, a set of classes ``a;b``, a number, or the path of a mask. Annotations are dictionaries
    by column: int32 (), float32 (classes,) multi-hot, float32 (1,), or ``{"mask": path}``.

    Args:
        data: CSV, TSV or Parquet file.
        train_ratio: as for ``DataReader``.
        seed: as for ``DataReader``.
        exclusions: as for ``DataReader``.
        columns: kind of each column to use: "class", "set", "number", "mask", or None to infer it
            from its values; default: all columns, with kinds inferred.

    Attributes:
        class_names: names of the classes of each column; of numbers, that of the column.
        columns: the kind of each column.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     rows = ["path,fruit,colors,grams", "a.jpg,apple,red;green,102.5", "b.jpg,pear,,98"]
    ...     _ = table.write_text("\n".join(rows))
    ...     reader = TableReader(table)
    >>> reader.columns
    {'fruit': 'class', 'colors': 'set', 'grams': 'number'}
    >>> reader.class_names["colors"], reader.target(0)["colors"], reader.target(0)["grams"]
    (('green', 'red'), array([1., 1.], dtype=float32), array([102.5], dtype=float32))
    """

    def __init__(
        self,
        data: Path | str,
        train_ratio: float = 0.8,
        seed: int = 0,
        exclusions: Path | Sequence[str] | None = None,
        columns: Mapping[str, Kind | None] | None = None,
    ) -> None:
        self._selected = columns
        super().__init__(data, train_ratio, seed, exclusions)
        self.class_names = {
            name: column.class_names or (name,) for name, column in self._columns.items()
        }

    @property
    def columns(self) -> dict[str, Kind]:
        """The kind of each column."""
        return {name: column.kind for name, column in self._columns.items()}

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of a table."""
        index, cells = index_columns(data)
        self._columns = {
            name: read_column(data, name, cells[name], kind, index.shards)
            for name, kind in _select(data, cells, self._selected).items()
        }
        first: dict[Kind, LabelColumn] = {}
        for column in self._columns.values():
            first.setdefault(column.kind, column)
        strata = (first.get("class") or first.get("set") or next(iter(first.values()))).strata()
        warnings = [
            f"column {name!r}: {line}"
            for name, column in self._columns.items()
            for line in warn_of_case_variants(column.class_names)
        ]
        return replace(
            index,
            targets=strata,
            class_names=tuple(self._columns),
            warnings=(*index.warnings, *warnings),
        )

    def target(self, i: int) -> dict[str, Any]:
        """Return the annotation of image ``i`` by column."""
        row = int(self.rows[i])
        return {name: column.target(row) for name, column in self._columns.items()}

    def _members(self, i: int) -> Iterator[Member]:
        yield from super()._members(i)
        masks = (one for one in self._columns.values() if one.kind == "mask")
        yield from (one.files[int(self.rows[i])] for one in masks)


class MultiLabelReader(BaseReader):
    r"""Images with a set of labels each; annotations are multi-hot, float32 (classes,).

    In a table, the column ``label`` has sets such as ``cat;dog``; or each class has a column of
    0 and 1. An empty set is a valid label. In data with objects (COCO, YOLO, Pascal VOC, LabelMe,
    KITTI), a label is a class of at least one object.

    Args:
        data: table, folder or annotation file.
        train_ratio: as for ``DataReader``.
        seed: as for ``DataReader``. The split is stratified by the rarest class of an image.
        exclusions: as for ``DataReader``.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     _ = table.write_text("path,label\na.jpg,cat;dog\nb.jpg,dog\nc.jpg,\n")
    ...     reader = MultiLabelReader(table)
    >>> reader.class_names, [reader.target(i).tolist() for i in range(3)]
    (('cat', 'dog'), [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    """

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of a table, or of annotation files."""
        if not is_table(data):
            objects = list_objects(data, _OTHER)
            self._presence = objects.counts > 0
            return objects.index
        index, cells = index_columns(data)
        if "label" in cells:
            column = read_column(data, "label", cells["label"], "set")
            names, self._presence = column.class_names, column.values
        else:
            names, self._presence = _read_indicators(data, cells)
        if not names:
            raise UserError(f"{data} has no labels: all sets are empty.")
        without = int((~self._presence.any(axis=1)).sum())
        note = (f"images without labels, used as negative examples: {without:,}.",)
        return replace(
            index,
            targets=rarest_class(self._presence),
            class_names=names,
            warnings=(
                *index.warnings,
                *warn_of_case_variants(names),
                *(note if without else ()),
            ),
        )

    def target(self, i: int) -> NDArray[np.float32]:
        """Return the labels of image ``i``, multi-hot, float32 (classes,)."""
        labels: NDArray[np.float32] = self._presence[self.rows[i]].astype(np.float32)
        return labels

    def presence(self) -> NDArray[np.bool_]:
        """Return the labels of each image, bool (n, classes)."""
        presence: NDArray[np.bool_] = self._presence[self.rows]
        return presence

    def label_faults(self) -> Iterator[LabelFault]:
        """Yield the images without labels."""
        for i in np.flatnonzero(~self.presence().any(axis=1)):
            yield LabelFault(self.key(int(i)), "image without labels")


class RegressionReader(BaseReader):
    r"""Images with one or several numbers each; annotations are float32 (outputs,).

    In a table, the numbers are the column ``label``, or else all columns of numbers. In data with
    objects (COCO, YOLO, Pascal VOC, LabelMe, KITTI), they are the numbers of objects per class.

    Args:
        data: table, folder or annotation file.
        train_ratio: as for ``DataReader``.
        seed: as for ``DataReader``.
        exclusions: as for ``DataReader``.
        columns: names of the columns, or classes, to use.

    Attributes:
        class_names: names of the outputs.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     _ = table.write_text("path,width,height\na.jpg,1.5,20\nb.jpg,1.25,31\n")
    ...     reader = RegressionReader(table)
    >>> reader.class_names, reader.target(1)
    (('width', 'height'), array([ 1.25, 31.  ], dtype=float32))
    """

    def __init__(
        self,
        data: Path | str,
        train_ratio: float = 0.8,
        seed: int = 0,
        exclusions: Path | Sequence[str] | None = None,
        columns: Sequence[str] | None = None,
    ) -> None:
        self._selected = columns
        super().__init__(data, train_ratio, seed, exclusions)

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of a table, or of annotation files."""
        if not is_table(data):
            return self._count_objects(list_objects(data, _OTHER))
        index, cells = index_columns(data)
        names = self._selected or (["label"] if "label" in cells else _find_numbers(cells))
        if missing := [name for name in names if name not in cells]:
            raise _missing_column(data, missing[0], cells)
        if not names:
            raise UserError(
                f"{data} has no column of numbers; its columns are {', '.join(cells) or 'path'}. "
                "Expected numbers in the column label, or in columns with other names."
            )
        values = [read_column(data, name, cells[name], "number").values for name in names]
        self._numbers = np.stack(values, axis=1)
        unused = [name for name in cells if name not in names]
        note = (f"columns that are not used: {len(unused)} ({list_names(unused)}).",)
        return replace(
            index,
            class_names=tuple(names),
            warnings=(*index.warnings, *(note if unused else ())),
        )

    def _count_objects(self, objects: ListedObjects) -> ImageIndex:
        classes = objects.index.class_names
        names = tuple(self._selected or classes)
        if missing := [name for name in names if name not in classes]:
            raise UserError(
                f"{self.data} has no class {missing[0]!r}; its classes are {', '.join(classes)}."
            )
        columns = [classes.index(name) for name in names]
        self._numbers = objects.counts[:, columns].astype(np.float32)
        return replace(
            objects.index, class_names=names, targets=np.zeros(len(self._numbers), np.int32)
        )

    def target(self, i: int) -> NDArray[np.float32]:
        """Return the numbers of image ``i``, float32 (outputs,)."""
        numbers: NDArray[np.float32] = self._numbers[self.rows[i]]
        return numbers


def _select(
    path: Path, cells: Mapping[str, pa.Array], selected: Mapping[str, Kind | None] | None
) -> Mapping[str, Kind | None]:
    """Return the columns to read and their kinds, None to infer."""
    if selected is None:
        if not cells:
            raise UserError(f"{path} has no column of labels. Expected columns besides path.")
        return dict.fromkeys(cells)
    for name, kind in selected.items():
        if name not in cells:
            raise _missing_column(path, name, cells)
        if kind is not None and kind not in KINDS:
            raise UserError(
                f"the kind of the column {name!r} is {kind!r}; expected one of {', '.join(KINDS)}."
            )
    return selected


def _missing_column(path: Path, name: str, cells: Mapping[str, pa.Array]) -> UserError:
    return UserError(
        f"{path} has no column {name!r}; its columns of labels are {', '.join(cells) or 'none'}."
    )


def _find_numbers(cells: Mapping[str, pa.Array]) -> list[str]:
    """Return the names of the columns in which all cells are numbers."""
    names = []
    for name, column in cells.items():
        values = pc.unique(column).to_pylist()
        try:
            finite = [np.isfinite(float(value)) for value in values if value]
        except ValueError:
            continue
        if finite and all(finite):
            names.append(name)
    return names


def _read_indicators(
    path: Path, cells: Mapping[str, pa.Array]
) -> tuple[tuple[str, ...], NDArray[np.bool_]]:
    """Return the names of the columns of 0 and 1, and their values, bool (n, classes)."""
    expected = "Expected the column label with sets such as cat;dog, or columns of 0 and 1."
    if words := [name for name in cells if name not in _find_numbers(cells)]:
        raise UserError(
            f"{path} has no column 'label', and no numbers in the column {words[0]!r}. {expected}"
        )
    if not cells:
        raise UserError(f"{path} has no column of labels. {expected}")
    values = []
    for name, column in cells.items():
        numbers = read_column(path, name, column, "number").values
        if (unknown := (numbers != 0) & (numbers != 1)).any():
            row = int(np.flatnonzero(unknown)[0])
            raise UserError(
                f"{path}, row {row + 1}: the column {name!r} has the value {numbers[row]:g}. "
                f"{expected}"
            )
        values.append(numbers == 1)
    check_printable(tuple(cells), path)
    return tuple(cells), np.stack(values, axis=1)
