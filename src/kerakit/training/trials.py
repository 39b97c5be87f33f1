"""What came out of trials: a table, a file, a picture, and what to do with the best one."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from kerakit.console import print_table
from kerakit.files import write_text
from kerakit.run import Run
from kerakit.script import deploy_command


@dataclass(frozen=True)
class Trial:
    """How a trial ended.

    Attributes:
        number: from 0 on.
        params: what Optuna chose, by name.
        seconds: how long it took.
        score: of its best checkpoint; None if it failed.
        epoch: of that checkpoint, counted from 1.
        error: what it said last, if it failed.
    """

    number: int
    params: dict[str, Any]
    seconds: float
    score: float | None = None
    epoch: int | None = None
    error: str | None = None

    @property
    def name(self) -> str:
        """The name of its run folder."""
        return f"trial_{self.number:03d}"


def show(folder: Path, trials: Sequence[Trial], score: str, higher_is_better: bool) -> None:
    """Print trials, best first, and the best one; write them to trials.csv and draw them in trials.png.

    Args:
        folder: of the search.
        trials: in their order; of equal ones the first is the better.
        score: its name.
        higher_is_better: whether the largest score is the best one.
    """
    if not trials:
        return
    done = [trial for trial in trials if trial.score is not None]
    ranked = sorted(done, key=lambda trial: trial.score or 0.0, reverse=higher_is_better)
    names = list(dict.fromkeys(name for trial in trials for name in trial.params))
    everyone = [*ranked, *(trial for trial in trials if trial.score is None)]
    table = Table(title=f"{len(ranked)} of {len(trials)} trials ended well", title_justify="left")
    for heading in ("trial", score, "epoch", "seconds", *names):
        table.add_column(heading, justify="right")
    for trial in everyone:
        ended = ("failed", "") if trial.score is None else (f"{trial.score:.4f}", str(trial.epoch))
        chosen = (_short(trial.params.get(name, "")) for name in names)
        table.add_row(str(trial.number), *ended, f"{trial.seconds:.0f}", *chosen)
    print_table(table)
    for trial in everyone[len(ranked) :]:
        print(f"{trial.name} failed: {trial.error}")
    _write(folder / "trials.csv", everyone, names, score)
    if not ranked:
        return
    from kerakit.report.plots import draw_trials

    points = [(trial.number, trial.score or 0.0, trial.params) for trial in done]
    draw_trials(points, names, score, higher_is_better, folder / "trials.png")
    best = Run(folder / ranked[0].name)
    print(f"all of them in {folder / 'trials.csv'}, a picture in {folder / 'trials.png'}")
    print(f"best: {best.path}, {score} {ranked[0].score:.4f}")
    print(f"next: {deploy_command(best)}")


def _write(path: Path, trials: Sequence[Trial], names: Sequence[str], score: str) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", score, "epoch", "seconds", *names, "error"])
    for trial in trials:
        chosen = [trial.params.get(name) for name in names]
        writer.writerow([trial.name, trial.score, trial.epoch, trial.seconds, *chosen, trial.error])
    write_text(path, text.getvalue())


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
