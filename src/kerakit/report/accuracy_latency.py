"""The chart of accuracy and latency of exported files, with labels beside their dots."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kerakit.report.charts import COLORS, format_log_axis, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
    format_log_axis(axes)
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
