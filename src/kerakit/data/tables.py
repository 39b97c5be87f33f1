"""Datasets in tables: CSV or Parquet with path and label, and optionally split and group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from kerakit.data.folders import check_printable
from kerakit.data.index import UNASSIGNED, ImageIndex
from kerakit.data.split import MODES, parse_split
from kerakit.errors import UserError, first_line

_REQUIRED, _OPTIONAL = ("path", "label"), ("split", "group")


def index_table(path: Path) -> ImageIndex:
    """Return the index of a table. Paths are relative to the table's folder.

    Raises:
        UserError: no table, a missing column, an empty cell, an unknown split, fewer than two
            classes, a duplicate path, a path outside the folder.
    """
    table = _read(path)
    for name in _REQUIRED:
        _check_cells(path, name, table[name])
    keys, labels = (table[name].combine_chunks() for name in _REQUIRED)
    _check_paths(path, keys)
    encoded = labels.dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), object)
    if len(names) < 2:
        raise UserError(
            f"{path} has one class ({names[0]}). Expected at least two different values in the "
            "column label."
        )
    order = np.argsort(names)
    class_names = tuple(names[order])
    check_printable(class_names, path)
    targets = np.argsort(order).astype(np.int32)[encoded.indices.to_numpy()]
    groups = None
    if "group" in table.column_names:
        _check_cells(path, "group", table["group"])
        groups = table["group"].combine_chunks().cast(pa.binary())
    return ImageIndex(
        path.parent, keys.cast(pa.binary()), targets, class_names, _splits(path, table), groups
    )


def read_exclusions(path: Path) -> pa.Array:
    """Return the keys of the images that a list of ``kerakit check`` excludes, binary (n,).

    Raises:
        UserError: the file cannot be read, has no column path or exclude, or a value of exclude is
            neither yes nor no.
    """
    as_text = csv.ConvertOptions(column_types={"path": pa.binary(), "exclude": pa.string()})
    try:
        table = csv.read_csv(path, convert_options=as_text)
        exclude = pc.utf8_lower(pc.utf8_trim_whitespace(table["exclude"]))
        keys = table["path"]
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise UserError(
            f"cannot read the list {path}: {first_line(error)}. Create it again with kerakit check."
        ) from None
    if other := [value for value in pc.unique(exclude).to_pylist() if value not in ("yes", "no")]:
        raise UserError(
            f"{path}: the column exclude has the value {other[0]!r}; expected yes or no."
        )
    return keys.filter(pc.equal(exclude, "yes")).combine_chunks()


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            names = parquet.read_schema(path).names
            table = parquet.read_table(
                path, columns=[name for name in names if name in _REQUIRED + _OPTIONAL]
            )
        elif path.suffix.lower() == ".csv":
            # As text, so that labels and groups such as 007 keep their zeros.
            as_text = csv.ConvertOptions(
                column_types=dict.fromkeys(_REQUIRED + _OPTIONAL, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            )
            table = csv.read_csv(path, convert_options=as_text)
        else:
            raise UserError(
                f"{path} is not a table. Expected a folder, or a file with the extension .csv or "
                ".parquet."
            )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the table {path}: {first_line(error)}") from None
    if missing := [name for name in _REQUIRED if name not in table.column_names]:
        raise UserError(
            f"{path} has no column {missing[0]!r}; its columns are "
            f"{', '.join(table.column_names)}. Expected path and label, and optionally split and "
            "group."
        )
    if not table.num_rows:
        raise UserError(f"{path} has no rows. Expected one row per image.")
    # Labels and groups may be numbers in Parquet.
    return pa.table({name: table[name].cast(pa.string()) for name in table.column_names})


def _check_cells(path: Path, name: str, column: Any) -> None:
    # pandas writes an empty cell of a column of numbers as NaN.
    blank = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(["", "nan", "NaN"]))
    empty = pc.or_(pc.is_null(column), blank)
    if (row := pc.index(empty, True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: the column {name!r} is empty. Fill it in, or remove the row."
        )


def _check_paths(path: Path, keys: Any) -> None:
    outside = pc.match_substring_regex(keys, r"(^|[/\\])\.\.([/\\]|$)")
    if (row := pc.index(outside, True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: the path {keys[row].as_py()!r} is outside the table's folder."
        )
    if len(pc.unique(keys)) < len(keys):
        counts = pc.value_counts(keys)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise UserError(
            f"{path} has the path {twice!r} more than once. An image must be in one split only. "
            "Remove the duplicates."
        )


def _splits(path: Path, table: pa.Table) -> NDArray[np.int8]:
    if "split" not in table.column_names:
        return np.full(table.num_rows, UNASSIGNED, np.int8)
    encoded = table["split"].combine_chunks().dictionary_encode()
    codes = []
    for value in encoded.dictionary.to_pylist():
        mode, rest = parse_split(value)
        if mode is None or rest:
            raise UserError(
                f"{path}: unknown split {value!r}. Expected train, val, test, or an empty cell."
            )
        codes.append(MODES.index(mode))
    indices = encoded.indices.fill_null(len(codes)).to_numpy()
    splits: NDArray[np.int8] = np.array([*codes, UNASSIGNED], np.int8)[indices]
    return splits
