"""TensorBoard logs: the scalars of Keras's own callback, and a disk that is full."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerakit.training import TensorBoard
from resuming import read_scalars


def fit(callbacks: list[Any], epochs: int = 2) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.5), "mse", metrics=["mae"])
    x, y = np.ones((8, 2), "float32"), np.zeros((8, 1), "float32")
    model.fit(x, y, validation_data=(x, y), epochs=epochs, verbose=0, callbacks=callbacks)


def test_the_scalars_are_those_of_keras(tmp_path: Path) -> None:
    keras_logs = keras.callbacks.TensorBoard(tmp_path / "keras", write_graph=False)
    fit([TensorBoard(tmp_path / "ours"), keras_logs])
    ours, theirs = read_scalars(tmp_path / "ours"), read_scalars(tmp_path / "keras")
    assert ours == [one for one in theirs if "vs_iterations" not in one[1]]
    assert {name for name, *_ in ours} == {"train", "validation"}
    assert ("train", "epoch_learning_rate", 1, 0.5) in ours


def test_a_limit_on_the_size_omits_an_epoch_and_the_training_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = TensorBoard(tmp_path)
    fit([logs], epochs=1)
    before = read_scalars(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, hard))
    try:
        fit([logs], epochs=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "TensorBoard logs of epoch 3" in capsys.readouterr().err
    assert set(before) <= set(read_scalars(tmp_path))  # no record was cut off
