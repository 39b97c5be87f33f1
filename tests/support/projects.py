"""Generated projects for the tests, and small images."""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kerakit import cli
from kerakit.signals import TERMINATION

if TYPE_CHECKING:
    import pytest

PROJECT = Path(__file__).parents[2] / "src" / "kerakit" / "project"
"""The template."""

HIDE_TENSORFLOW = """
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *args: (
    None if name.partition(".")[0] == "tensorflow" else find(name, *args)
)
"""
"""Content of a sitecustomize.py."""

FOCAL_LOSS = '''

def focal(targets, predictions):
    """Focal loss (Lin et al., 2017, arXiv:1708.02002)."""
    index = keras.ops.cast(targets, "int32")[:, None]
    of_class = keras.ops.take_along_axis(predictions, index, axis=1)[:, 0]
    return -((1 - of_class) ** 2) * keras.ops.log(of_class + 1e-7)


LOSSES["focal"] = focal
'''
"""An owner's addition to loss.py."""


TINY = '''"""A model of a few weights, which is built and trained in no time."""

import keras
from keras import layers


def construct(input_shape, task):
    """Return the model."""
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU(6)(x)
    x = layers.Conv2D(8, 3, strides=2, padding="same", activation="relu")(x)
    return keras.Model(image, task.head(x))
'''


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 16), hue: int = 0) -> Path:
    """Write an image of random blocks whose ground color is that of its class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 60, (4, 4, 3)) + np.eye(3, dtype=int)[hue % 3] * 150
    Image.fromarray(blocks.astype(np.uint8)).resize(size, Image.Resampling.NEAREST).save(path)
    return path


def write_photos(folder: Path) -> Path:
    """Write two classes of 30 images each."""
    for hue, name in enumerate(("apple", "pear")):
        for i in range(30):
            write_image(folder / name / f"{i:02d}.png", seed=1000 * hue + i, hue=hue)
    return folder


@dataclass
class Result:
    """Exit code and output of a script."""

    code: int
    out: str
    err: str


@dataclass
class Project:
    """A project in a folder of its own, run as its owner would."""

    path: Path

    def run(
        self, script: str, *args: object, environment: Mapping[str, str] = os.environ
    ) -> Result:
        done = subprocess.run(
            [sys.executable, script, *map(str, args)],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            env=environment,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def call(self, script: str, *args: object) -> Result:
        """Run a script in this process, where TensorFlow is imported once for all tests."""
        import keras

        from kerakit.locks import release_all
        from kerakit.script import exit_on_error

        out, err = io.StringIO(), io.StringIO()
        code: object = 0
        keras.backend.clear_session()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_restored())
            stack.enter_context(contextlib.redirect_stdout(out))
            stack.enter_context(contextlib.redirect_stderr(err))
            os.chdir(self.path)
            sys.argv, sys.path[:0] = [script, *map(str, args)], [str(self.path)]
            try:
                try:
                    runpy.run_path(script, run_name="__main__")
                except (Exception, KeyboardInterrupt) as error:
                    exit_on_error(type(error), error, error.__traceback__)
                    code = 1
            except SystemExit as stop:
                code = stop.code or 0
            finally:
                release_all()
        assert isinstance(code, int), code
        return Result(code, out.getvalue(), err.getvalue())

    def train(self, *args: object, save_to: object = "progress/test") -> Result:
        """Train the model "tiny" where the project has it, which takes half the time."""
        model = "tiny" if (self.path / "models" / "tiny.py").exists() else "small_cnn"
        small = ("--model", model, "--input_size", "16,12", "--num_epochs", 1)
        return self.call("train.py", "--save_to", save_to, *small, *args)

    def deploy(self, *args: object, save_to: object = "deploy/test") -> Result:
        flags = ("--read_from", "progress/test", "--save_to", save_to)
        return self.call("deploy.py", *flags, *args)


@contextlib.contextmanager
def _restored() -> Iterator[None]:
    """Restore what a script changes in its process."""
    folder, argv, path, hook = Path.cwd(), sys.argv, list(sys.path), sys.excepthook
    environment = dict(os.environ)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, *TERMINATION)}
    _forget_template()
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        os.chdir(folder)
        sys.argv, sys.path[:], sys.excepthook = argv, path, hook
        os.environ.clear()
        os.environ.update(environment)
        _forget_template()


def new_project(path: Path, data: Path) -> Project:
    """Run ``kerakit new`` for ``data``."""
    command = [sys.executable, "-m", "kerakit", "new", str(path), "--data", str(data)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return Project(path)


def make_task_project(folder: Path, task: str, count: int) -> Project:
    """Return a new project of a task with a small sample dataset."""
    from kerakit.data.ready import write_ready_data
    from kerakit.update import create_project

    create_project(folder, task)
    data = write_ready_data(task, folder / "data", count)
    config = folder / "config.py"
    place = "".join(f' / "{name}"' for name in data.relative_to(folder).parts)
    text = config.read_text()
    start = text.index("DATA_DIR = ")
    end = text.index("\n", start)
    config.write_text(f"{text[:start]}DATA_DIR = Path(__file__).parent{place}{text[end:]}")
    return Project(folder)


def edit(path: Path, old: str, new: str) -> None:
    """Replace the only ``old`` in a file."""
    text = path.read_text()
    assert text.count(old) == 1, f"{old!r} in {path}"
    path.write_text(text.replace(old, new))


def copy_project(source: Path, path: Path, photos: Path) -> Project:
    """Copy a project, and let its DATA_DIR be ``photos``."""
    shutil.copytree(source, path)
    config = path / "config.py"
    old = next(line for line in config.read_text().splitlines() if line.startswith("DATA_DIR = "))
    config.write_text(config.read_text().replace(old, f"DATA_DIR = Path({str(photos)!r})"))
    return Project(path)


@contextlib.contextmanager
def template_modules(project: Path = PROJECT) -> Iterator[Callable[[str], ModuleType]]:
    """Yield a function that imports modules of a project; they are forgotten at the end."""
    sys.path.insert(0, str(project))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(project))
        _forget_template()


def _forget_template() -> None:
    """Remove a project's modules from ``sys.modules``: each project has its own."""
    own = {path.stem for path in PROJECT.glob("*.py")} | {"models"}
    for name in [name for name in sys.modules if name.partition(".")[0] in own]:
        del sys.modules[name]


def run_command(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], folder: Path, *words: object
) -> Result:
    """Run a command of ``kerakit`` in this process and in a folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["kerakit", *map(str, words)])
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    return Result(code, *capfd.readouterr())
