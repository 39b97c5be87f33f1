"""Each option of the project's ``callbacks.get`` has its effect, under a real fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import keras
import numpy as np
import pytest

from kerakit import Run, UserError
from projects import Project


@pytest.fixture
def fit(
    template: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., int]:
    """Trains a small model whose validation loss rises from the first epoch on."""
    callbacks = template("callbacks")
    monkeypatch.setattr(callbacks, "PATIENCE", 2)

    def train(**options: bool) -> int:
        keras.utils.set_random_seed(0)
        layers = [keras.Input((4,)), keras.layers.Dense(2, activation="softmax")]
        model = keras.Sequential(layers)
        model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
        x, y = np.eye(4, dtype="float32"), np.array([0, 1, 0, 1])
        cb = callbacks.get(tmp_path / "run", **options)
        history = model.fit(x, y, validation_data=(x, 1 - y), epochs=8, verbose=0, callbacks=cb)
        return len(history.epoch)

    return train


def saved(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "run" / "ckpt").glob("*.h5"))


def test_all_of_them(fit: Callable[..., int], tmp_path: Path) -> None:
    assert fit() == 3
    assert len(saved(tmp_path)) == 3
    assert any((tmp_path / "run" / "logs").rglob("events*"))
    assert (tmp_path / "run" / "plots" / "curves.png").stat().st_size > 1000


def test_none_of_them(fit: Callable[..., int], tmp_path: Path) -> None:
    off = ("checkpoint", "tensorboard", "limit_checkpoints", "early_stopping")
    assert fit(**dict.fromkeys(off, False)) == 8
    assert saved(tmp_path) == []
    assert not any((tmp_path / "run" / "logs").rglob("events*"))
    assert len((tmp_path / "run" / "history.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize("limit", [True, False])
def test_the_limit(fit: Callable[..., int], tmp_path: Path, limit: bool) -> None:
    fit(limit_checkpoints=limit, early_stopping=False, tensorboard=False)
    expected = [1, 2, 3] if limit else range(1, 9)
    assert saved(tmp_path) == [f"epoch-{epoch:04d}.weights.h5" for epoch in expected]


def test_an_existing_run_needs_overwrite(fit: Callable[..., int], tmp_path: Path) -> None:
    fit(early_stopping=False, tensorboard=False)
    Run(tmp_path / "run").config.write_text('{"kerakit": "0"}')
    before = saved(tmp_path)
    with pytest.raises(UserError, match="--overwrite"):
        fit(tensorboard=False)
    assert saved(tmp_path) == before
    assert fit(overwrite=True, tensorboard=False) == 3


def test_a_nan_loss_stops_the_training_and_names_the_images(project: Project) -> None:
    result = project.train("--learning_rate", "1e30", "--num_epochs", 2, "--batch_size", 5)
    assert result.code == 1
    assert re.search(
        r"loss is (nan|inf) at batch \d+ of epoch 1.*(apple|pear)/\d+\.png", result.err
    )
    assert "--learning_rate" in result.err
