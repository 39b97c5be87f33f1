"""Charts as matplotlib figures, saved as PNG in run folders, or as SVG on report pages (svg.py).

Matplotlib is imported on first use: a training has a chart at its end, and starts without it.
Figures have 72 dots per inch, so that a point of a font is a pixel of the page.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
"""Variables of page.css with their values in light mode. SVG refers to the variables."""

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


# --------------------------------------------------------------------------- accuracy and latency


@dataclass(frozen=True)
class FormatPoint:
    """An exported file in ``plot_accuracy_latency``.

    Attributes:
        name: name of the format.
        latency_ms: in milliseconds, above 0.
        score: its main metric, from 0 to 1.
        size_bytes: size of the file; the area of the dot.
        passed: whether it passed the accuracy gate.
    """

    name: str
    latency_ms: float
    score: float
    size_bytes: int
    passed: bool


@styled()
def plot_accuracy_latency(
    points: Sequence[FormatPoint],
    metric: str,
    threshold: tuple[float, str],
    min_span: float,
    in_percent: bool = True,
) -> Figure:
    """Plot the main metric of exported files over their latency.

    Args:
        points: at least one.
        metric: label of the main metric.
        threshold: score and label of the accuracy gate, drawn as a line.
        min_span: smallest span of the vertical axis, so that small differences look small.
        in_percent: whether the metric is a fraction, such as accuracy.
    """
    from matplotlib import ticker

    width, height = 880, 360
    left, right, bottom, top = 60, width - 14, 46, height - 30
    figure = new_figure(width, height)
    axes = figure.add_axes(
        (left / width, bottom / height, (right - left) / width, (top - bottom) / height)
    )
    axes.set_xscale("log")
    axes.set_xlim(min(p.latency_ms for p in points) / 1.8, max(p.latency_ms for p in points) * 1.8)
    axes.set_ylim(*_vertical_limits([p.score for p in points] + [threshold[0]], min_span))
    axes.set_xlabel("latency (ms)", loc="right")
    axes.set_title(metric, color=COLORS["soft"], fontsize=11, fontweight="normal")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    _format_log_axis(axes)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    if in_percent:
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=" %"))
    axes.grid(axis="y")
    axes.axhline(threshold[0], color=COLORS["bad"], linewidth=1, linestyle=(0, (6, 4)))
    axes.annotate(
        threshold[1],
        (1, threshold[0]),
        (0, -4),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right",
        va="top",
        color=COLORS["soft"],
    )
    largest = max(point.size_bytes for point in points) or 1
    line = float(axes.transData.transform((points[0].latency_ms, threshold[0]))[1])
    dots = []
    for point in points:
        x, y = axes.transData.transform((point.latency_ms, point.score))
        dots.append(Dot(float(x), float(y), 5 + 11 * math.sqrt(point.size_bytes / largest)))
    boxes = place_labels(
        [(7.5 * len(point.name), 14.0) for point in points],
        dots,
        (left, bottom, right, top),
        [
            (right - 7 * len(threshold[1]), line - 20, right, line - 2),
            (left, line - 2, right, line + 2),
        ],
    )
    # Small dots above large ones.
    for point, dot, box in sorted(
        zip(points, dots, boxes, strict=True), key=lambda item: -item[1].radius
    ):
        color = COLORS["accent"] if point.passed else COLORS["bad"]
        axes.plot(
            point.latency_ms, point.score, "o", markersize=2 * dot.radius, color=color, alpha=0.6
        )
        offset = (box[0] + box[2]) / 2 - dot.x, (box[1] + box[3]) / 2 - dot.y
        near = min(max(dot.x, box[0]), box[2]), min(max(dot.y, box[1]), box[3])
        is_far = math.dist((dot.x, dot.y), near) > dot.radius + 10
        axes.annotate(
            point.name,
            (point.latency_ms, point.score),
            offset,
            textcoords="offset points",
            ha="center",
            va="center",
            color=COLORS["text"] if point.passed else color,
            arrowprops={"arrowstyle": "-", "color": COLORS["soft"], "linewidth": 0.8}
            if is_far
            else None,
        )
    return figure


def _format_log_axis(axes: Axes) -> None:
    """Label a logarithmic axis with plain numbers: matplotlib's own labels are math text."""
    from matplotlib import ticker

    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())


def _vertical_limits(scores: Sequence[float], min_span: float) -> tuple[float, float]:
    span = max(min_span, 1.24 * (max(scores) - min(scores)))
    # Centered, except that little is above 100 %.
    high = min((max(scores) + min(scores) + span) / 2, 1 + 0.12 * span)
    return high - span, high


Box = tuple[float, float, float, float]
"""Left, bottom, right, top, in pixels."""


@dataclass(frozen=True)
class Dot:
    """A dot in pixels."""

    x: float
    y: float
    radius: float


def place_labels(
    sizes: Sequence[tuple[float, float]], dots: Sequence[Dot], area: Box, obstacles: Sequence[Box]
) -> list[Box]:
    """Return a box per label, close to its dot, that covers no dot, obstacle or other label.

    Args:
        sizes: width and height per label.
        dots: one per label.
        area: that all boxes are in.
        obstacles: to be kept free.
    """
    covered = [
        *obstacles,
        *((d.x - d.radius, d.y - d.radius, d.x + d.radius, d.y + d.radius) for d in dots),
    ]
    boxes = []
    for (width, height), dot in zip(sizes, dots, strict=True):
        candidates = _candidate_boxes(width, height, dot, area)
        box = next((box for box in candidates if not any(_overlap(box, c) for c in covered)), None)
        box = box or next(_candidate_boxes(width, height, dot, area))
        boxes.append(box)
        covered.append(box)
    return boxes


def _candidate_boxes(width: float, height: float, dot: Dot, area: Box) -> Iterator[Box]:
    """Yield the boxes inside ``area`` around a dot, from near to far: right, left, above, below."""
    for gap, side, shift in itertools.product(range(4, 800, 6), range(4), (0, -0.5, 0.5)):
        reach = dot.radius + gap
        x, y = (
            (dot.x + reach + width / 2, dot.y + shift * 2 * reach),
            (dot.x - reach - width / 2, dot.y + shift * 2 * reach),
            (dot.x + shift * (width + reach), dot.y + reach + height / 2),
            (dot.x + shift * (width + reach), dot.y - reach - height / 2),
        )[side]
        box = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        if area[0] <= box[0] and area[1] <= box[1] and box[2] <= area[2] and box[3] <= area[3]:
            yield box


def _overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


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
            _format_log_axis(axes)
        if points:
            axes.plot(*zip(*points, strict=True), "o", markersize=4, color=COLORS["accent"])
        axes.set_xlabel(name)
        axes.tick_params(axis="x", rotation=30)
    for axes in (first, *others):
        axes.grid()
    return figure
