"""Cells of tables: from text to numbers, splits and weights, with errors that name the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.index import UNASSIGNED
from kerakit.data.split import MODES, parse_split
from kerakit.errors import UserError


def check_cells(path: Path, name: str, column: Any) -> None:
    """Raise UserError if a cell of a column is empty."""
    # pandas writes an empty cell of a column of numbers as NaN.
    blank = pc.is_in(pc.utf8_trim_whitespace(column), value_set=pa.array(["", "nan", "NaN"]))
    empty = pc.or_(pc.is_null(column), blank)
    if (row := pc.index(empty, True).as_py()) >= 0:
        raise UserError(
            f"{path}, row {row + 1}: the column {name!r} is empty. Fill it in, or remove the row."
        )


def read_splits(path: Path, column: pa.ChunkedArray) -> NDArray[np.int8]:
    """Return a column of splits as indices into MODES, UNASSIGNED for empty cells, int8 (n,).

    Raises:
        UserError: a split of another name.
    """
    encoded = column.combine_chunks().dictionary_encode()
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


def read_weights(path: Path, column: Any) -> NDArray[np.float32]:
    """Return the column of sample weights, float32 (n,).

    Raises:
        UserError: a cell without a number of 0 or more.
    """
    name = "sample_weight"
    check_cells(path, name, column)
    weights = parse_numbers(path, name, column.combine_chunks())
    if (row := int((weights < 0).argmax())) or weights[row] < 0:
        raise UserError(
            f"{path}, row {row + 1}: the column {name!r} has the value {weights[row]:g}. Expected "
            "a factor of the loss, 0 or more."
        )
    return weights


def parse_numbers(path: Path, name: str, cells: pa.Array) -> NDArray[np.float32]:
    """Return a column of text as numbers, float32 (n,).

    Raises:
        UserError: a cell that is not a finite number.
    """
    try:
        values: NDArray[np.float64] = pc.cast(cells, pa.float64()).to_numpy()
    except pa.ArrowInvalid:
        values = np.array([_to_number(value) for value in cells.to_pylist()])
    with np.errstate(over="ignore"):
        numbers = values.astype(np.float32)
    invalid = ~np.isfinite(numbers)
    if invalid.any():
        row = int(np.flatnonzero(invalid)[0])
        raise UserError(
            f"{path}, row {row + 1}: the column {name!r} has the value {cells[row].as_py()!r}. "
            "Expected a number such as 1.5."
        )
    return numbers


def to_numbers(column: pa.ChunkedArray) -> NDArray[np.float64]:
    """Return a column of text as numbers, float64 (n,); NaN where a cell has none.

    >>> to_numbers(pa.chunked_array([["1.5", "", "x"]])).tolist()
    [1.5, nan, nan]
    """
    cells = pc.utf8_trim_whitespace(pc.fill_null(column, "")).combine_chunks()
    try:
        numbers: NDArray[np.float64] = pc.cast(
            pc.if_else(pc.equal(cells, ""), "nan", cells), pa.float64()
        ).to_numpy()
    except pa.ArrowInvalid:
        numbers = np.array([_to_number(value) for value in cells.to_pylist()])
    return numbers


def _to_number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
