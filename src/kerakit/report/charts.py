"""Charts as matplotlib figures, saved as PNG in run folders, or as SVG on report pages (svg.py).

Matplotlib is imported on first use: a training has a chart at its end, and starts without it.
Figures have 72 dots per inch, so that a point of a font is a pixel of the page.
"""

from __future__ import annotations

import contextlib
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.files import atomic_write
from kerakit.report.formatting import clean_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = {
    "text": "#1c2128",
    "soft": "#59636e",
    "line": "#d9dee4",
    "head": "#eff2f5",
    "accent": "#0b62c4",
    "second": "#b35900",
    "bad": "#c62828",
}
"""Variables of palette.css with their values in light mode. SVG refers to the variables."""

CORRECT, WRONG = (31, 111, 214), (217, 72, 15)
"""RGB of the cells of a confusion matrix; their opacity depends on the value."""

MAX_NUMBERS = 30
"""Number of classes up to which a confusion matrix shows its values."""
MAX_NAMES = 100
"""Number of classes up to which a confusion matrix shows their names."""
MAX_MARKERS = 60
"""Number of epochs up to which curves have markers."""

PNG_DPI = 120

_MAX_NAME_LENGTH = 22
_STYLE: Any = {
    "figure.dpi": 72,
    "figure.facecolor": "none",
    "font.size": 11,
    "text.parse_math": False,  # names may contain "$"
    "text.color": COLORS["text"],
    "axes.facecolor": "none",
    "axes.labelcolor": COLORS["soft"],
    "axes.edgecolor": COLORS["soft"],
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.axisbelow": True,
    "xtick.color": COLORS["soft"],
    "ytick.color": COLORS["soft"],
    "xtick.labelcolor": COLORS["text"],
    "ytick.labelcolor": COLORS["text"],
    "ytick.left": False,
    "grid.color": COLORS["line"],
    "legend.frameon": False,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "kerakit",  # equal figures give equal files
}


def new_figure(width: float, height: float, **options: Any) -> Figure:
    """Return an empty figure; width and height in points."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / 72, height / 72), **options)


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Apply the charts' style, without warnings about characters that matplotlib's font lacks."""
    import matplotlib as mpl

    with mpl.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
        yield


def format_log_axis(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers: matplotlib's own labels are math text."""
    from matplotlib import ticker

    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


# ----------------------------------------------------------------------------------------- output


def save_png(figure: Figure, path: Path) -> None:
    """Save a figure as PNG on white, atomically."""
    with styled(), atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=PNG_DPI, facecolor="white", bbox_inches="tight")


# ----------------------------------------------------------------------------------------- curves


