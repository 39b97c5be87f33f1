"""Each option of the project's ``callbacks.get`` does its work, under a real fit."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from projects import Project

FIT = """
import sys, keras, numpy as np
import callbacks
options = {options}
callbacks.PATIENCE = 2
keras.utils.set_random_seed(0)
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
x, y = np.eye(4, dtype="float32"), np.array([0, 1, 0, 1])
history = model.fit(x, y, validation_data=(x, 1 - y), epochs=8, verbose=0, callbacks=callbacks.get("run", **options))
print("EPOCHS", len(history.epoch))
"""


def fit(project: Project, **options: bool) -> tuple[int, str]:
    source = FIT.format(options=options)
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def weights(project: Project) -> list[str]:
    return sorted(p.name for p in (project.path / "run" / "ckpt").glob("*.h5"))


def test_all_of_them(project: Project) -> None:
    """Validation gets worse from the first epoch on, so that epochs 1 to 3 happen and the best are all of them."""
    code, said = fit(project)
    assert code == 0, said
    assert "EPOCHS 3" in said
    assert len(weights(project)) == 3
    assert any((project.path / "run" / "logs").rglob("events*"))


def test_none_of_them(project: Project) -> None:
    off = {
        "checkpoint": False,
        "tensorboard": False,
        "limit_checkpoints": False,
        "early_stopping": False,
    }
    code, said = fit(project, **off)
    assert code == 0, said
    assert "EPOCHS 8" in said
    assert weights(project) == []
    assert not any((project.path / "run" / "logs").rglob("events*"))
    assert len((project.path / "run" / "history.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize("limit", [True, False])
def test_the_limit(project: Project, limit: bool) -> None:
    code, said = fit(project, limit_checkpoints=limit, early_stopping=False, tensorboard=False)
    assert code == 0, said
    expected = [1, 2, 3] if limit else list(range(1, 9))
    assert weights(project) == [f"epoch-{epoch:04d}.weights.h5" for epoch in expected]


def test_a_loss_that_is_no_number_stops_the_training(project: Project) -> None:
    result = project.train("--learning_rate", "1e30", "--num_epochs", 2, "--batch_size", 5)
    assert result.code == 1
    assert re.search(
        r"the loss became (nan|inf) at batch \d+ of epoch 1, with the images \S+, \S+, \S+ and 2 more",
        result.err,
    )
    assert "--learning_rate" in result.err


def test_overwriting_must_be_asked_for(project: Project) -> None:
    assert fit(project, early_stopping=False)[0] == 0
    Path(project.path / "run" / "config.json").write_text('{"kerakit": "0"}')
    code, said = fit(project)
    assert code == 1
    assert "--overwrite" in said
    assert len(weights(project)) == 3
    assert fit(project, overwrite=True)[0] == 0
