"""The list of ``kerakit check``: findings, and which images readers omit. Users edit it."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from kerakit.data.table_files import split_header
from kerakit.errors import UserError, first_line
from kerakit.files import atomic_write

COLUMNS = ("path", "finding", "detail", "exclude")

_MAX_HEADER = 2**16

Row = dict[str, str]
"""A row of the list: its values by column; users may have added columns."""


def read_exclusions(path: Path) -> pa.Array:
    """Return the keys of the images that a list excludes, binary (n,).

    Raises:
        UserError: the file cannot be read, has no column path or exclude, or a value of exclude is
            neither yes nor no.
    """
    rows = _read_rows(path)
    keys = [os.fsencode(row["path"]) for row in rows if _is_excluded(path, row)]
    return pa.array(keys, pa.binary())


def check_list(path: Path) -> None:
    """Raise UserError if ``path`` cannot be written, or is a file other than such a list."""
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(
            f"cannot write {path}: expected a file name in an existing folder, such as check.csv."
        )
    if not path.exists():
        return
    try:
        is_list = path.is_file() and _read_header(path)[1][:2] == ["path", "finding"]
    except UserError:
        is_list = False
    if not is_list:
        raise UserError(
            f"{path} was not written by kerakit check and is kept. Choose another --save_to."
        )


def write_list(
    path: Path,
    rows: Iterable[Sequence[str]],
    kinds: Collection[str],
    is_checked: Callable[[Row], bool] = lambda _: True,
) -> int:
    """Write rows of ``COLUMNS``; of an existing list, keep what its user has edited.

    Edits: the column exclude of a finding that is still there, further columns, and rows with
    findings of the user's own. Rows that were not checked again remain, too.

    Args:
        path: CSV file, new or an existing list.
        rows: values of ``COLUMNS`` per finding.
        kinds: all values of the column finding that Kerakit writes.
        is_checked: whether ``rows`` would have this row of the existing list, if it still applied.

    Returns:
        Number of edits of the existing list that are kept.
    """
    previous = _read_rows(path) if path.exists() else []
    edited = {(row["path"], row.get("finding", "")): row for row in previous}
    extra = [name for name in (previous[0] if previous else ()) if name not in COLUMNS]
    written: list[Row] = []
    kept = 0
    for values in rows:
        row = dict(zip(COLUMNS, values, strict=True))
        if (old := edited.pop((row["path"], row["finding"]), None)) is not None:
            is_excluded = "yes" if _is_excluded(path, old) else "no"
            kept += is_excluded != row["exclude"]
            row = {**old, **row, "exclude": is_excluded}
        written.append(row)
    others: list[Row] = []
    own: list[Row] = []
    for row in edited.values():
        if row.get("finding") not in kinds:
            own.append(row)
        elif not is_checked(row):
            others.append(row)
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        writer = csv.DictWriter(file, [*COLUMNS, *extra], restval="")
        writer.writeheader()
        writer.writerows([*written, *others, *own])
    return kept + len(own)


def _is_excluded(path: Path, row: Row) -> bool:
    value = row["exclude"].strip().lower()
    if value not in ("yes", "no"):
        raise UserError(
            f"{path}: the column exclude has the value {row['exclude']!r}; expected yes or no."
        )
    return value == "yes"


def _read_rows(path: Path) -> list[Row]:
    delimiter, columns = _read_header(path)
    if missing := [name for name in ("path", "exclude") if name not in columns]:
        raise _unreadable(path, f"it has no column {missing[0]}")
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            file.readline()
            reader = csv.DictReader(file, columns, delimiter=delimiter)
            # A short row has None, a long one a value without a column.
            rows = [{name: row.get(name) or "" for name in columns} for row in reader]
    except (OSError, csv.Error) as error:
        raise _unreadable(path, first_line(error)) from None
    return [row for row in rows if any(row.values())]


def _read_header(path: Path) -> tuple[str, list[str]]:
    """Return the delimiter and the columns of a list, in lower case."""
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            delimiter, columns = split_header(file.readline(_MAX_HEADER).rstrip("\r\n"))
    except (OSError, csv.Error, StopIteration) as error:
        raise _unreadable(path, first_line(error)) from None
    return delimiter, [name.strip().lower() for name in columns]


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(
        f"cannot read the list {path}: {reason}. Remove it, and create it again with kerakit check."
    )
