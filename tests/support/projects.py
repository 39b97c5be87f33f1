"""Generated projects for the tests, and small images."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

PROJECT = Path(__file__).parents[2] / "src" / "kerakit" / "project"
"""The template."""


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

    def run(self, script: str, *args: object, timeout: float = 300) -> Result:
        done = subprocess.run(
            [sys.executable, script, *map(str, args)],
            cwd=self.path,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env=os.environ,
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def train(self, *args: object, save_to: object = "progress/test") -> Result:
        small = ("--model", "small_cnn", "--input_size", "16,12", "--num_epochs", 1)
        return self.run("train.py", "--save_to", save_to, *small, *args)

    def deploy(self, *args: object, save_to: object = "deploy/test") -> Result:
        return self.run("deploy.py", "--read_from", "progress/test", "--save_to", save_to, *args)


def new_project(path: Path, data: Path) -> Project:
    """Run ``kerakit new`` for ``data``."""
    command = [sys.executable, "-m", "kerakit", "new", str(path), "--data", str(data)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return Project(path)


def copy_project(source: Path, path: Path, photos: Path) -> Project:
    """Copy a project, and let its DATA_DIR be ``photos``."""
    import shutil

    shutil.copytree(source, path)
    config = path / "config.py"
    old = next(line for line in config.read_text().splitlines() if line.startswith("DATA_DIR = "))
    config.write_text(config.read_text().replace(old, f"DATA_DIR = Path({str(photos)!r})"))
    return Project(path)
