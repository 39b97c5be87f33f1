"""Predictions over true values, as a chart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.report.charts import COLORS, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SIDE = 300
_MAX_PLOTTED = 9
"""Number of quantities that are plotted."""


def plot_scatter(true: NDArray[Any], predictions: NDArray[Any], names: Sequence[str]) -> Figure:
    """Return a figure with one square plot per quantity: true values across, predictions up.

    Args:
        true: true values, (n, quantities).
        predictions: likewise.
        names: names of the quantities.

    >>> values = np.array([[1.0], [2.0], [3.0]])
    >>> len(plot_scatter(values, values, ["age"]).axes)
    1
    """
    count = min(len(names), _MAX_PLOTTED)
    columns = min(count, 3)
    rows = -(-count // columns)
    with styled():
        figure = new_figure(_SIDE * columns, _SIDE * rows, layout="constrained")
        for i in range(count):
            axes = figure.add_subplot(rows, columns, i + 1)
            both = np.concatenate([true[:, i], predictions[:, i]])
            ends = [float(both.min()), float(both.max())]
            axes.plot(ends, ends, color=COLORS["soft"], linewidth=1)
            axes.plot(
                true[:, i], predictions[:, i], "o", markersize=3, alpha=0.5, color=COLORS["accent"]
            )
            axes.set_title(names[i])
            axes.set_xlabel("true value")
            axes.set_ylabel("prediction")
            axes.grid(visible=True)
    return figure
