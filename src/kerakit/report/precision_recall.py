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
    with styled():
        figure = new_figure(_SIDE, _SIDE, layout="constrained")
        axes = figure.add_subplot()
        named = len(curves) <= _MAX_NAMED
        for i, (name, precision) in enumerate(curves.items()):
            recall = np.linspace(0, 1, len(precision))
            style: dict[str, Any] = (
                {"color": _NAMED[i], "label": f"{clean_text(name)} {_format_mean(precision)}"}
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
        axes.legend(loc="lower left", title="AP at IoU 0.5")
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


def _format_mean(precision: NDArray[np.float64]) -> str:
    return f"{precision.mean():.3f}"
