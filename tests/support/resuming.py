"""Trainings of a tiny model that are killed and resumed, and their comparison."""

from __future__ import annotations

import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from fork_server import Child, ForkServer
from kerakit import Run
from kerakit.files import sha256
from kerakit.state_folder import SavedState, StateFolder
from projects import Project

TINY = '''"""A model of a few weights, "pretrained" on nothing, with all that has a state."""

import keras
from keras import layers


def construct(input_shape, task, weights=None):
    """Return the model."""
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(4, 3, strides=4, padding="same", use_bias=False, name="low")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(name="middle")(x)
    x = layers.Conv2D(4, 3, strides=2, padding="same", activation="relu", name="high")(x)
    x = layers.Dropout(0.2)(x)
    return keras.Model(image, task.head(x))
'''

FLAGS = (
    *("--model", "tiny", "--input_size", "16,12", "--batch_size", 4),
    *("--num_epochs", 3, "--head_epochs", 4, "--save_minutes", 1e-6),
)

NUMBERS = {
    "save": 80,
    "file": 40,
    "step": 100,
    "validation": 40,
    "epoch": 25,
    "phase": 30,
    "save_end": 4,
}
"""Kinds of points of ``kill_points``, with how many there are, about, in one to three saves."""


def add_tiny_model(project: Project) -> Project:
    """Add the model to a project."""
    (project.path / "models" / "tiny.py").write_text(TINY)
    return project


class Trainings:
    """Starts trainings in a project, kills and resumes them.

    Args:
        server: starts the processes.
        project: with the tiny model.
        seed: of the instants of the kills.
    """

    def __init__(self, server: ForkServer, project: Project, seed: int = 0) -> None:
        self._server, self.project = server, project
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()

    def run(self, name: str) -> Run:
        """Return a run of the project."""
        return Run(self.project.path / "progress" / name)

    def start(self, name: str, *flags: object, kill_at: tuple[str, int] | None = None) -> Child:
        """Start a training."""
        path = self.project.path / f"{name}.txt"
        path.unlink(missing_ok=True)
        path.touch()
        arguments = ("--save_to", f"progress/{name}", *FLAGS, *flags)
        folder = self.project.path
        return self._server.start(folder, path, "train.py", *arguments, kill_at=kill_at)

    def finish(self, name: str, *flags: object) -> str:
        """Train to the end; return the output."""
        child = self.start(name, *flags)
        code = child.wait()
        assert code == 0, child.output
        return child.output

    def kill(self, name: str, *flags: object, kind: str = "", number: int = 0) -> bool:
        """Resume a training, and kill it; False if it ended before.

        Args:
            name: of the run.
            flags: of train.py.
            kind: of the point of the kill, of ``kill_points``; at a random time after "save_end".
                Default: a random one, every third a file operation of a save.
            number: of the point; default: random.
        """
        if not kind:
            is_in_save = self.random.random() < 1 / 3
            kind = "save" if is_in_save else self.random.choice(list(NUMBERS))
        number = number or self.random.randint(1, NUMBERS[kind])
        child = self.start(name, "--resume", "auto", *flags, kill_at=(kind, number))
        if kind == "save_end":
            child.wait_until_reached()
            time.sleep(self.random.uniform(0, 0.5))
            child.kill(signal.SIGKILL)
        code = child.wait()
        assert code in (0, -signal.SIGKILL), child.output
        assert "damaged" not in child.output, child.output  # of the state that was resumed
        is_killed = code != 0
        self.kills[kind] += is_killed
        return is_killed


def final_state(run: Run) -> SavedState:
    """Return the last saved state of a complete run."""
    assert run.complete.is_file()
    state = StateFolder(run.state).load()
    assert state is not None
    return state


def assert_equal(one: Run, other: Run) -> None:
    """Check that two runs ended alike: variables, callbacks, history, checkpoints, logs."""
    first, second = final_state(one), final_state(other)
    assert first.arrays.keys() == second.arrays.keys()
    for name, array in first.arrays.items():
        assert array.dtype == second.arrays[name].dtype
        assert array.tobytes() == second.arrays[name].tobytes(), name
    ignored = {"seconds", "logs"}
    assert {key: value for key, value in first.values.items() if key not in ignored} == {
        key: value for key, value in second.values.items() if key not in ignored
    }
    assert one.history.read_bytes() == other.history.read_bytes()
    assert one.list_checkpoints()[0] == other.list_checkpoints()[0]
    assert sha256(one.best()) == sha256(other.best())
    assert read_scalars(one.logs) == read_scalars(other.logs)


def read_scalars(logs: Path) -> list[tuple[str, str, int, float]]:
    """Return folder, tag, step and value of all scalars that TensorBoard reads."""
    from tensorboard.backend.event_processing import (  # type: ignore[import-untyped]
        event_file_loader,
    )
    from tensorboard.util import tensor_util  # type: ignore[import-untyped]

    scalars: list[Any] = []
    for path in sorted(logs.rglob("events.*")):
        for event in event_file_loader.EventFileLoader(str(path)).Load():
            for value in event.summary.value:
                number = float(np.ravel(tensor_util.make_ndarray(value.tensor))[0])
                scalars.append((path.parent.name, value.tag, event.step, number))
    return sorted(scalars)
