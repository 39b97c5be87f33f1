"""Charts as SVG inside a page: they take the page's colours, their text stays text, and they need no script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from kerakit.report.page import Html, join, tag

LINE, CHARACTER = 16, 7.4
"""Height of a line of text and width of a character, about, in the charts' units."""

DOTTED = 60
"""Up to so many points of a curve have dots."""

BEST = "best"
"""The word of a mark of ``curves`` that stands in a line of its own."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


class Frame:
    """The axes of a chart.

    Args:
        x: smallest and largest value.
        y: smallest and largest value.
        size: width and height of the whole.
        log: whether x is drawn by its logarithm.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        size: tuple[int, int],
        log: bool = False,
    ) -> None:
        self.width, self.height = size
        self.area: Box = (56, 32, self.width - 14, self.height - 44)
        self._x, self._y, self._log = x, y, log

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Return where a value lies, in the chart's units."""
        left, top, right, bottom = self.area
        scale = math.log if self._log else float
        low, high = map(scale, self._x)
        return (
            left + (scale(x) - low) / (high - low) * (right - left),
            bottom - (y - self._y[0]) / (self._y[1] - self._y[0]) * (bottom - top),
        )

    def axes(self, x_label: str, y_label: str, percent: bool = False, whole: bool = False) -> Html:
        """Return lines and figures of both axes; in percent on y, or with whole numbers alone on x, if asked for."""
        left, top, right, bottom = self.area
        parts = [
            tag("text", y_label, x=left, y=top - 18, class_="name"),
            tag("text", x_label, x=right, y=bottom + 36, class_="name end"),
        ]
        shares = [value for value in _ticks(*self._y) if not percent or 0 <= value <= 1]
        for value, text in _labelled(shares, percent):
            _, y = self.at(self._x[0], value)
            parts.append(tag("line", x1=left, x2=right, y1=y, y2=y, class_="grid"))
            parts.append(tag("text", text, x=left - 8, y=y + 4, class_="end"))
        for value, text in _labelled(
            _log_ticks(*self._x) if self._log else _ticks(*self._x, whole=whole)
        ):
            x, _ = self.at(value, self._y[0])
            parts.append(tag("line", x1=x, x2=x, y1=bottom, y2=bottom + 5, class_="axis"))
            parts.append(tag("text", text, x=x, y=bottom + 19, class_="middle"))
        return join(*parts, tag("line", x1=left, x2=right, y1=bottom, y2=bottom, class_="axis"))

    def drawn(self, alt: str, *parts: object) -> Html:
        """Return the chart."""
        return svg(self.width, self.height, alt, *parts)


def svg(width: float, height: float, alt: str, *parts: object) -> Html:
    """Return a drawing of this size in its own units; it shrinks with the page, though not until it cannot be read."""
    style = f"max-width:{width:.0f}px;min-width:{width * 0.62:.0f}px"
    return tag(
        "svg",
        *parts,
        viewBox=f"0 0 {width:.0f} {height:.0f}",
        role="img",
        aria_label=alt,
        style=style,
    )


def _ticks(low: float, high: float, whole: bool = False) -> list[float]:
    values = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=whole).tick_values(low, high)
    return [float(value) for value in values if low <= value <= high]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 1000 else (1,)
    return [
        value for power in powers for step in steps if low <= (value := step * 10.0**power) <= high
    ]


def _labelled(values: Sequence[float], percent: bool = False) -> list[tuple[float, str]]:
    if not percent:
        return [(value, f"{value:g}") for value in values]
    decimals = 0 if all(abs(value * 100 - round(value * 100)) < 1e-6 for value in values) else 1
    return [(value, f"{value:.{decimals}%}") for value in values]


# --------------------------------------------------------------------------------------------------------------------- scatter


@dataclass(frozen=True)
class Dot:
    """A point of ``scatter``.

    Attributes:
        name: is written beside it.
        x: above 0.
        y: its share, 0 to 1.
        size: what its area stands for.
        good: its colour.
        said: what is shown of it under the mouse.
    """

    name: str
    x: float
    y: float
    size: float
    good: bool
    said: str


def scatter(
    dots: Sequence[Dot], x_label: str, y_label: str, floor: tuple[float, str], least: float
) -> Html:
    """Draw dots over a logarithmic x, each with its name, none of which covers another.

    Args:
        dots: at least one.
        x_label: of the axis.
        y_label: of the axis.
        floor: a value of y that is drawn as a line, and its name.
        least: what y spans at least, so that small differences don't look large.
    """
    values = [dot.y for dot in dots] + [floor[0]]
    span = max(least, 1.24 * (max(values) - min(values)))
    # In the middle, but for what would lie above 100%.
    high = min((max(values) + min(values) + span) / 2, 1 + 0.12 * span)
    xs = [dot.x for dot in dots]
    frame = Frame((min(xs) / 1.8, max(xs) * 1.8), (high - span, high), (900, 360), log=True)
    largest = max(dot.size for dot in dots) or 1
    places = [(*frame.at(dot.x, dot.y), 5 + 11 * math.sqrt(dot.size / largest)) for dot in dots]
    left, _, right, _ = frame.area
    _, floor_y = frame.at(xs[0], floor[0])
    floor_box = (right - CHARACTER * len(floor[1]), floor_y + 3, right, floor_y + 3 + LINE)
    boxes = place_names(
        [dot.name for dot in dots],
        places,
        frame.area,
        [floor_box, (left, floor_y - 2, right, floor_y + 2)],
    )
    parts = [
        frame.axes(x_label, y_label, percent=True),
        tag("line", x1=left, x2=right, y1=floor_y, y2=floor_y, class_="floor"),
        tag("text", floor[1], x=right, y=floor_y + LINE, class_="end floor"),
    ]
    # The large ones first, so that the small ones lie on them.
    for dot, (x, y, radius), box in sorted(
        zip(dots, places, boxes, strict=True), key=lambda one: -one[1][2]
    ):
        kind = "good" if dot.good else "bad"
        near = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
        if math.dist((x, y), near) > radius + 10:
            parts.append(tag("line", x1=x, y1=y, x2=near[0], y2=near[1], class_="leader"))
        parts.append(tag("circle", tag("title", dot.said), cx=x, cy=y, r=radius, class_=kind))
        parts.append(
            tag("text", dot.name, x=(box[0] + box[2]) / 2, y=box[3] - 4, class_=f"middle {kind}")
        )
    return frame.drawn(f"{y_label} over {x_label}", *parts)


