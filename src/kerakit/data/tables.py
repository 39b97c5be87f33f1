"""Datasets in tables: CSV, TSV or Parquet with path, labels, and optionally split and group."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from kerakit.data.cells import check_cells, read_splits, read_weights
from kerakit.data.folders import check_printable, normalize_name, warn_of_case_variants
from kerakit.data.index import UNASSIGNED, ImageIndex
from kerakit.errors import UserError, first_line
from kerakit.machine import available_memory

_REQUIRED, _OPTIONAL = ("path", "label"), ("split", "group", "sample_weight")

_MAX_HEADER, _BLOCK_SIZE = 2**20, 2**24
"""Sizes in bytes: of the part of a CSV that has the header; the largest size of a row."""

_BATCH_SIZE, _BATCH_ROWS = 2**22, 2**16
"""Size of a batch, in bytes of a CSV and in rows: a million boxes take memory as numbers alone."""

_BYTES_PER_ROW = 240
"""Peak memory while a table is read; measured with a million rows."""

_Select = Callable[[list[str]], dict[int, str]]
"""Function from the names of all columns to the name by index of those to read."""


def index_table(path: Path) -> ImageIndex:
    """Return the index of a table. Paths are relative to the table's folder.

    Raises:
        UserError: no table, a missing column, an empty cell, an unknown split, fewer than two
            classes, a path with two labels or splits, a path outside the folder, more rows than
            the memory can hold.
    """
    table = _read(path, _REQUIRED)
    for name in _REQUIRED:
        check_cells(path, name, table[name])
    targets, class_names = encode(table["label"])
    if len(class_names) < 2:
        raise UserError(
            f"{path} has one class ({class_names[0]}). Expected at least two different values in "
            "the column label."
        )
    check_printable(class_names, path)
    index, once = _index(path, table, {"labels": targets})
    return replace(
        index,
        targets=targets[once],
        class_names=class_names,
        warnings=(*warn_of_case_variants(class_names), *index.warnings),
    )


def index_columns(path: Path) -> tuple[ImageIndex, dict[str, pa.Array]]:
    """Return the index of a table without targets, and its label columns by name, as text (n,).

    Label columns are all but path, split, group and sample_weight. Their cells may be null.

    Raises:
        UserError: as ``index_table``; a row that differs from another one of its path.
    """
    table = _read(path, ("path",), others=True)
    names = [name for name in table.column_names if name not in ("path", *_OPTIONAL)]
    columns = {name: table[name].combine_chunks() for name in names}
    codes = {name: _code(column) for name, column in columns.items()}
    index, once = _index(path, table, {f"values in {name!r}": code for name, code in codes.items()})
    rows = pa.array(once)
    return index, {name: column.take(rows) for name, column in columns.items()}


def _index(
    path: Path, table: pa.Table, labels: dict[str, NDArray[Any]]
) -> tuple[ImageIndex, NDArray[np.int64]]:
    """Return the index of a table without targets, and the row of each image."""
    check_cells(path, "path", table["path"])
    keys = normalize_keys(path, table["path"].combine_chunks())
    columns: dict[str, NDArray[Any]] = {**labels, "splits": _splits(path, table)}
    groups = None
    if "group" in table.column_names:
        check_cells(path, "group", table["group"])
        columns["groups"], names = encode(table["group"])
        groups = pa.array(names).take(pa.array(columns["groups"])).cast(pa.binary())
    weights = None
    if "sample_weight" in table.column_names:
        weights = columns["sample weights"] = read_weights(path, table["sample_weight"])
    once = _find_unique(path, keys, columns)
    again = len(keys) - len(once)
    index = ImageIndex(
        path.parent,
        keys.take(pa.array(once)).cast(pa.binary()),
        np.zeros(len(once), np.int32),
        (),
        columns["splits"][once].astype(np.int8),
        None if groups is None else groups.take(pa.array(once)),
        (f"rows that list an image again, ignored: {again:,}.",) if again else (),
        sample_weights=None if weights is None else weights[once],
    )
    return index, once


def _code(column: pa.Array) -> NDArray[np.int32]:
    """Return a number per value, equal for equal values, int32 (n,)."""
    codes: NDArray[np.int32] = column.dictionary_encode("encode").indices.to_numpy()
    return codes


def _read(path: Path, required: tuple[str, ...], others: bool = False) -> pa.Table:
    """Return the columns of a table as text: those required and optional, or all of them."""
    return _read_selected(path, partial(_select_columns, path, required, others), others)


def _read_selected(path: Path, select: _Select, others: bool) -> pa.Table:
    if (read := _READERS.get(path.suffix.lower())) is None:
        raise UserError(
            f"{path} is not a table. Expected a folder, or a file with the extension .csv, .tsv or "
            ".parquet."
        )
    with _naming(path):
        table = read(path, select, others)
    if not table.num_rows:
        raise _no_rows(path)
    return table


def _no_rows(path: Path) -> UserError:
    return UserError(f"{path} has no rows. Expected one row per image.")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Name a table that cannot be read."""
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError, csv.Error) as error:
        is_encoding = isinstance(error, UnicodeDecodeError) or "UTF8" in str(error)
        reason = "it is not UTF-8 text. Save it as UTF-8" if is_encoding else first_line(error)
        raise UserError(f"cannot read the table {path}: {reason.rstrip('.')}.") from None


