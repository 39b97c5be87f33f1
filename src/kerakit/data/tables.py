"""Datasets in tables: CSV, TSV or Parquet with path, labels, and optionally split and group."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.cells import check_cells, read_splits, read_weights
from kerakit.data.folders import check_printable, normalize_name, warn_of_case_variants
from kerakit.data.index import UNASSIGNED, ImageIndex
from kerakit.data.shards.index import Shards, open_shards
from kerakit.data.shards.splits import split_indices
from kerakit.data.table_files import OPTIONAL, REQUIRED, read_table
from kerakit.errors import UserError


def index_table(path: Path) -> ImageIndex:
    """Return the index of a table. Paths are relative to the table's folder.

    Raises:
        UserError: no table, a missing column, an empty cell, an unknown split, fewer than two
            classes, a path with two labels or splits, a path outside the folder, more rows than
            the memory can hold.
    """
    if (shards := open_shards(path)) is not None:
        return _index_classes(shards)
    table = read_table(path, REQUIRED)
    for name in REQUIRED:
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
    if (shards := open_shards(path)) is not None:
        columns = {name: shards.labels(name) for name in shards.label_names}
        return _index_shards(shards), columns
    table = read_table(path, ("path",), others=True)
    names = [name for name in table.column_names if name not in ("path", *OPTIONAL)]
    columns = {name: table[name].combine_chunks() for name in names}
    codes = {name: _code(column) for name, column in columns.items()}
    index, once = _index(path, table, {f"values in {name!r}": code for name, code in codes.items()})
    rows = pa.array(once)
    return index, {name: column.take(rows) for name, column in columns.items()}


def _index_shards(shards: Shards) -> ImageIndex:
    """Return the index of shards without targets."""
    table, n = shards.table, len(shards)
    groups = table["group"].combine_chunks()
    weights = table["sample_weight"].combine_chunks()
    return ImageIndex(
        shards.storage.root,
        shards.keys,
        np.zeros(n, np.int32),
        (),
        split_indices(table["split"]),
        None if groups.null_count else groups.cast(pa.binary()),
        sample_weights=None if weights.null_count else weights.to_numpy(),
        shards=shards,
    )


def _index_classes(shards: Shards) -> ImageIndex:
    """Return the index of shards with the column label."""
    if "label" not in shards.label_names:
        raise UserError(
            f"{shards.name} has no column 'label'; its columns of labels are "
            f"{', '.join(shards.label_names) or 'none'}."
        )
    labels = shards.labels("label")
    check_cells(shards.storage.root, "label", labels)
    names = shards.metadata.get("class_names")
    if names is None:
        targets, names = encode(pa.chunked_array([labels]))
    else:
        found = pc.index_in(labels, value_set=pa.array(names, pa.string()))
        if found.null_count:
            raise UserError(f"the index of {shards.name} is damaged: a label is not a class.")
        targets = found.to_numpy().astype(np.int32)
    check_printable(tuple(names), shards.storage.root)
    return replace(
        _index_shards(shards),
        targets=targets,
        class_names=tuple(names),
        warnings=tuple(warn_of_case_variants(tuple(names))),
    )


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
