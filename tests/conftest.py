"""What several tests need: folders of small images, projects, and a way to run a project's scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from digits import Delivered, deliver, train
from hypothesis import settings
from PIL import Image

# TensorFlow reads it when it is first imported, in whichever test that is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# A machine that is busy with other work makes no property wrong.
settings.register_profile("kerakit", deadline=None)
settings.load_profile("kerakit")

PROJECT = Path(__file__).parents[1] / "src" / "kerakit" / "project"


def write_image(path: Path, seed: int, size: tuple[int, int] = (20, 16), hue: int = 0) -> Path:
    """Write a picture of random blocks on a ground whose colour tells the class."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 60, (4, 4, 3)) + np.eye(3, dtype=int)[hue % 3] * 150
    Image.fromarray(blocks.astype(np.uint8)).resize(size, Image.Resampling.NEAREST).save(path)
    return path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder with two classes of 30 images each."""
    folder = tmp_path / "photos"
    for hue, name in enumerate(("apple", "pear")):
        for i in range(30):
            write_image(folder / name / f"{i:02d}.png", seed=1000 * hue + i, hue=hue)
    return folder


@dataclass
class Result:
    """How a script ended."""

    code: int
    out: str
    err: str


@dataclass
class Project:
    """A project in a folder of its own, run as its owner would."""

    path: Path

    def run(self, script: str, *args: object, timeout: float = 300) -> Result:
        done = subprocess.run(
            [sys.executable, script, *map(str, args)],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def train(self, *args: object, save_to: object = "progress/test") -> Result:
        small = ("--model", "small_cnn", "--input_size", "16,12", "--num_epochs", 1)
        return self.run("train.py", "--save_to", save_to, *small, *args)

    def deploy(self, *args: object, save_to: object = "deploy/test") -> Result:
        return self.run("deploy.py", "--read_from", "progress/test", "--save_to", save_to, *args)


@pytest.fixture
def project(tmp_path: Path, photos: Path) -> Project:
    """A new project whose data are ``photos``."""
    made = subprocess.run(
        [sys.executable, "-m", "kerakit.cli", "new", str(tmp_path / "project"), "--data", str(photos)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with one short run in progress/test. Read it only, or copy it: see ``trained``."""
    folder = tmp_path_factory.mktemp("trained")
    for hue, name in enumerate(("apple", "pear")):
        for i in range(30):
            write_image(folder / "photos" / name / f"{i:02d}.png", seed=1000 * hue + i, hue=hue)
    command = [sys.executable, "-m", "kerakit.cli", "new", str(folder / "project"), "--data", str(folder / "photos")]
    subprocess.run(command, check=True, capture_output=True)
    result = Project(folder / "project").train("--jitter", "--num_epochs", 4, "--batch_size", 4)
    assert result.code == 0, result.err
    return folder / "project"


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Project:
    """A copy of a project with one short run in progress/test."""
    shutil.copytree(trained_once, tmp_path / "trained")
    return Project(tmp_path / "trained")


@pytest.fixture(scope="session")
def delivered_digits(tmp_path_factory: pytest.TempPathFactory) -> Delivered:
    """A classifier of digits, delivered as int8. Read its folder only, or copy it."""
    return deliver(train(), tmp_path_factory.mktemp("digits") / "deploy")


@pytest.fixture
def executable(tmp_path: Path) -> Callable[[str], Path]:
    """Make a Python script that can be run as a program."""

    def make(source: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
        path.chmod(0o755)
        return path

    return make
