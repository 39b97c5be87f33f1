"""Precision-recall curves of detectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.report.charts import COLORS, new_figure, styled
from kerakit.report.formatting import clean_text
from kerakit.report.page import Block, Chart, Note, Section, SideBySide

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_NAMED = 8
"""Number of classes whose curves have names and colors."""

_SIDE = 340
_ROW = 17
"""Height of a row of the legend, in points."""

_SHORT, _LONG = 12, 36
"""Characters of names for two columns of the legend, and for one."""

_NAMED = ("#0b62c4", "#b35900", "#2e7d32", "#8e24aa", "#c62828", "#00838f", "#6d4c41", "#ad1457")

Curves = Mapping[str, NDArray[np.float64]]
"""Precision at evenly spaced recalls from 0 to 1, by the name of the class."""


def plot_precision_recall(curves: Curves) -> Figure:
    """Return a figure with one curve per class, and their mean where there are several.

    Args:
        curves: precision at evenly spaced recalls from 0 to 1, by class name.

    >>> len(plot_precision_recall({"cat": np.linspace(1, 0, 101)}).axes[0].lines)
    1
    """
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    with styled():
        named = len(curves) <= _MAX_NAMED
        columns = 2 if max(map(len, curves), default=0) <= _SHORT else 1
        rows = 2 + -(-(len(curves) + 1 if named else 1) // columns)  # with title and border
        height = _SIDE + _ROW * rows
        layout = ConstrainedLayoutEngine(rect=(0, _ROW * rows / height, 1, _SIDE / height))
        figure = new_figure(_SIDE, height, layout=layout)
        axes = figure.add_subplot()
        for i, (name, precision) in enumerate(curves.items()):
            recall = np.linspace(0, 1, len(precision))
            style: dict[str, Any] = (
                {"color": _NAMED[i], "label": f"{_shorten(name)} {_format_mean(precision)}"}
                if named
                else {"color": COLORS["line"], "linewidth": 1}
            )
            axes.plot(recall, precision, **style)
        if len(curves) > 1:
            mean = np.mean(list(curves.values()), axis=0)
            axes.plot(
                np.linspace(0, 1, len(mean)),
                mean,
                color=COLORS["text"],
                linestyle="--",
                label=f"mean {_format_mean(mean)}",
            )
        axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
        axes.set_xlabel("recall", loc="right")
        axes.set_ylabel("precision")
        axes.grid(visible=True)
        # Of the figure, so that long names do not narrow the plot.
        title = "AP at IoU 0.5"
        figure.legend(loc="lower left", ncols=columns, title=title, alignment="left")
    return figure


def precision_recall_section(curves: Mapping[str, Curves]) -> Section:
    """Return a section with the curves of each model, by its name."""
    alt = "precision over recall, one curve per class"
    charts: list[tuple[str, Block]] = [
        (title if len(curves) > 1 else "", Chart(plot_precision_recall(each), alt))
        for title, each in curves.items()
        if each
    ]
    if not charts:
        return Section("Precision and recall", [Note("There are no true objects.")])
    note = Note(
        "Objects count as found at an IoU of 0.5. The area below a curve is its average precision."
    )
    return Section("Precision and recall", [SideBySide(charts), note])


def _shorten(name: str) -> str:
    name = clean_text(name)
    return name if len(name) <= _LONG else f"{name[: _LONG - 1]}…"


def _format_mean(precision: NDArray[np.float64]) -> str:
    return f"{precision.mean():.3f}"
