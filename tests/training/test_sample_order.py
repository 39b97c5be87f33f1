"""The samples of a resumed training: those of the training that was not stopped, in order."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerakit import Run
from kerakit.config import Config
from kerakit.data import BatchGenerator, DataReader
from kerakit.training import TrainingState, state_callback

EPOCHS, BATCH = 2, 8


class Flags(Config):
    """Flags of the training."""

    save_to: Path
    resume: str = "auto"
    overwrite: bool = False
    save_minutes: float = 1e-9


def train(path: Path, photos: Path, copies: Path | None = None) -> list[np.ndarray[Any, Any]]:
    """Train a run in ``path`` to its end; return what each step changed.

    The gradient of each weight is the target of its color channel: each step shows which samples it
    was given. With ``copies``, the run folder is copied after each save.
    """
    run = Run(path)
    state = TrainingState(run, Flags(save_to=path))
    if not state.is_resumed:
        state.args.save(run.create().config)
    reader = DataReader(photos)
    reader.target = lambda i: np.float32(i + 1)  # type: ignore[method-assign,assignment,return-value]
    batches = BatchGenerator(reader, "train", BATCH, (20, 16), seed=7)
    image = keras.Input((16, 20, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")(x))
    state.attach(model, {})
    assert state.begin("scratch", EPOCHS)
    model.compile(
        keras.optimizers.SGD(1.0),
        lambda targets, outputs: keras.ops.mean(
            keras.ops.ravel(targets) * keras.ops.ravel(outputs)
        ),
    )
    changes: list[np.ndarray[Any, Any]] = []
    before = np.zeros((3, 1), np.float32)

    class Trace(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            nonlocal before
            before = np.array(model.get_weights()[0])

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            changes.append(np.array(model.get_weights()[0]) - before)

    class Copy(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            if copies is not None:
                shutil.copytree(path, copies / f"{len(changes):02d}")

    first = batches.epoch_callback()
    model.fit(
        state.remaining(batches),
        initial_epoch=state.first_epoch,
        epochs=state.last_epoch,
        callbacks=[*state.callbacks([first, Trace()]), Copy()],
        shuffle=False,
        verbose=0,
    )
    batches.close()
    return [change for change in changes if change.any()]  # skipped steps change nothing


def test_from_every_saved_step_the_rest_of_the_samples_is_the_same_in_order(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_callback, "MAX_FRACTION", float("inf"))
    whole = train(tmp_path / "run", photos, tmp_path / "copies")
    copies = sorted((tmp_path / "copies").iterdir())
    assert len(copies) == len(whole) == EPOCHS * 6
    assert len({step.tobytes() for step in whole}) == len(whole)
    for number, copy in enumerate(copies, start=1):
        rest = train(copy, photos)
        assert [step.tobytes() for step in rest] == [step.tobytes() for step in whole[number:]]