def place_names(
    names: Sequence[str],
    dots: Sequence[tuple[float, float, float]],
    area: Box,
    taken: Sequence[Box],
) -> list[Box]:
    """Return where each name is written: as near to its dot as it can be without covering a dot, another name, or ``taken``.

    Args:
        names: one for each dot.
        dots: x, y and radius of each.
        area: what the names stay inside of.
        taken: what else they leave free.
    """
    covered = [*taken, *((x - r - 1, y - r - 1, x + r + 1, y + r + 1) for x, y, r in dots)]
    placed: list[Box] = []
    for name, (x, y, _) in zip(names, dots, strict=True):
        width = CHARACTER * len(name) + 4
        lefts, tops = np.meshgrid(
            np.arange(area[0], area[2] - width, 4), np.arange(area[1], area[3] - LINE, 4)
        )
        gap_x = np.maximum(np.maximum(lefts - x, x - lefts - width), 0)
        gap_y = np.maximum(np.maximum(tops - y, y - tops - LINE), 0)
        # Beside its dot a name is read more easily than above or below it.
        cost = (
            np.hypot(gap_x, gap_y)
            + 0.15 * np.abs(tops + LINE / 2 - y)
            + 0.02 * np.abs(lefts + width / 2 - x - width)
        )
        for left, top, right, bottom in covered:
            cost[
                (lefts < right) & (lefts + width > left) & (tops < bottom) & (tops + LINE > top)
            ] += 1e6
        best = np.unravel_index(cost.argmin(), cost.shape)
        placed.append(
            (
                float(lefts[best]),
                float(tops[best]),
                float(lefts[best] + width),
                float(tops[best] + LINE),
            )
        )
        covered.append(placed[-1])
    return placed


# ---------------------------------------------------------------------------------------------------------------------- curves


@dataclass(frozen=True)
class Curve:
    """A line of ``curves``.

    Attributes:
        name: of the line, and its class in the page's style.
        points: (epoch, value), by epoch; where a value is no number the line has a gap.
    """

    name: str
    points: Sequence[tuple[float, float]]


def curves(title: str, lines: Sequence[Curve], marks: Sequence[tuple[float, str]]) -> Html | None:
    """Draw values over epochs; None where no value is a number.

    Args:
        title: what the values are.
        lines: one or two.
        marks: epochs, each with the word for what began or was reached there.
    """
    finite = [(x, y) for line in lines for x, y in line.points if math.isfinite(y)]
    if not finite:
        return None
    (first, *_, last), ys = (
        sorted({x for x, _ in finite} | {min(finite)[0] + 1}),
        [y for _, y in finite],
    )
    margin = 0.06 * (max(ys) - min(ys)) or 0.1 * abs(ys[0]) or 1
    frame = Frame((first, last), (min(ys) - margin, max(ys) + margin), (520, 300))
    parts = [frame.axes("epoch", "", whole=True)]
    for epoch, word in marks:
        x, _ = frame.at(epoch, ys[0])
        # The best epoch may lie where a phase begins.
        y = frame.area[1] - (4 if word == BEST else 4 + LINE)
        side = "end" if x > frame.width * 0.8 else "middle" if x > frame.width * 0.2 else None
        parts.append(tag("line", x1=x, x2=x, y1=y + 2, y2=frame.area[3], class_="leader"))
        parts.append(tag("text", word, x=x, y=y, class_=side))
    for n, line in enumerate(lines):
        parts += _line(frame, line)
        parts.append(
            tag("text", line.name, x=frame.area[0] + 80 * n, y=frame.height - 6, class_=line.name)
        )
    return frame.drawn(f"{title} over epochs", *parts)


def _line(frame: Frame, line: Curve) -> list[Html]:
    """Return a line in pieces between gaps; few points have dots, too."""
    path, begin = "", "M"
    for x, y in line.points:
        if math.isfinite(y):
            path += "{}{:.1f},{:.1f}".format(begin, *frame.at(x, y))
        begin = "L" if math.isfinite(y) else "M"
    dots = (
        [(*frame.at(x, y), x, y) for x, y in line.points if math.isfinite(y)]
        if len(line.points) <= DOTTED
        else []
    )
    return [
        tag("path", d=path, class_=f"curve {line.name}"),
        *(
            tag(
                "circle", tag("title", f"epoch {x:g}: {y:.4g}"), cx=a, cy=b, r=2.5, class_=line.name
            )
            for a, b, x, y in dots
        ),
    ]
