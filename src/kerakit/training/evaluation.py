"""How good a model is: per class, as a table, as pictures, and as a file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table
from sklearn.metrics import precision_recall_fscore_support

from kerakit.console import print_table
from kerakit.data.generator import BatchGenerator
from kerakit.files import write_json
from kerakit.report.confusion import MOST_DRAWN, confusion
from kerakit.report.plots import draw_confusion, image_grid
from kerakit.run import Run
from kerakit.training.page import Mistake, write_page

MISTAKES_SHOWN = 32


def judge(
    run: Run, held_out: BatchGenerator, predicted: NDArray[np.float32], targets: NDArray[Any]
) -> None:
    """Print and keep what scores say: ``evaluation.json``, ``plots/confusion.png``, ``plots/mistakes.png``, the page.

    Args:
        run: where to.
        held_out: the images that were scored, in its order.
        predicted: scores, (n, classes).
        targets: the right classes, (n,).
    """
    names = held_out.data_reader.class_names
    answers = predicted.argmax(axis=1)
    every = np.arange(len(names))
    matrix = confusion(targets, answers, len(names))
    parts = precision_recall_fscore_support(targets, answers, labels=every, zero_division=0)
    rows = [
        {
            "class": name,
            "images": int(images),
            "precision": float(p),
            "recall": float(r),
            "f1": float(f),
        }
        for name, p, r, f, images in zip(names, *parts, strict=True)
    ]
    accuracy = float(np.mean(answers == targets))
    run.plots.mkdir(exist_ok=True)
    write_json(
        run.evaluation,
        {
            "split": held_out.mode,
            "images": len(targets),
            "accuracy": accuracy,
            "classes": rows,
            "confusion": matrix.tolist(),
        },
    )
    if len(names) <= MOST_DRAWN:
        draw_confusion(matrix, names, run.plots / "confusion.png")
    mistakes = _mistakes(held_out, predicted, targets)
    _draw_mistakes(run, mistakes)
    write_page(run, mistakes)
    table = Table(
        title=f"{accuracy:.2%} of {len(targets)} {held_out.mode} images are right",
        title_justify="left",
    )
    for heading in ("class", "images", "precision", "recall", "F1"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for row in rows:
        table.add_row(
            str(row["class"]),
            f"{row['images']:,}",
            *(f"{row[key]:.1%}" for key in ("precision", "recall", "f1")),
        )
    print_table(table)
    print(f"in {run.evaluation}; to look at: {run.page}")


def _mistakes(
    held_out: BatchGenerator, predicted: NDArray[np.float32], targets: NDArray[Any]
) -> list[Mistake]:
    """Return the wrong answers of which the model was surest."""
    names, answers = held_out.data_reader.class_names, predicted.argmax(axis=1)
    wrong = np.flatnonzero(answers != targets)
    worst = wrong[np.argsort(-predicted[wrong].max(axis=1), kind="stable")][:MISTAKES_SHOWN]
    return [
        Mistake(
            held_out.sample(i)[0],
            names[targets[i]],
            names[answers[i]],
            float(predicted[i].max()),
            held_out.key(0, i),
        )
        for i in worst.tolist()
    ]


def _draw_mistakes(run: Run, mistakes: Sequence[Mistake]) -> None:
    if mistakes:
        titles = [f"{one.answer}, not {one.right}" for one in mistakes]
        image_grid([one.pixels for one in mistakes], titles).save(run.plots / "mistakes.png")
    else:
        (run.plots / "mistakes.png").unlink(missing_ok=True)
