"""Trainings that are killed at random points, many times, and resumed: the same end, to the bit."""

from __future__ import annotations

import importlib.util
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fork_server import ForkServer
from kerakit.update import TASKS
from projects import make_task_project
from resuming import Trainings, add_tiny_model, assert_equal

BACKENDS = ["tensorflow", "jax", *(["torch"] if importlib.util.find_spec("torch") else [])]

SCRATCH = {
    "classification": ("--mixup", 0.2, "--class_weights"),
    "detection": ("--mosaic", 0.5),
}
"""Flags of a training on images, by task."""

LIGHT = ("classification", "multilabel", "regression")
"""Tasks with one level of features, whose trainings start and end soon."""


@pytest.fixture(scope="module", params=BACKENDS)
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ForkServer]:
    """Processes of a backend, where a save may take all of the time."""
    folder = tmp_path_factory.mktemp("temporary")
    server = ForkServer(
        MAX_FRACTION="1",
        TMPDIR=str(folder),  # killed processes leave files of TensorFlow
        KERAS_BACKEND=request.param,
        PYTORCH_NVML_BASED_CUDA_CHECK="1",  # else, torch cannot use a GPU after a fork
        # Of JAX: a step is compiled once, not at each start.
        JAX_COMPILATION_CACHE_DIR=str(folder),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    yield server
    server.close()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_hundreds_of_kills(
    server: ForkServer, task: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """At least KERAKIT_KILLS kills per task and backend, 40 by default, every third in a save.

    In turn, of a training of two phases, the first one on cached features (detection and
    regression: fine-tuning alone), and of one from scratch.
    """
    start, count = time.monotonic(), int(os.environ.get("KERAKIT_KILLS", "40"))
    per_run = 20 if task in LIGHT else 7
    trainings = Trainings(server, add_tiny_model(make_task_project(tmp_path / task, task, 24)))
    epochs = (16, 12) if task in LIGHT else (4, 3)
    flags = ("--input_size", "32,32", "--num_epochs", epochs[0], "--head_epochs", epochs[1])
    kinds = {
        "finetune": (*flags, "--jitter", "--strategy", "finetune"),
        "scratch": (*flags, "--strategy", "scratch", "--ema", 0.9, *SCRATCH.get(task, ())),
    }
    for kind in kinds:
        trainings.finish(kind, *kinds[kind])
    for number, kind in enumerate(itertools.cycle(kinds)):
        before, cut = trainings.kills.total(), f"cut-{number}"
        while trainings.kills.total() - before < per_run and trainings.kill(cut, *kinds[kind]):
            pass
        trainings.finish(cut, "--resume", "auto", *kinds[kind])
        assert_equal(trainings.run(kind), trainings.run(cut))
        trainings.run(cut).remove()
        minutes = (time.monotonic() - start) / 60
        print(
            f"{request.node.name} {kind}: {trainings.kills.total()} kills in {minutes:.1f} "
            f"minutes: {dict(trainings.kills)}",
            flush=True,
        )
        if number and trainings.kills.total() >= count:
            break
