"""The command ``kerakit web``: the page of an export that exists already."""

from __future__ import annotations

import contextlib
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy import bundle
from kerakit.deploy.folder import ExportFolder
from kerakit.deploy.formats.base import TASK
from kerakit.deploy.formats.tflite import FLOAT32, INT8
from kerakit.deploy.predict import EXPORTS, load_exported
from kerakit.deploy.web.demo import FILE, is_demo, write_demo
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.device.preprocessing import Preprocessing
from kerakit.errors import UserError
from kerakit.files import read_json
from kerakit.tasks import Classification
from kerakit.tflite.process import ModelProcess


def add_demo(path: Path) -> tuple[Path, str]:
    """Write the page of an exported model beside it; an earlier page is replaced.

    Args:
        path: export folder, or .tflite file beside a labels.txt.

    Returns:
        Path of the page; what was assumed about the model's input, "" if nothing.

    Raises:
        UserError: no model, or one that a browser cannot run; or a file of this name that is not
            such a page.
    """
    if path.is_dir() and not (path / INT8.file).exists() and (path / FLOAT32.file).exists():
        path /= FLOAT32.file
    file = path / INT8.file if path.is_dir() else path
    page = file.with_name(FILE)
    if page.exists() and not is_demo(page):
        raise UserError(f"{page} was not written by Kerakit and is kept. Move it.")
    # Models of other tools may have a config.json beside them, too.
    if (path / "config.json").is_file() and not any(path.glob("*.tflite")):
        raise UserError(
            f"{path} is a run. Export it first: python deploy.py --read_from {path} --save_to "
            "FOLDER --formats web"
        )
    exported = load_exported(path, EXPORTS)
    task: dict[str, Any] = {"task": "classification", "outputs": []}
    if file.with_name(TASK).exists():
        task = read_json(file.with_name(TASK), dict)
    if isinstance(exported.task, Classification):
        task["classes"] = list(exported.task.class_names)  # labels.txt may be translated
    preprocessing = Preprocessing.read(file.with_name(PREPROCESSING))
    images = _held_out_images(file)
    _check_run(file)
    with ExportFolder(file.parent).adding(page):
        write_demo(page, file, task, preprocessing, images)
    return page, exported.assumption


def _check_run(file: Path) -> None:
    """Run the model once in a process of its own, which a damaged file may end."""
    process = ModelProcess()
    try:
        width, height = process.load(file.read_bytes()).input_size
        process.predict(np.zeros((1, height, width, 3), np.uint8))
    except UserError as error:
        raise UserError(f"cannot use {file}: {error}") from None


def _held_out_images(file: Path) -> NDArray[np.uint8] | None:
    """Return the images of the device bundle, if there is one."""
    golden = file.parent / bundle.FOLDER / bundle.GOLDEN
    damaged = (OSError, ValueError, KeyError, zipfile.BadZipFile)
    # NumPy leaves a damaged file open that it opened itself.
    with contextlib.suppress(*damaged), golden.open("rb") as stream:
        images: NDArray[np.uint8] = np.load(stream, allow_pickle=False)["images"]
        return images
    return None
