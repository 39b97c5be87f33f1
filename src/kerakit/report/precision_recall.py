"""Precision-recall curves per class, of detectors and of multi-label models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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

RECALLS = np.linspace(0, 1, 101)
"""Recalls at which curves are computed, as in the evaluation of COCO."""


@dataclass(frozen=True)
class Curve:
    """Precision over recall of one class.

    Attributes:
        precision: at evenly spaced recalls from 0 to 1, such as RECALLS.
        average: the average precision; default: the mean of ``precision``.
        threshold: (recall, precision) at the chosen threshold; None: not marked.

    >>> Curve(np.array([1.0, 0.5])).average_precision
    0.75
    """

    precision: NDArray[np.float64]
    average: float | None = None
    threshold: tuple[float, float] | None = None

    @property
    def average_precision(self) -> float:
        """The average precision."""
        return float(self.precision.mean()) if self.average is None else self.average


Curves = Mapping[str, Curve]
"""Curves by the name of the class."""


def plot_precision_recall(curves: Curves, title: str = "AP at IoU 0.5") -> Figure:
    """Return a figure with one curve per class, and their mean where there are several.

    Args:
        curves: by class name.
        title: of the legend.

    >>> len(plot_precision_recall({"cat": Curve(np.linspace(1, 0, 101))}).axes[0].lines)
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
        for i, (name, curve) in enumerate(curves.items()):
            color = _NAMED[i] if named else COLORS["line"]
            style: dict[str, Any] = (
                {"label": f"{_shorten(name)} {curve.average_precision:.3f}"}
                if named
                else {"linewidth": 1}
            )
            recall = np.linspace(0, 1, len(curve.precision))
            axes.plot(recall, curve.precision, color=color, **style)
            if curve.threshold is not None and named:
                axes.plot(*curve.threshold, "o", color=color, markersize=5)
        if len(curves) > 1:
            mean = np.mean([curve.precision for curve in curves.values()], axis=0)
            average = np.mean([curve.average_precision for curve in curves.values()])
            axes.plot(
                np.linspace(0, 1, len(mean)),
                mean,
                color=COLORS["text"],
                linestyle="--",
                label=f"mean {average:.3f}",
            )
        axes.set(xlim=(0, 1.01), ylim=(0, 1.01))
        axes.set_xlabel("recall", loc="right")
        axes.set_ylabel("precision")
        axes.grid(visible=True)
        # Of the figure, so that long names do not narrow the plot.
        figure.legend(loc="lower left", ncols=columns, title=title, alignment="left")
    return figure


def precision_recall_section(
    curves: Mapping[str, Curves], note: str, title: str = "AP at IoU 0.5"
) -> Section:
    """Return a section with the curves of each model, by its name.

    Args:
        curves: by model and class.
        note: text below the charts.
        title: of the legends.
    """
    alt = "precision over recall, one curve per class"
    charts: list[tuple[str, Block]] = [
        (name if len(curves) > 1 else "", Chart(plot_precision_recall(each, title), alt))
        for name, each in curves.items()
        if each
    ]
    if not charts:
        return Section("Precision and recall", [Note("No class has true examples.")])
    return Section("Precision and recall", [SideBySide(charts), Note(note)])


def _shorten(name: str) -> str:
    name = clean_text(name)
    return name if len(name) <= _LONG else f"{name[: _LONG - 1]}…"
