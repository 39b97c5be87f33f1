"""A training as one page to look at: what its run folder holds, drawn."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kerakit import answers, charts
from kerakit.data.split import MODES
from kerakit.errors import UserError
from kerakit.files import write_text
from kerakit.report.page import (
    Html,
    answered,
    badge,
    command,
    document,
    gallery,
    header,
    join,
    made_with,
    note,
    picture,
    section,
    shown,
    side_by_side,
    table,
    tag,
    tiles,
    when,
)
from kerakit.report.plots import ROW_HEIGHT
from kerakit.run import Checkpoint, Run
from kerakit.script import deploy_command, evaluate_command

BATCH_ROWS = 4
"""How many rows of the picture of a batch are shown."""

_ENDED = {"done": "good", "interrupted": "idle", "failed": "bad"}


@dataclass(frozen=True)
class Mistake:
    """An image that was given a wrong class.

    Attributes:
        pixels: (height, width, 3), values from 0 to 255.
        right: the name of its class.
        answer: the name of the class that was answered.
        confidence: the score of that answer.
        key: its name.
    """

    pixels: Any
    right: str
    answer: str
    confidence: float
    key: str


def write_page(run: Run, mistakes: Sequence[Mistake] = ()) -> None:
    """Write the page of a run from what its folder holds.

    Args:
        run: the run.
        mistakes: the worst ones that its evaluation found.

    Raises:
        UserError: a file of the run is damaged.
    """
    config, report, evaluation = _read(run.config), _read(run.report), _read(run.evaluation)
    history = run.read_history() if run.history.exists() else []
    best = next(iter(run.list_checkpoints()), None)
    name = f"Training of {config.get('model', 'a model')}"
    body = [
        _header(name, run, config, report),
        _tiles(history, best, report, evaluation),
        _curves(history, best, config, report),
        _evaluation(evaluation, mistakes),
        _batches(run.plots),
        _data(report),
        section("Next", *_next(run, evaluation)),
        section(
            "Settings", shown({key: value for key, value in config.items() if key != "class_names"})
        ),
        made_with(report) if report else None,
    ]
    write_text(run.page, document(name, *body))


def _read(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds; nothing where there is none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if isinstance(found, dict) else {}
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(
            f"{path} is damaged: {error}. Restore it from a copy, or train again."
        ) from None


def _header(name: str, run: Run, config: Mapping[str, Any], report: Mapping[str, Any]) -> Html:
    ended = report.get("ended")
    lines: list[object] = [
        f"{run.path}, from weights {config.get('weights')}: {', '.join(config.get('phases', []))}"
    ]
    if ended:
        lines.append(
            join(
                badge(ended, _ENDED[ended]),
                f" {when(report['created'])}, after {_duration(report['seconds'])}",
            )
        )
    return header(name, *lines)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60} min"
        if minutes >= 60
        else f"{minutes} min {rest} s"
        if minutes
        else f"{seconds:g} s"
    )


def _tiles(
    history: Sequence[Mapping[str, float]],
    best: Checkpoint | None,
    report: Mapping[str, Any],
    evaluation: Mapping[str, Any],
) -> Html:
    parts: list[tuple[str, object, object]] = []
    if best:
        chosen = f", chosen by {report['monitor']}" if report.get("monitor") else ""
        parts.append(("best epoch", str(best.epoch), f"of {len(history)}{chosen}"))
        row: Mapping[str, float] = next((row for row in history if row["epoch"] == best.epoch), {})
        for name in [name for name in row if name.startswith("val_")][:3]:
            trained = row.get(name.removeprefix("val_"))
            parts.append(
                (
                    f"{name}, then",
                    shown(row[name], name),
                    "" if trained is None else join("training: ", shown(trained, name)),
                )
            )
    if evaluation.get("split") == "test":
        parts.append(
            (
                "accuracy, test",
                f"{evaluation['accuracy']:.2%}",
                f"of {evaluation['images']:,} images",
            )
        )
    if images := report.get("images"):
        rest = ", ".join(f"{n:,} {mode}" for mode, n in images.items() if mode != "train" and n)
        parts.append(("images to train on", f"{images['train']:,}", f"and {rest}"))
    return tiles(*parts)


def _curves(
    history: Sequence[Mapping[str, float]],
    best: Checkpoint | None,
    config: Mapping[str, Any],
    report: Mapping[str, Any],
) -> Html | None:
    """Draw each metric; marked are where phases begin, if there are several, and the best epoch."""
    marks = [(float(best.epoch), charts.BEST)] if best else []
    starts = report.get("phase_starts", [])
    if len(starts) > 1:
        marks += [
            (float(epoch), str(phase))
            for epoch, phase in zip(starts, config.get("phases", []), strict=False)
        ]
    names = dict.fromkeys(
        name.removeprefix("val_") for row in history for name in row if name != "epoch"
    )
    drawn = []
    for name in names:
        lines = [
            charts.Curve(label, [(row["epoch"], row[key]) for row in history if key in row])
            for key, label in ((name, "training"), (f"val_{name}", "validation"))
        ]
        drawn.append((name, charts.curves(name, [line for line in lines if line.points], marks)))
    shown_ = [(name, picture_) for name, picture_ in drawn if picture_ is not None]
    return section("Curves", side_by_side(*shown_)) if shown_ else None


def _evaluation(evaluation: Mapping[str, Any], mistakes: Sequence[Mistake]) -> Html | None:
    if not evaluation:
        return None
    names = [row["class"] for row in evaluation["classes"]]
    matrix = np.array(evaluation["confusion"], np.int64)
    accuracy, count = evaluation["accuracy"], evaluation["images"]
    drawn = answers.drawn(
        ("in images", matrix, False), ("as shares of the class", matrix, True), names=names
    )
    wrong = [
        (one.pixels, one.right, [answered("answered", one.answer, one.confidence)], one.key)
        for one in mistakes
    ]
    return section(
        "Evaluation",
        tag(
            "p",
            f"{accuracy:.2%} of {count:,} {evaluation['split']} images are right. ",
            answers.coarseness(accuracy, count),
        ),
        drawn,
        side_by_side(
            ("Class by class", shown(evaluation["classes"])),
            ("Confused most", answers.pairs(matrix, names)),
        ),
        *([tag("h3", "Wrong, and surest of it"), gallery(wrong)] if mistakes else []),
    )


def _batches(plots: Path) -> Html | None:
    parts = []
    for name, title in (
        ("train_batch", "training, as the model gets it"),
        ("val_batch", "validation"),
    ):
        if (path := plots / f"{name}.png").exists():
            with Image.open(path) as image:
                shown_ = image.crop((0, 0, image.width, min(image.height, BATCH_ROWS * ROW_HEIGHT)))
            parts.append(
                tag(
                    "figure",
                    tag("figcaption", title),
                    tag("div", picture(shown_, title), class_="wide batch"),
                )
            )
    return section("The first batches", *parts) if parts else None


def _data(report: Mapping[str, Any]) -> Html | None:
    classes = report.get("classes")
    if not classes:
        return None
    modes = [mode for mode in MODES if any(row[mode] for row in classes)]
    largest = max(row["train"] for row in classes)
    rows = [
        [
            row["class"],
            *(f"{row[mode]:,}" for mode in modes),
            tag("span", class_="bar", style=f"width:{row['train'] / largest:.1%}"),
        ]
        for row in classes
    ]
    return section(
        f"{len(classes):,} classes", table(["class", *modes, "training images"], rows, modes)
    )


def _next(run: Run, evaluation: Mapping[str, Any]) -> list[Html]:
    parts = [note("Files for devices, each measured:"), command(deploy_command(run))]
    if not evaluation:
        parts = [
            note("Class by class, with what is confused and the worst mistakes:"),
            command(evaluate_command(run)),
            *parts,
        ]
    return parts
