"""Trainings of a tiny model that are killed and resumed, and their comparison."""

from __future__ import annotations

import random
import signal
import time
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
    x = layers.Conv2D(4, 3, strides=2, name="low")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU(name="middle")(x)
    x = layers.Conv2D(4, 3, name="high")(x)
    x = layers.Dropout(0.2)(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, task.head(x))
'''

FLAGS = (
    *("--model", "tiny", "--input_size", "16,12", "--batch_size", 4),
    *("--num_epochs", 3, "--head_epochs", 4, "--save_minutes", 0.001),
)


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
        self.kills = self.kills_in_save = 0

    def run(self, name: str) -> Run:
        """Return a run of the project."""
        return Run(self.project.path / "progress" / name)

    def start(self, name: str, *flags: object) -> Child:
        """Start a training."""
        path = self.project.path / f"{name}.txt"
        path.unlink(missing_ok=True)
        path.touch()
        arguments = ("--save_to", f"progress/{name}", *FLAGS, *flags)
        return self._server.start(self.project.path, path, "train.py", *arguments)

    def finish(self, name: str, *flags: object) -> str:
        """Train to the end; return the output."""
        child = self.start(name, *flags)
        code = child.wait()
        assert code == 0, child.output
        return child.output

    def kill(self, name: str, *flags: object, in_save: bool = False) -> bool:
        """Resume a training and kill it at a random instant; False if it ended before.

        The instant is a random time after, or during, one of the next saves: the same fraction of
        the training on a fast and on a busy machine.
        """
        child = self.start(name, "--resume", "auto", *flags)
        state, number = self.run(name).state, self.random.randint(1, 4)
        pattern = ".*.tmp" if in_save else "0*"
        seen = {path.name for path in state.glob("0*")}
        number += len(seen)
        while len(seen) < number and child.is_running():
            seen |= {path.name for path in state.glob(pattern)}
            time.sleep(0.0003)
        time.sleep(self.random.uniform(0, 0.01 if in_save else 0.3))
        was_running = child.is_running()
        self.kills_in_save += was_running and any(self.run(name).state.glob(".*.tmp"))
        child.kill(signal.SIGKILL)
        code = child.wait()
        assert code in (0, -signal.SIGKILL), child.output
        self.kills += code != 0
        return code != 0


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
