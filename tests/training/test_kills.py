"""Trainings that are killed at random points, many times, and resumed: the same end, to the bit."""

from __future__ import annotations

import importlib.util
import os
import time
from collections import Counter
from pathlib import Path

import pytest

from fork_server import ForkServer
from kerakit.update import TASKS
from projects import edit, make_task_project
from resuming import Trainings, add_tiny_model, assert_equal

BACKENDS = ["tensorflow", "jax", *(["torch"] if importlib.util.find_spec("torch") else [])]

EPOCHS = ("--input_size", "32,32", "--num_epochs", 16, "--head_epochs", 12)
EMA = ("--strategy", "scratch", "--ema", 0.9)
SCRATCH = {
    "classification": (*EMA, "--mixup", 0.2, "--class_weights"),
    "detection": (*EMA, "--mosaic", 0.5),
}
"""Flags of a training on images, by task."""


PER_RUN = {"classification": 30, "multilabel": 30, "regression": 30}
"""Kills of a run, by task; other tasks take longer to start."""


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_hundreds_of_kills(backend: str, tmp_path: Path) -> None:
    """At least KERAKIT_KILLS kills, 250 by default, in two trainings of each task.

    One training is on cached features in two phases (detection: fine-tuning alone), the other one
    on images from scratch. Every third kill, about, is at a file operation of a save.
    """
    count = int(os.environ.get("KERAKIT_KILLS", "250"))
    server = ForkServer(MAX_FRACTION="1", KERAS_BACKEND=backend)
    runs: list[tuple[Trainings, str, tuple[object, ...]]] = []
    kills: Counter[str] = Counter()
    start = time.monotonic()
    number = 0
    while kills.total() < count or number < 2 * len(TASKS):
        if number < 2 * len(TASKS):  # the training that is never killed
            task = TASKS[number // 2]
            if number % 2 == 0:
                project = add_tiny_model(make_task_project(tmp_path / task, task, 24))
                plateau = 'keras.callbacks.ReduceLROnPlateau("loss", patience=1, cooldown=1)'
                old = "    callbacks += trackers\n"
                edit(project.path / "callbacks.py", old, f"    callbacks.append({plateau})\n")
                trainings = Trainings(server, project, seed=number)
                flags: tuple[object, ...] = (*EPOCHS, "--jitter", "--strategy", "finetune")
            else:
                flags = (*EPOCHS, *SCRATCH.get(task, EMA))
            trainings.finish(f"whole-{number}", *flags)
            runs.append((trainings, f"whole-{number}", flags))
        trainings, whole, flags = runs[number % len(runs)]
        before, trainings.kills = kills, Counter()
        cut = f"cut-{number}"
        limit = PER_RUN.get(trainings.project.path.name, 8)
        while trainings.kills.total() < limit and trainings.kill(cut, *flags):
            pass
        trainings.finish(cut, "--resume", "auto", *flags)
        assert_equal(trainings.run(whole), trainings.run(cut))
        trainings.run(cut).remove()
        kills = before + trainings.kills
        minutes = (time.monotonic() - start) / 60
        print(
            f"{backend} {trainings.project.path.name} {whole}: {trainings.kills.total()} kills; "
            f"in all {kills.total()} in {minutes:.1f} minutes: {dict(kills)}",
            flush=True,
        )
        number += 1
    server.close()
    assert kills["save"] > kills.total() / 4
