"""Pictures of what the model is fed, of how it learnt, and of what it confuses."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from kerakit.report.confusion import MOST_WITH_NUMBERS

_CELL = 160
_CAPTION = 18
ROW_HEIGHT = _CELL + _CAPTION
"""Of ``image_grid``, in pixels."""


def image_grid(images: Sequence[Any], titles: Sequence[str], columns: int = 8) -> Image.Image:
    """Draw ``images`` in a grid, each with its title below.

    Args:
        images: each (height, width, 3), values from 0 to 255.
        titles: one for each image.
        columns: images a row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * _CELL, rows * ROW_HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    for n, (pixels, title) in enumerate(zip(images, titles, strict=True)):
        left, top = n % columns * _CELL, n // columns * ROW_HEIGHT
        image = Image.fromarray(np.asarray(pixels).astype(np.uint8))
        scale = (_CELL - 4) / max(image.size)
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        )
        picture.paste(image, (left + (_CELL - image.width) // 2, top + (_CELL - image.height) // 2))
        draw.text((left + _CELL / 2, top + _CELL), title[:24], fill="black", anchor="ma")
    return picture


def draw_confusion(matrix: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Draw a confusion matrix, (classes, classes), rows the right class: in images, and as shares of each row."""
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    side = max(4.0, 0.45 * len(names) + 2)
    figure = Figure(figsize=(2 * side, side), layout="constrained")
    for axes, values, title in zip(
        figure.subplots(1, 2), (matrix, shares), ("images", "share of the class"), strict=True
    ):
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        axes.set_title(title)
        axes.set_xlabel("answered")
        axes.set_ylabel("is")
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        if len(names) <= MOST_WITH_NUMBERS:
            for (row, column), value in np.ndenumerate(values):
                text = f"{value:.0%}" if title != "images" else str(value)
                if value:
                    colour = "white" if shares[row, column] > 0.5 else "black"
                    axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, bbox_inches="tight")


def draw_trials(
    trials: Sequence[tuple[int, float, dict[str, Any]]],
    names: Sequence[str],
    score: str,
    higher_is_better: bool,
    path: Path,
) -> None:
    """Draw the scores of trials in their order, and over each parameter.

    Args:
        trials: (number, score, parameters by name) of each, in their order.
        names: of the parameters; a trial need not have all.
        score: its name.
        higher_is_better: whether the largest score is the best one.
        path: of the PNG.
    """
    figure = Figure(figsize=(3.2 * (1 + len(names)), 3.2), layout="constrained")
    first, *others = figure.subplots(1, 1 + len(names), sharey=True, squeeze=False)[0]
    numbers, scores, _ = zip(*trials, strict=True)
    first.plot(numbers, scores, "o", markersize=4)
    best = (np.maximum if higher_is_better else np.minimum).accumulate(scores)
    first.step(numbers, best, where="post", label="best so far")
    first.set_xlabel("trial")
    first.set_ylabel(score)
    first.xaxis.set_major_locator(MaxNLocator(integer=True))
    first.legend()
    for axes, name in zip(others, names, strict=True):
        points = [(params[name], value) for _, value, params in trials if name in params]
        values = [value for value, _ in points]
        if any(isinstance(value, (bool, str)) for value in values):
            points = [(str(value), result) for value, result in points]
        elif values and min(values) > 0 and max(values) > 10 * min(values):
            axes.set_xscale("log")
        if points:
            axes.plot(*zip(*points, strict=True), "o", markersize=4)
        axes.set_xlabel(name)
        axes.tick_params(axis="x", rotation=30)
    for axes in (first, *others):
        axes.grid(alpha=0.3)
    figure.savefig(path, bbox_inches="tight")


def draw_curves(rows: Sequence[dict[str, float]], path: Path) -> None:
    """Draw each metric over the epochs, training and validation in one picture.

    Args:
        rows: one an epoch, with "epoch", metrics, and ``val_`` metrics.
        path: of the PNG.
    """
    metrics = [name for name in rows[0] if name != "epoch" and not name.startswith("val_")]
    figure = Figure(figsize=(5 * len(metrics), 3.5), layout="constrained")
    for axes, metric in zip(
        figure.subplots(1, len(metrics), squeeze=False)[0], metrics, strict=True
    ):
        for name, label in ((metric, "training"), (f"val_{metric}", "validation")):
            points = [(row["epoch"], row[name]) for row in rows if name in row]
            if points:
                axes.plot(
                    *zip(*points, strict=True), label=label, marker="." if len(points) < 50 else ""
                )
        axes.set_title(metric)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, bbox_inches="tight")
