"""Report sections about confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from kerakit import metrics
from kerakit.report.charts import plot_confusion_matrix
from kerakit.report.formatting import format_percent
from kerakit.report.page import (
    Block,
    Chart,
    Note,
    Paragraph,
    Section,
    SideBySide,
    Table,
)

MAX_PAIRS = 8
"""Number of most confused pairs that are listed."""
MAX_IN_ROW = 16
"""Number of classes up to which two charts fit side by side."""

_ALT = "confusion matrix: rows are true labels, columns predictions"

Matrices = Mapping[str, NDArray[np.int64]]
"""Confusion matrices of the same images by the name of their model, each (classes, classes)."""


def confusion_sections(matrices: Matrices, names: Sequence[str]) -> list[Section]:
    """Return sections with confusion matrices, most confused pairs and metrics per class.

    Args:
        matrices: by model name; a single one is also shown normalized.
        names: class names.
    """
    charts = [
        (title, Chart(plot_confusion_matrix(matrix, names), _ALT))
        for title, matrix in matrices.items()
    ]
    if len(matrices) == 1:
        (matrix,) = matrices.values()
        normalized = Chart(plot_confusion_matrix(matrix, names, normalize=True), _ALT)
        charts = [("counts", charts[0][1]), ("normalized by true label", normalized)]
    has_room = len(names) <= MAX_IN_ROW
    blocks: list[Block] = [
        *(
            Paragraph(_describe_accuracy(matrix), f"{title}:" if len(matrices) > 1 else "")
            for title, matrix in matrices.items()
        ),
        *([SideBySide(charts)] if has_room else [SideBySide([chart]) for chart in charts]),
        Note("Rows: true labels; columns: predictions. Color: fraction of the row."),
    ]
    pairs = [
        (title if len(matrices) > 1 else "", _list_confused_pairs(matrix, names))
        for title, matrix in matrices.items()
    ]
    return [
        Section("Confusion matrix", blocks),
        Section("Most confused pairs", [SideBySide(pairs)]),
        Section("Metrics per class", [_tabulate_classes(matrices, names)]),
    ]


def _describe_accuracy(matrix: NDArray[np.int64]) -> str:
    count, correct = int(matrix.sum()), int(np.trace(matrix))
    low, high = metrics.wilson_interval(correct / count, count)
    return (
        f"Accuracy {format_percent(correct / count)} on {count:,} images "
        f"(95 % CI {100 * low:.1f} to {100 * high:.1f} %; one image is {100 / count:.3g} pp)."
    )


def _list_confused_pairs(matrix: NDArray[np.int64], names: Sequence[str]) -> Block:
    """Return a table of the most confused pairs of classes."""
    pairs = metrics.most_confused(matrix, MAX_PAIRS)
    if not pairs:
        return Note("All predictions are correct.")
    rows = [
        [names[label], names[predicted], f"{n:,}", format_percent(n / matrix[label].sum(), 1)]
        for label, predicted, n in pairs
    ]
    headings = ["true label", "prediction", "images", "fraction of class"]
    return Table(headings, rows, headings[2:])


def _tabulate_classes(matrices: Matrices, names: Sequence[str]) -> Table:
    """Return precision, recall and F1 of one model, or the recall of several."""
    per_class = {title: metrics.per_class(matrix) for title, matrix in matrices.items()}
    first = next(iter(per_class.values()))
    if len(per_class) == 1:
        columns = {
            name.replace("f1", "F1"): [_percent(row, name) for row in first]
            for name in ("precision", "recall", "f1")
        }
    else:
        columns = {
            f"recall, {title}": [_percent(row, "recall") for row in rows]
            for title, rows in per_class.items()
        }
    columns = {"images": [f"{row.images:,}" for row in first], **columns}
    return Table(
        ["class", *columns],
        [list(row) for row in zip(names, *columns.values(), strict=True)],
        list(columns),
    )


def _percent(row: metrics.ClassMetrics, name: str) -> str:
    """Return a metric of a class in percent; empty for a class without images."""
    return format_percent(getattr(row, name), 1) if row.images else ""
