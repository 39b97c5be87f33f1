"""What the answers of a classifier say, in figures and on a page: which classes it confuses, how sure a share is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.report.charts import CHARACTER, svg
from kerakit.report.page import Html, join, note, side_by_side, table, tag

MOST_WITH_NUMBERS = 30
"""Classes up to which a confusion matrix has its numbers."""
MOST_DRAWN = 100
"""Classes up to which it is drawn at all."""
BESIDE = 16
"""Classes up to which two pictures have room beside each other."""
PAIRS_LISTED = 8

_LONGEST_NAME = 22
_Z = 1.96
"""Of the normal distribution, for 95 %."""


def confusion(targets: NDArray[Any], answers: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Return the confusion matrix, (classes, classes): a row for each right class, a column for each answer."""
    matrix = np.zeros((classes, classes), np.int64)
    np.add.at(matrix, (targets, answers), 1)
    return matrix


def most_confused(matrix: NDArray[np.int64], most: int) -> list[tuple[int, int, int]]:
    """Return up to ``most`` cells beside the diagonal as (right class, answer, images), the largest first."""
    wrong = matrix - np.diag(np.diag(matrix))
    places = np.argsort(-wrong, axis=None, kind="stable")[:most]
    rows, columns = np.unravel_index(places, wrong.shape)
    return [
        (int(r), int(c), int(wrong[r, c]))
        for r, c in zip(rows, columns, strict=True)
        if wrong[r, c]
    ]


def interval(share: float, count: int) -> tuple[float, float]:
    """Return where the true share lies with 95 % certainty, given that of ``count`` images drawn at random (Wilson 1927)."""
    middle = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = (
        _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    )
    return max(0.0, middle - half), min(1.0, middle + half)


def coarseness(share: float, count: int) -> str:
    """Say how much a share of ``count`` images means."""
    low, high = interval(share, count)
    return (
        f"One of {count:,} images is {100 / count:.3g}%. For other images of the same kind the share lies between "
        f"{low:.1%} and {high:.1%} with 95% certainty."
    )


def drawn(*matrices: tuple[str, NDArray[np.int64], bool], names: Sequence[str]) -> Html:
    """Return confusion matrices as pictures; of more than MOST_DRAWN classes a word instead.

    Args:
        matrices: of each its title; int64 (classes, classes), rows the right class; whether its numbers are shares of the row.
        names: of the classes.
    """
    if len(names) > MOST_DRAWN:
        return note(f"{len(names):,} classes are too many for a picture of the confusion matrix.")
    parts = [(title, _drawn(matrix, names, shares)) for title, matrix, shares in matrices]
    pictures = side_by_side(*parts) if len(names) <= BESIDE else join(*map(side_by_side, parts))
    return join(
        pictures,
        note("Rows: what it is; columns: what was answered. The colour is the share of the row."),
    )


def _drawn(matrix: NDArray[np.int64], names: Sequence[str], shares: bool) -> Html:
    count, numbered = len(names), len(names) <= MOST_WITH_NUMBERS
    cell = (44 if count <= 12 else 34) if numbered else 11
    brief = [
        name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in names
    ]
    margin = (
        max(60.0, CHARACTER * max(map(len, brief)) + 14)
        if numbered
        else CHARACTER * max(map(len, brief)) * 0.75 + 14
    )
    parts = [tag("rect", x=margin, y=0, width=count * cell, height=count * cell, class_="ground")]
    of_row = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    for row, column in np.argwhere(matrix):
        share, kind = of_row[row, column], "right" if row == column else "wrong"
        x, y = margin + column * cell, row * cell
        # The least is seen, too; the colour's strength is otherwise the share of the row.
        strength = f"{0.2 + 0.8 * share:.2f}"
        parts.append(
            tag(
                "rect",
                x=x,
                y=y,
                width=cell - 1,
                height=cell - 1,
                class_=kind,
                fill_opacity=strength,
            )
        )
        if numbered:
            text = f"{share:.0%}" if shares else str(matrix[row, column])
            strong = " strong" if share > 0.55 else ""
            parts.append(
                tag("text", text, x=x + cell / 2, y=y + cell / 2 + 4, class_=f"middle{strong}")
            )
    for i, name in enumerate(brief):
        middle = (i + 0.5) * cell + 4
        parts.append(tag("text", name, x=margin - 8, y=middle, class_="end"))
        turn = f"translate({margin + middle:.0f} {count * cell + 8}) rotate(-90)"
        parts.append(tag("text", name, transform=turn, class_="end"))
    size = margin + count * cell
    drawing = tag("g", *parts, class_=None if numbered else "tiny")
    return svg(
        size, size, "confusion matrix: rows are the right classes, columns the answers", drawing
    )


def pairs(matrix: NDArray[np.int64], names: Sequence[str]) -> Html:
    """Return the classes that are confused most as a table."""
    found = most_confused(matrix, PAIRS_LISTED)
    if not found:
        return note("No image was given a wrong class.")
    rows = [
        [names[is_], names[said], f"{n:,}", f"{n / matrix[is_].sum():.1%}"]
        for is_, said, n in found
    ]
    return table(["is", "answered", "images", "of the class"], rows, ("images", "of the class"))
