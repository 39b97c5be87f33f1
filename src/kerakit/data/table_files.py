"""Tables as files: columns of CSV, TSV and Parquet as text."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv
from pyarrow import parquet

from kerakit.data.shards.index import INDEX, open_shards
from kerakit.errors import UserError, first_line
from kerakit.machine import available_memory

REQUIRED, OPTIONAL = ("path", "label"), ("split", "group", "sample_weight")
"""Names of the columns of a table of images."""

_MAX_HEADER, _BLOCK_SIZE = 2**20, 2**24
"""Sizes in bytes: of the part of a CSV that has the header; the largest size of a row."""

_BATCH_SIZE, _BATCH_ROWS = 2**22, 2**16
"""Size of a batch, in bytes of a CSV and in rows: a million boxes take memory as numbers alone."""

_BYTES_PER_ROW = 240
"""Peak memory while a table is read; measured with a million rows."""

_Select = Callable[[list[str]], dict[int, str]]
"""Function from the names of all columns to the name by index of those to read."""


def read_table(path: Path, required: tuple[str, ...], others: bool = False) -> pa.Table:
    """Return columns of a table as text: those required and optional, or all (``others``).

    Raises:
        UserError: the table cannot be read, has no rows, or lacks a required column.
    """
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
    known = (*required, *OPTIONAL)
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
    """Whether a path is a file with the extension of a table, or shards with labels in columns."""
    if path.is_file() and path.name != INDEX:
        return path.suffix.lower() in _READERS
    shards = open_shards(path)
    if shards is None:
        return path.is_file()
    return shards.kind != "objects"


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
