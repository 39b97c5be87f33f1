"""Callbacks of Keras work in all phases of a run: head, fine-tuning, and training from scratch."""

from __future__ import annotations

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from kerakit.training import StepScheduler
from projects import Project, edit

PRETRAINED = '''
"""A model that claims pretrained weights."""


def construct(input_shape, num_classes, weights=None):
    import keras
    from keras import layers

    image = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(layers.Rescaling(1 / 255)(image))
    x = layers.BatchNormalization()(x)
    x = layers.Conv2D(4, 3, activation="relu")(x)
    x = layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, layers.Dense(num_classes, activation="softmax")(x), name="tiny")
'''

CALLBACKS = """
    callbacks += [
        keras.callbacks.TerminateOnNaN(),
        keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None),
        keras.callbacks.EarlyStopping(MONITOR, patience=50, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(str(run.path / "part.keras"), monitor=MONITOR),
        keras.callbacks.CSVLogger(str(run.path / "log.csv"), append=True),
        ADDED
    ]
    callbacks += trackers"""

PLATEAU = "keras.callbacks.ReduceLROnPlateau(MONITOR, factor=0.5, patience=1, min_delta=10.0)"
OWN = "keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.01 / (1 + epoch))"


def add(project: Project, source: str) -> None:
    (project.path / "models" / "tiny.py").write_text(PRETRAINED)
    path = project.path / "callbacks.py"
    added = source and f"{source},"
    edit(path, "    callbacks += trackers", CALLBACKS.replace("ADDED", added))


def rates(project: Project) -> list[float]:
    with (project.path / "progress" / "test" / "history.csv").open() as file:
        return [float(row["learning_rate"]) for row in csv.DictReader(file)]


FLAGS = ["--model", "tiny", "--num_epochs", "4", "--head_epochs", "4", "--batch_size", "16"]

PREDICT = ("predict.py", "--read_from", "progress/test", "../photos", "--as_json")

TRAIN = f"""
import sys
from pathlib import Path
from projects import Project
for folder in sys.argv[1:]:
    done = Project(Path(folder)).train(*{FLAGS})
    assert done.code == 0, done.err
done = Project(Path(sys.argv[1])).call(*{PREDICT})
assert done.code == 0, done.err
print(done.out)
"""


def test_each_phase_has_the_same_learning_rates_on_jax(project: Project, tmp_path: Path) -> None:
    """Head and fine-tuning, with the schedule of train.py and callbacks that set the rate."""
    other = Project(Path(shutil.copytree(project.path, tmp_path / "other")))
    add(project, PLATEAU)
    add(other, OWN)
    on_jax = subprocess.run(
        [sys.executable, "-c", TRAIN, str(project.path), str(other.path)],
        env={**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert on_jax.returncode == 0, on_jax.stderr
    found = rates(project)
    done = project.train("--overwrite", *FLAGS)
    assert done.code == 0, done.err
    np.testing.assert_allclose(found, rates(project), rtol=1e-6)
    np.testing.assert_allclose(rates(other), 0.01 / (1 + np.arange(8)), rtol=1e-6)
    # In each phase, the second epoch is a plateau, and the schedule ends with it.
    assert done.out.count("set by a callback") == 2
    assert "stopped after" not in done.out
    assert "ModelCheckpoint" in done.out
    for phase in (found[:4], found[4:]):
        np.testing.assert_allclose(phase[3], phase[2] / 2, rtol=1e-5)
        assert 0 < phase[2] < phase[1] / 2 * 1.001


def test_a_learning_rate_of_ones_own_is_the_one_that_is_used(project: Project) -> None:
    add(project, OWN)
    done = project.train("--model", "tiny", "--strategy", "scratch", "--num_epochs", 3)
    assert done.code == 0, done.err
    np.testing.assert_allclose(rates(project), [0.01, 0.005, 0.01 / 3], rtol=1e-5)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("keras.callbacks.BackupAndRestore(run.path / 'backup')", "--resume"),
        ("keras.callbacks.SwapEMAWeights(swap_on_epoch=True)", "--ema"),
    ],
)
def test_a_callback_that_cannot_work_is_refused(project: Project, source: str, named: str) -> None:
    add(project, source)
    done = project.train()
    assert done.code == 2
    assert named in done.err
    assert "Traceback" not in done.err
    assert not (project.path / "progress" / "test").exists()


def test_an_error_in_callbacks_leaves_the_old_run(trained: Project) -> None:
    def content() -> dict[Path, bytes]:
        run = trained.path / "progress" / "test"
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}

    before, source = content(), (trained.path / "callbacks.py").read_text()
    for line, named in (
        ("keras.callbacks.SwapEMAWeights(swap_on_epoch=True)", "--ema"),
        ("keras.callbacks.NoSuchCallback()", "NoSuchCallback"),
    ):
        (trained.path / "callbacks.py").write_text(source)
        add(trained, line)
        done = trained.train("--overwrite")
        assert done.code != 0
        assert named in done.err
        assert content() == before


def test_no_step_has_learning_rate_0(project: Project) -> None:
    add(project, "")
    flags = ("--batch_size", 60, "--num_epochs", 2, "--learning_rate", 0.01)
    done = project.train("--strategy", "scratch", *flags)
    assert done.code == 0, done.err
    np.testing.assert_allclose(rates(project), 0.01)  # one step per epoch


def test_a_schedule_is_followed_per_step() -> None:
    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: object = None) -> None:  # noqa: ARG002
            found.append(float(self.model.optimizer.learning_rate))

    found: list[float] = []
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.2, 0.3])
    cb = [StepScheduler(schedule), Record()]
    model.fit(np.ones((6, 2)), np.ones((6, 1)), batch_size=2, epochs=2, verbose=0, callbacks=cb)
    np.testing.assert_allclose(found, [float(schedule(step)) for step in range(6)])
