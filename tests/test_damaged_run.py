"""Damaged files of a run and of an export: each call succeeds or ends in an error message."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import keras
import numpy as np
import pytest

from kerakit import KerakitError, Run, UserError, load_weights
from kerakit.data.recorded import _read_split
from kerakit.deploy import ExportFolder
from kerakit.deploy.predict import _check_outputs, _check_values, _read_task
from kerakit.inference import name_outputs
from kerakit.tasks import (
    Classification,
    MultiLabel,
    MultiTask,
    Regression,
    Segmentation,
    Task,
)
from kerakit.training.page import write_page
from mutations import mutate

VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 10**40, 1.5, "", "x", "../x", "/etc/passwd", "a\0b", "\udcff", "\u202e"),
    *([], [[]], {}, {"a": {}}, [None], [1] * 5_000, ["x"] * 500, {"sha256": 3}),
)
"""Values of other types, and of extreme sizes."""

TEXTS = (
    "",
    "null",
    "[]",
    "{}",
    "[" * 100_000,
    '{"a":' * 100_000,
    "[" * 900 + "]" * 900,
    '{"save_to": ' + "9" * 5_000 + "}",
    "[" + "9" * 5_000 + "]",
    '{"a": NaN}',
    "[Infinity]",
    '{"a": 1e999}',
    '{"a": 1, "a": 2}',
    "\ufeff{}",
    '{"a": "\\ud800"}',
    "[{}]",
    '[{"file": "../x", "epoch": 1, "value": 1, "sha256": "x"}]',
)


def replaced(value: Any, rng: random.Random) -> Any:
    """Return a copy of a JSON value with one part of another type, removed or added."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        changed = {**value, key: replaced(value[key], rng)}
        if rng.random() < 0.1:
            del changed[key]
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], replaced(value[at], rng), *value[at + 1 :]]
    return rng.choice(VALUES)


def damages(content: bytes, count: int) -> Iterator[bytes]:
    """Yield ``count`` damaged copies: bytes, cuts, values of other types, extreme texts."""
    yield from (text.encode() for text in TEXTS)
    for seed in range(count - len(TEXTS)):
        rng = random.Random(seed)
        if seed % 3 == 0:
            yield mutate(content + b" " * 80, seed)
            continue
        try:
            yield json.dumps(replaced(json.loads(content), rng)).encode()
        except ValueError:  # a table
            cells = content.decode().split(",")
            cells[rng.randrange(len(cells))] = str(rng.choice(VALUES))
            yield ",".join(cells).encode(errors="surrogatepass")


@pytest.fixture(scope="module")
def model() -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten(), keras.layers.Dense(2)])


@pytest.fixture
def run(tmp_path: Path, model: keras.Model) -> Run:
    run = Run(tmp_path / "run").create()
    run.add_checkpoint(model, 1, 0.5)
    run.add_checkpoint(model, 2, 0.4)
    run.write_history([{"epoch": 1, "loss": 2.0, "val_loss": 0.5}, {"epoch": 2, "loss": 1.0}])
    run.split.write_text("path,split\na/1.png,train\na/2.png,val\n")
    classes = [{"class": "a", "train": 3, "val": 1, "test": 0}]
    report = {
        "created": "2026-01-01T00:00:00+00:00",
        "seconds": 3.5,
        "status": "completed",
        "machine": "x",
        "cpu": "y",
        "cores": 2,
        "versions": {"kerakit": "0.2.0"},
        "monitor": "val_loss",
        "phase_starts": [1, 2],
        "classes": classes,
        "images": {"train": 3, "val": 1, "test": 0},
    }
    run.report.write_text(json.dumps(report))
    metrics = {"accuracy": 0.5, "ece": 0.1}
    evaluation = {"task": "c", "split": "val", "images": 4, "metrics": metrics}
    run.evaluation.write_text(json.dumps(evaluation))
    return run


def read_all(run: Run, trained: type[Any], model: keras.Model) -> None:
    """Call everything that reads a file of a run; errors with a message are permitted."""
    calls: list[Callable[[], Any]] = [
        lambda: trained.read(run.config),
        lambda: load_weights(model, run.path),
        run.read_history,
        lambda: _read_split(run, {"sha256": _digest(run.split)}),
        lambda: Run(run.path).check_new(overwrite=False),
        lambda: ExportFolder(run.path).check_new(overwrite=False),
    ]
    for call in calls:
        with contextlib.suppress(KerakitError):
            call()


def _digest(path: Path) -> str:
    from kerakit.files import sha256

    return sha256(path) if path.is_file() else ""


@pytest.mark.parametrize(
    "name",
    [
        *("config.json", "ckpt/index.json", "history.csv", "split.csv", "report.json"),
        "evaluation.json",
    ],
)
def test_a_damaged_file_is_a_message(
    template: Callable[[str], ModuleType], run: Run, model: keras.Model, name: str
) -> None:
    trained = template("config").TrainConfig
    trained(save_to=run.path, class_names=("a", "b"), phases=("head",)).save(run.config)
    path = run.path / name
    content = path.read_bytes()
    for i, damaged in enumerate(damages(content, 160)):
        path.write_bytes(damaged)
        read_all(run, trained, model)
        if i >= len(TEXTS) and i % 20 == 0:  # drawing takes most of the time
            with contextlib.suppress(KerakitError):
                write_page(run)
    path.unlink()
    path.symlink_to("/dev/zero")
    read_all(run, trained, model)


SPECS: list[tuple[Task, dict[str, tuple[int, ...]]]] = [
    (Classification(["a", "b"]), {"": (1, 2)}),
    (MultiLabel(["a", "b"]), {"": (1, 2)}),
    (Regression(["a"], low=[0], high=[2]), {"": (1, 1)}),
    (Segmentation(["a", "b"]), {"": (1, 8, 8, 2)}),
    (
        MultiTask({"x": Classification(["a", "b"]), "y": Regression(["n"], low=[0], high=[1])}),
        {"x": (1, 2), "y": (1, 1)},
    ),
]


@pytest.mark.parametrize(("task", "outputs"), SPECS, ids=[task.name for task, _ in SPECS])
def test_a_damaged_task_is_a_message(
    task: Task, outputs: dict[str, tuple[int, ...]], tmp_path: Path
) -> None:
    """task.json of an export: what is accepted decodes the outputs of its model."""
    names = [name for name in outputs if name]
    path = tmp_path / "task.json"
    content = json.dumps({**task.spec(), "outputs": names}).encode()
    used = refused = 0
    for damaged in (content, *damages(content, 120)):
        path.write_bytes(damaged)
        try:
            read, found = _read_task(tmp_path / "model.tflite")
            shapes = tuple(outputs.values())
            _check_outputs(tmp_path / "model.tflite", read, found, shapes)
            _check_values(tmp_path / "model.tflite", read, found, shapes)
        except UserError:
            refused += 1
            continue
        used += 1
        values = [np.full(shape, 0.5, np.float32) for shape in shapes]
        read.describe(read.decode(name_outputs(values, found))[0])
    assert used >= 1
    assert refused > 60


def test_a_damaged_checkpoint_is_a_message(run: Run, model: keras.Model, tmp_path: Path) -> None:
    content = run.best().read_bytes()
    path = tmp_path / "damaged.weights.h5"
    before = model.get_weights()
    for seed in range(60):
        path.write_bytes(mutate(content, seed))
        with contextlib.suppress(KerakitError):
            load_weights(model, path)
    model.set_weights(before)
    shutil.copyfile(run.best(), path)
    load_weights(model, path)
    assert np.isfinite(model.get_weights()[0]).all()
