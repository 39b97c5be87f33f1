"""Tables of keypoints: a row per image, with columns of x, y and visibility per point."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.cells import to_numbers
from kerakit.data.decode import read_upright_sizes
from kerakit.data.index import ImageIndex
from kerakit.errors import UserError, list_names

_LAST = re.compile(r"(?i)(?P<name>.+?)[\s_.-]+(?P<axis>x|y|v|vis|visible|visibility)")
_FIRST = re.compile(r"(?i)(?P<axis>x|y|v)(?:[\s_.-]+|(?=\d+$))(?P<name>.+)")
"""Names such as nose_x, and x_nose or x1."""

VISIBLE = 2.0
"""Visibility of points without a column of it."""


def find_points(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the columns x, y and optionally v of each point, by its name.

    >>> find_points(["x1", "y1", "v1"])
    {'point 1': {'x': 'x1', 'y': 'y1', 'v': 'v1'}}
    >>> find_points(["nose_x", "nose_y", "source_x"])
    {'nose': {'x': 'nose_x', 'y': 'nose_y'}}
    """
    return {name: axes for name, axes in _axes(names).items() if {"x", "y"} <= set(axes)}


def find_lone_columns(names: Sequence[str]) -> list[str]:
    """Return the columns of x without one of y, and the reverse.

    >>> find_lone_columns(["nose_x", "nose_y", "ear_x", "Ear_y"])
    ['ear_x', 'Ear_y']
    """
    every = (set(axes) & {"x", "y"} for axes in _axes(names).values())
    found = zip(every, _axes(names).values(), strict=True)
    return [axes[one.pop()] for one, axes in found if len(one) == 1]


def is_point_table(names: Sequence[str]) -> bool:
    """Whether most label columns of a table are those of points.

    >>> is_point_table(["nose_x", "nose_y", "photographer"]), is_point_table(["x_ray", "label"])
    (True, False)
    """
    used = sum(map(len, find_points(names).values()))
    return 2 * used > len(names)


def _axes(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the column of each axis by the name of the point."""
    points: dict[str, dict[str, str]] = {}
    for column in names:
        match = _LAST.fullmatch(column) or _FIRST.fullmatch(column)
        if match is not None:
            name = f"point {match['name']}" if match["name"].isdigit() else match["name"]
            points.setdefault(name, {}).setdefault(match["axis"][0].lower(), column)
    return points


def read_points(
    path: Path, index: ImageIndex, cells: Mapping[str, pa.Array]
) -> tuple[tuple[str, ...], NDArray[np.float32], list[str]]:
    """Return the names of the points, float32 (n, points, 3), and warnings.

    x and y are fractions of the upright image; in the table they are in pixels, or fractions if
    most are at most 1. Empty cells are absent points.

    Args:
        path: the table.
        index: its images.
        cells: its columns as text, by their names.

    Raises:
        UserError: no columns of points, or text where a number is expected.
    """
    points = find_points(list(cells))
    if not points:
        raise UserError(
            f"{path} has no keypoints: its columns are {', '.join(['path', *cells])}. Expected two "
            "or three columns per point: nose_x, nose_y and optionally nose_v, or x1, y1, v1."
        )
    values = np.full((len(index.keys), len(points), 3), VISIBLE)
    for i, axes in enumerate(points.values()):
        for name, column in axes.items():
            values[:, i, "xyv".index(name)] = _read_cells(path, column, cells[column])
    places = values[..., :2]
    # Absent points are often at 0, 0.
    present = np.isfinite(values).all(axis=-1) & (values[..., 2] > 0)
    if present.any() and np.median(places[present]) > 1:
        values[..., :2] = places / _read_sizes(index)[:, None]
    used = {column for axes in points.values() for column in axes.values()}
    unused = [name for name in cells if name not in used]
    warnings = [f"columns that are not used: {len(unused)} ({list_names(unused)})."]
    return tuple(points), values.astype(np.float32), warnings if unused else []


def _read_cells(path: Path, name: str, cells: pa.Array) -> NDArray[np.float64]:
    column = pa.chunked_array([cells])
    numbers = to_numbers(column)
    text = pc.utf8_lower(pc.utf8_trim_whitespace(pc.fill_null(cells, "")))
    is_blank = pc.is_in(text, pa.array(["", "nan"])).to_numpy(zero_copy_only=False)
    if (invalid := np.isnan(numbers) & ~is_blank).any():
        row = int(np.flatnonzero(invalid)[0])
        raise UserError(
            f"{path}, row {row + 1}: the column {name!r} has the value {cells[row].as_py()!r}. "
            "Expected a number, or an empty cell for a point that is absent."
        )
    return numbers


def _read_sizes(index: ImageIndex) -> NDArray[np.float64]:
    """Return width and height of each image, (n, 2); NaN where it cannot be read."""
    if index.shards is not None:
        return np.asarray(index.shards.original_sizes(), np.float64)
    paths = [os.path.join(index.root, os.fsdecode(key)) for key in index.keys.to_pylist()]
    sizes = read_upright_sizes(paths).astype(np.float64)
    sizes[sizes <= 0] = np.nan
    return sizes
