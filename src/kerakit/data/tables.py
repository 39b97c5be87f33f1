"""Images listed in a table: CSV or Parquet with the columns ``path`` and ``label``, and ``split`` and ``group`` if wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv, parquet

from kerakit.data.folders import check_printable
from kerakit.data.reader import UNASSIGNED, ImageIndex
from kerakit.data.split import MODES
from kerakit.errors import UserError

_NEEDED, _WANTED = ("path", "label"), ("split", "group")
# What the column `split` may say, and what it means.
_SPLITS = {
    "train": "train",
    "training": "train",
    "validation": "val",
    "val": "val",
    "valid": "val",
    "test": "test",
}


def index_table(path: Path) -> ImageIndex:
    """List the rows of a table. Relative paths belong to the table's folder.

    Raises:
        UserError: no table, a missing column, an empty cell, an unknown split, fewer than two classes, a path that is listed
            twice or leaves the folder.
    """
    table = _read(path)
    for name in _NEEDED:
        _refuse_empty_cells(path, name, table[name])
    keys, labels = (table[name].combine_chunks() for name in _NEEDED)
    _refuse_paths(path, keys)
    encoded = labels.dictionary_encode()
    names = np.array(encoded.dictionary.to_pylist(), object)
    if len(names) < 2:
        raise UserError(
            f"{path} has one class ({names[0]}). Expected at least two different values in the column label."
        )
    order = np.argsort(names)
    class_names = tuple(names[order])
    check_printable(class_names, path)
    ranks = np.empty(len(order), np.int32)
    ranks[order] = np.arange(len(order))
    targets = ranks[encoded.indices.to_numpy()]
    groups = None
    if "group" in table.column_names:
        _refuse_empty_cells(path, "group", table["group"])
        groups = table["group"].combine_chunks().cast(pa.binary())
    return ImageIndex(
        path.parent, keys.cast(pa.binary()), targets, class_names, _splits(path, table), groups
    )


def read_exclusions(path: Path) -> pa.Array:
    """Return the paths that a list of ``kerakit check`` leaves out, binary (n,).

    Raises:
        UserError: it cannot be read, lacks the column path or exclusions, or says neither yes nor no.
    """
    as_text = csv.ConvertOptions(column_types={"path": pa.binary(), "exclusions": pa.string()})
    try:
        table = csv.read_csv(path, convert_options=as_text)
        wanted = pc.utf8_lower(pc.utf8_trim_whitespace(table["exclusions"]))
        keys = table["path"]
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise UserError(
            f"the list {path} cannot be read: {str(error).splitlines()[0]}. Write it anew with kerakit check."
        ) from None
    if other := [value for value in pc.unique(wanted).to_pylist() if value not in ("yes", "no")]:
        raise UserError(f"{path}: the column exclusions says {other[0]!r}. Expected yes or no.")
    return keys.filter(pc.equal(wanted, "yes")).combine_chunks()


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            names = parquet.read_schema(path).names
            table = parquet.read_table(
                path, columns=[name for name in names if name in _NEEDED + _WANTED]
            )
        elif path.suffix.lower() == ".csv":
            # Labels and groups such as 007 stay what they are.
            as_text = csv.ConvertOptions(
                column_types=dict.fromkeys(_NEEDED + _WANTED, pa.string()),
                null_values=[""],
                strings_can_be_null=True,
            )
            table = csv.read_csv(path, convert_options=as_text)
        else:
            raise UserError(
                f"{path} is no table that can be read. Expected a folder, or a file that ends in .csv or .parquet."
            )
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"the table {path} cannot be read: {str(error).splitlines()[0]}") from None
    if missing := [name for name in _NEEDED if name not in table.column_names]:
        raise UserError(
            f"{path} lacks the column {missing[0]!r}; it has {', '.join(table.column_names)}. Expected path, label, and "
            "split and group if wanted."
        )
    if not table.num_rows:
        raise UserError(f"{path} has no rows.")
    columns = {
        name: _as_text(table[name]) for name in _NEEDED + _WANTED if name in table.column_names
    }
    return pa.table(columns)


def _as_text(column: Any) -> Any:
    """Labels and groups may be numbers in Parquet."""
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _refuse_empty_cells(path: Path, name: str, column: Any) -> None:
    # NaN is how pandas writes an empty cell of a column of numbers.
    blank = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(["", "nan", "NaN"]))
    empty = pc.or_(pc.is_null(column), blank)
    if (row := pc.index(empty, True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: the column {name!r} is empty. Fill it in, or remove the row."
        )


def _refuse_paths(path: Path, keys: Any) -> None:
    leaves = pc.match_substring_regex(keys, r"(^|[/\\])\.\.([/\\]|$)")
    if (row := pc.index(leaves, True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: the path {keys[row].as_py()!r} leaves the table's folder."
        )
    if len(pc.unique(keys)) < len(keys):
        counts = pc.value_counts(keys)
        twice = counts.filter(pc.greater(counts.field("counts"), 1))[0]["values"].as_py()
        raise UserError(
            f"{path} lists {twice!r} more than once. An image must not be on both sides of the split."
        )


def _splits(path: Path, table: pa.Table) -> NDArray[np.int8]:
    if "split" not in table.column_names:
        return np.full(table.num_rows, UNASSIGNED, np.int8)
    encoded = table["split"].combine_chunks().dictionary_encode()
    codes = []
    for value in encoded.dictionary.to_pylist():
        if value.strip().lower() not in _SPLITS:
            raise UserError(
                f"{path}: unknown split {value!r}. Expected train, val or test, or nothing."
            )
        codes.append(MODES.index(_SPLITS[value.strip().lower()]))
    indices = encoded.indices.fill_null(len(codes)).to_numpy()
    splits: NDArray[np.int8] = np.array([*codes, UNASSIGNED], np.int8)[indices]
    return splits