@styled()
def plot_curves(
    rows: Sequence[Mapping[str, float]], marks: Sequence[tuple[float, str]] = ()
) -> Figure:
    """Plot each metric over the epochs, training and validation in one chart.

    Args:
        rows: one per epoch, with "epoch", metrics, and metrics with the prefix "val_".
        marks: (epoch, label) of vertical lines, such as the beginnings of phases.
    """
    from matplotlib import ticker

    metrics = list(
        dict.fromkeys(name.removeprefix("val_") for row in rows for name in row if name != "epoch")
    )
    figure = new_figure(440 * len(metrics), 300, layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        for name, label, color in (
            (metric, "training", COLORS["second"]),
            (f"val_{metric}", "validation", COLORS["accent"]),
        ):
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            if points:
                marker = "." if len(points) <= MAX_MARKERS else ""
                axes.plot(*zip(*points, strict=True), label=label, color=color, marker=marker)
        axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes.set_xlabel("epoch", loc="right")
        axes.grid(axis="y")
        axes.legend(loc="upper left", bbox_to_anchor=(-0.02, -0.1), ncols=2)
        axes.set_title(clean_text(metric), pad=6 + 15 * _draw_marks(axes, marks))
    return figure


def _draw_marks(axes: Axes, marks: Sequence[tuple[float, str]]) -> int:
    """Draw vertical lines with labels above the axes; return the number of lines of labels."""
    low, high = axes.get_xlim()
    ends: list[float] = []
    for epoch, label in sorted(marks):
        axes.axvline(epoch, color=COLORS["soft"], linewidth=0.8, linestyle=(0, (2, 3)))
        position = (epoch - low) / (high - low)
        align = "left" if position < 0.2 else "right" if position > 0.8 else "center"
        width = 7 * len(label) / 380
        start = position - {"left": 0.0, "center": width / 2, "right": width}[align]
        line = next((i for i, end in enumerate(ends) if end < start), len(ends))
        ends[line : line + 1] = [start + width]
        axes.annotate(
            clean_text(label),
            (epoch, 1),
            (0, 4 + 14 * line),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            ha=align,
            fontsize=10,
        )
    return len(ends)


# ------------------------------------------------------------------------------- confusion matrix


@styled()
def plot_confusion_matrix(
    matrix: NDArray[np.int64], names: Sequence[str], normalize: bool = False
) -> Figure:
    """Plot a confusion matrix; the color is the fraction of the row.

    Args:
        matrix: (classes, classes), rows true labels, columns predictions.
        names: class names.
        normalize: whether the numbers are fractions of the row instead of counts.
    """
    count, has_numbers, has_names = len(names), len(names) <= MAX_NUMBERS, len(names) <= MAX_NAMES
    cell = (44 if count <= 12 else 34) if has_numbers else max(0.5, min(11, 900 / count))
    font = 11 if has_numbers else 8
    labels = [_shorten(name) for name in names] if has_names else []
    margin = 34 + font * max(map(_measure_ems, labels), default=0)
    # A matrix of few classes is smaller than the title of its axis.
    side = max(count * cell, 80)
    size = margin + side + 8
    figure = new_figure(size, size)
    axes = figure.add_axes((margin / size, margin / size, side / size, side / size))
    fractions = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(_color_cells(matrix, fractions), interpolation="none", aspect="auto")
    axes.set_facecolor(COLORS["head"])
    axes.set_xlabel("prediction")
    axes.set_ylabel("true label")
    axes.spines[:].set_visible(False)
    ticks = range(count) if has_names else ()
    axes.set_xticks(ticks, labels, rotation=90, fontsize=font)
    axes.set_yticks(ticks, labels, fontsize=font)
    axes.tick_params(length=0)
    if has_numbers:
        for row, column in np.argwhere(matrix):
            fraction = fractions[row, column]
            text = f"{fraction:.0%}" if normalize else str(matrix[row, column])
            color = "white" if fraction > 0.55 else COLORS["text"]
            fit = min(11, 1.5 * cell / len(text))
            axes.text(column, row, text, ha="center", va="center", color=color, fontsize=fit)
    return figure


def _color_cells(matrix: NDArray[np.int64], fractions: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return the cells as RGBA; transparent where they are 0."""
    pixels = np.zeros((*matrix.shape, 4), np.uint8)
    pixels[..., :3] = np.where(np.eye(len(matrix), dtype=bool)[..., None], CORRECT, WRONG)
    # A single image out of many is visible too.
    pixels[..., 3] = np.where(matrix > 0, 255 * (0.2 + 0.8 * fractions), 0)
    return pixels


def _measure_ems(text: str) -> float:
    """Return the approximate width of a text in multiples of the font size."""
    return sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.6 for char in text)


def _shorten(name: str) -> str:
    name = clean_text(name)
    return name if len(name) <= _MAX_NAME_LENGTH else f"{name[: _MAX_NAME_LENGTH - 1]}…"


# ----------------------------------------------------------------------------------------- trials


@styled()
def plot_trials(
    trials: Sequence[tuple[int, float, dict[str, Any]]],
    names: Sequence[str],
    score: str,
    higher_is_better: bool,
) -> Figure:
    """Plot the scores of trials over their numbers and over each parameter.

    Args:
        trials: number, score and parameters of each.
        names: parameter names; a trial may lack some.
        score: label of the score.
        higher_is_better: whether the highest score is the best.
    """
    from matplotlib import ticker

    figure = new_figure(230 * (1 + len(names)), 230, layout="constrained")
    first, *others = figure.subplots(1, 1 + len(names), sharey=True, squeeze=False)[0]
    numbers, scores, _ = zip(*trials, strict=True)
    best = (np.maximum if higher_is_better else np.minimum).accumulate(scores)
    first.step(numbers, best, where="post", label="best so far", color=COLORS["second"])
    first.plot(numbers, scores, "o", markersize=4, color=COLORS["accent"])
    first.set_xlabel("trial")
    first.set_ylabel(score)
    first.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    first.legend()
    for axes, name in zip(others, names, strict=True):
        points = [(params[name], value) for _, value, params in trials if name in params]
        values = [value for value, _ in points]
        if any(isinstance(value, bool | str) for value in values):
            points = [(str(value), result) for value, result in points]
        elif values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_xscale("log")
            format_log_axis(axes)
        if points:
            axes.plot(*zip(*points, strict=True), "o", markersize=4, color=COLORS["accent"])
        axes.set_xlabel(name)
        axes.tick_params(axis="x", rotation=30)
    for axes in (first, *others):
        axes.grid()
    return figure