def _select_columns(
    path: Path, required: tuple[str, ...], others: bool, names: list[str]
) -> dict[int, str]:
    """Return the columns to read by their indices; names may differ in case and spaces.

    Of label columns with other names (``others``), the case is kept.
    """
    plain = [name.strip().casefold() for name in names]
    known = (*required, *_OPTIONAL)
    for name in plain if others else known:
        if plain.count(name) > 1:
            raise UserError(
                f"{path} has {plain.count(name)} columns {name!r}. Expected one. Rename or remove "
                "the others."
            )
    if missing := [name for name in required if name not in plain]:
        expected = (
            "path, one or several columns of labels, and optionally split, group and sample_weight"
            if others
            else "path and label, and optionally split, group and sample_weight"
        )
        raise UserError(
            f"{path} has no column {missing[0]!r}; its columns are {', '.join(names[:20])}. "
            f"Expected {expected}."
        )
    if others:
        # Without a name: the row numbers of pandas.
        return {
            i: name if name in (*known, "label") else names[i].strip()
            for i, name in enumerate(plain)
            if name
        }
    return {i: name for i, name in enumerate(plain) if name in known}


def _read_csv(
    path: Path, select: _Select, _: bool, read: Any = arrow_csv.read_csv, block: int = _BLOCK_SIZE
) -> pa.Table:
    """Return a table, or the batches of a ``read`` that has them."""
    delimiter, header, lines, skipped, complete = _read_header(path)
    selected = select(header)
    names = [selected.get(i, f"column {i}") for i in range(len(header))]
    if complete and lines == 1:
        return pa.table({name: pa.array([], pa.string()) for name in selected.values()})
    # As text, so that labels and groups such as 007 keep their zeros.
    return read(
        path,
        arrow_csv.ReadOptions(column_names=names, skip_rows=skipped, block_size=block),
        arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        arrow_csv.ConvertOptions(
            column_types=dict.fromkeys(selected.values(), pa.string()),
            include_columns=list(selected.values()),
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _read_header(path: Path) -> tuple[str, list[str], int, int, bool]:
    """Return delimiter, columns, lines read, lines to skip, and whether these are all lines."""
    with path.open("rb") as file:
        start = file.read(_MAX_HEADER).decode("utf-8-sig", "replace")
    lines = start.lstrip("\r\n").splitlines()
    if not lines:
        raise UserError(f"cannot read the table {path}: it is empty.")
    if "\0" in lines[0]:
        raise UserError(f"cannot read the table {path}: it is not UTF-8 text. Save it as UTF-8.")
    delimiter, header = split_header(lines[0])
    skipped = start[: start.index(lines[0])].count("\n") + 1
    return delimiter, header, len(lines), skipped, len(start) < _MAX_HEADER


def split_header(line: str) -> tuple[str, list[str]]:
    """Return the delimiter of a CSV file (spreadsheets also use ; and tabs), and its columns."""
    headers = {
        delimiter: next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
        for delimiter in ",;\t|"
    }
    return max(headers.items(), key=lambda item: len(item[1]))


def _read_parquet(path: Path, select: _Select, others: bool) -> pa.Table:
    return _to_text(*_load_parquet(path, select, others), others)


def _load_parquet(path: Path, select: _Select, others: bool) -> tuple[pa.Table, list[str]]:
    """Return the selected columns of a file, and their names in use."""
    file = parquet.ParquetFile(path)
    schema = file.schema_arrow
    # Columns of bytes have the images; columns of lists have the labels of one image.
    readable = ["" if others and _is_binary(field.type) else field.name for field in schema]
    selected = select(readable)
    names = [schema.names[i] for i in selected]
    metadata = file.metadata
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    if size > available_memory():
        # Other columns may have the images. Only then: on damaged metadata, column() ends Python.
        chunks = [group.column(i) for group in groups for i in range(group.num_columns)]
        size = sum(
            chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema in set(names)
        )
    _check_memory(path, metadata.num_rows, size)
    # As dictionaries: a small file may repeat one long text millions of times.
    text = [name for name in names if pa.types.is_string(schema.field(name).type)]
    table = parquet.read_table(path, columns=names, read_dictionary=text)
    size = sum(
        pc.sum(pc.binary_length(chunk.dictionary).take(chunk.indices)).as_py() or 0
        for name in text
        for chunk in table[name].chunks
    )
    _check_memory(path, metadata.num_rows, size)
    return table.select(names), list(selected.values())


def _to_text(table: pa.Table, names: list[str], others: bool) -> pa.Table:
    """Return columns as text: labels and groups may be numbers."""
    columns = zip(names, table.columns, strict=True)
    as_text = pa.table({name: _as_text(column, others) for name, column in columns})
    as_text.validate(full=True)
    return as_text


_READERS: dict[str, Callable[[Path, _Select, bool], pa.Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def is_table(path: Path) -> bool:
    """Whether a path is a file with the extension of a table."""
    return path.is_file() and path.suffix.lower() in _READERS


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_struct(kind))


def _as_text(column: pa.ChunkedArray, lists: bool) -> pa.ChunkedArray:
    if lists and pa.types.is_list(column.type):
        return pc.binary_join(column.cast(pa.list_(pa.string())), ";")
    return column.cast(pa.string())


def _check_memory(path: Path, rows: int, size: int) -> None:
    needed, free = rows * _BYTES_PER_ROW + size, available_memory()
    if needed > free:
        raise UserError(
            f"{path} has {rows:,} rows, which need about {needed / 2**30:,.1f} GiB of memory; "
            f"{free / 2**30:,.1f} GiB are free. Divide it into several tables."
        )


def encode(column: Any) -> tuple[NDArray[np.int32], tuple[str, ...]]:
    """Return the index of each value, int32 (n,), and the sorted normalized values."""
    encoded = column.combine_chunks().dictionary_encode()
    names = [normalize_name(_unquote(value)) for value in encoded.dictionary.to_pylist()]
    unique = sorted(set(names))
    numbers = {name: i for i, name in enumerate(unique)}
    codes = np.array([numbers[name] for name in names], np.int32)
    return codes[encoded.indices.to_numpy()], tuple(unique)


def _unquote(value: str) -> str:
    """Return a value without the quotes that a space before them made part of it."""
    stripped = value.strip()
    is_quoted = len(stripped) > 1 and stripped[0] == stripped[-1] == '"'
    return stripped[1:-1] if is_quoted else stripped


def normalize_keys(path: Path, keys: Any) -> Any:
    """Return paths with ``/``, relative to the table where they are below it, without ``./``."""
    if (row := pc.index(pc.match_substring(keys, "\0"), True).as_py()) >= 0:
        raise UserError(f"{path}, row {row + 1}: the path has a NUL character.")
    if (row := pc.index(pc.match_substring_regex(keys, r"^[A-Za-z]:[\\/]"), True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: {keys[row].as_py()!r} is a path of Windows. Expected a path "
            "relative to the table's folder."
        )
    for pattern, replacement in ((r'^\s*"(.*)"\s*$', r"\1"), (r"^\s+|\s+$", ""), (r"\\", "/")):
        changed = pc.index(pc.match_substring_regex(keys, pattern), True).as_py()
        # Names of files may have spaces and backslashes, too: the first one decides.
        if changed >= 0 and not os.path.lexists(path.parent / keys[changed].as_py()):
            keys = pc.replace_substring_regex(keys, pattern, replacement)
    keys = pc.replace_substring_regex(keys, "/{2,}", "/")
    keys = pc.replace_substring_regex(keys, r"(^|/)(\./)+", r"\1")
    for root in {os.path.abspath(path.parent), os.path.realpath(path.parent)}:
        below = pc.starts_with(keys, f"{root}/")
        keys = pc.if_else(below, pc.utf8_slice_codeunits(keys, len(root) + 1), keys)
    outside = pc.match_substring_regex(keys, r"(^|/)\.\.(/|$)")
    if (row := pc.index(outside, True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: the path {keys[row].as_py()!r} is outside the table's folder."
        )
    return keys


def _find_unique(path: Path, keys: Any, columns: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Return the indices of the first row of each path, int64 (images,).

    Raises:
        UserError: two rows of one path differ.
    """
    codes = keys.dictionary_encode().indices.to_numpy()
    _, first = np.unique(codes, return_index=True)
    for name, values in columns.items():
        differs = values != values[first][codes]
        if differs.any():
            row = int(np.flatnonzero(differs)[0])
            raise UserError(
                f"{path}, rows {first[codes[row]] + 1} and {row + 1}: the path "
                f"{keys[row].as_py()!r} has two different {name}. Remove one of the rows."
            )
    return first.astype(np.int64)


def _splits(path: Path, table: pa.Table) -> NDArray[np.int8]:
    if "split" not in table.column_names:
        return np.full(table.num_rows, UNASSIGNED, np.int8)
    return read_splits(path, table["split"])


def read_text_batches(path: Path, names: Collection[str]) -> Iterator[pa.Table]:
    """Yield some columns of a table as text, by their names in the header, some rows at a time.

    Raises:
        UserError: the table cannot be read, has no rows, or two columns of one name.
    """

    def select(header: list[str]) -> dict[int, str]:
        columns = _select_columns(path, (), True, header)
        header = [name.strip() for name in header]
        return {i: header[i] for i in columns if header[i] in names}

    if path.suffix.lower() == ".parquet":
        batches = _read_parquet_batches(path, select)
    else:
        batches = _read_csv_batches(path, select)
    rows = 0
    with _naming(path):
        for batch in batches:
            rows += batch.num_rows
            yield batch
    if not rows:
        raise _no_rows(path)


def _read_csv_batches(path: Path, select: _Select) -> Iterator[pa.Table]:
    found = _read_csv(path, select, True, arrow_csv.open_csv, _BATCH_SIZE)
    for batch in [] if isinstance(found, pa.Table) else found:
        yield pa.Table.from_batches([batch])


def _read_parquet_batches(path: Path, select: _Select) -> Iterator[pa.Table]:
    table, names = _load_parquet(path, select, others=True)
    for start in range(0, table.num_rows, _BATCH_ROWS):
        yield _to_text(table.slice(start, _BATCH_ROWS), names, others=True)


def read_header(path: Path) -> list[str]:
    """Return the names of the columns of a table.

    Raises:
        UserError: it cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            return [name.strip() for name in parquet.read_schema(path).names]
        return [name.strip() for name in _read_header(path)[1]]
    except (pa.ArrowException, OSError, csv.Error) as error:
        raise UserError(f"cannot read the table {path}: {first_line(error)}.") from None
