"""The device bundle: a folder to copy to a device, with a program that verifies itself there.

Its Python files are copies of those in ``kerakit/device``; they do not need Kerakit.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit import device
from kerakit.data.shards.member import Member
from kerakit.deploy import model_page
from kerakit.deploy.formats.base import LABELS, TASK
from kerakit.deploy.formats.edgetpu import EDGETPU
from kerakit.deploy.formats.tflite import INT8
from kerakit.device import predict as program
from kerakit.device.decoders import TASKS, task_files
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.device.preprocessing import Preprocessing
from kerakit.errors import ImageError, JobError
from kerakit.files import read_json
from kerakit.tflite.runtime import start_interpreter, stored_predict_fn

FOLDER = "device"
GOLDEN = "golden.npz"
PROGRAM = "predict.py"
_COPIED = (PROGRAM, "captions.py", "decoders.py", "photo.py", "preprocessing.py", "README.txt")
_DATA = (INT8.file, EDGETPU.file, LABELS, TASK, PREPROCESSING)
_OLDER = ("classify.py",)
_MODULES = tuple(f"{name}.py" for name in (*TASKS, "colors"))
FILES = (*_DATA, GOLDEN, *model_page.FILES, *_COPIED, *_MODULES, *_OLDER)
"""Names of all files that a bundle may have, of earlier versions, too."""

TIMEOUT_S = 300
"""Limit for the self-check, in seconds."""


def write_bundle(folder: Path, images: NDArray[np.uint8]) -> None:
    """Write the device bundle of an int8 model, and run its self-check.

    Args:
        folder: holds ``model.tflite``, ``labels.txt``, ``task.json`` and, optionally,
            ``preprocessing.json`` and ``model_edgetpu.tflite``; FOLDER is created in it.
        images: held-out images, uint8 (n, height, width, 3), for the golden file.

    Raises:
        JobError: the program, in a process of its own, does not reproduce the golden outputs.
    """
    bundle = folder / FOLDER
    bundle.mkdir()
    for name in _DATA:
        if (folder / name).exists():
            shutil.copyfile(folder / name, bundle / name)
    task = read_json(folder / TASK, dict)
    for name in (*_COPIED, *task_files(task)):
        shutil.copyfile(Path(device.__file__).parent / name, bundle / name)
    content = (bundle / INT8.file).read_bytes()
    outputs = stored_predict_fn(start_interpreter(content, INT8.file))(images)
    runtime = f"ai_edge_litert {version('ai-edge-litert')} on {platform.machine()}"
    np.savez_compressed(
        bundle / GOLDEN,
        images=images,
        **dict[str, Any]((f"output_{i}", values) for i, values in enumerate(outputs)),
        sha256=hashlib.sha256(content).hexdigest(),
        runtime=runtime,
        labels=(bundle / LABELS).read_text(encoding="utf-8"),
        preprocessing=repr(Preprocessing.read(bundle / PREPROCESSING)),
    )
    first = [values[0] for values in outputs]
    model_page.write_model_page(bundle, task, images[0], first, runtime)
    try:
        _verify([sys.executable, "-B", str(bundle / PROGRAM), "--check"])
    except JobError:
        shutil.rmtree(bundle)
        raise


def read_as_device(
    path: Path | Member, input_size: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Read an image file like the program of the device bundle, uint8 (height, width, 3).

    Raises:
        ImageError: the program cannot read it.
    """
    if isinstance(path, Member):  # the program reads files
        with NamedTemporaryFile(suffix=path.suffix) as file:
            file.write(path.read_bytes())
            file.flush()
            return _read_file(Path(file.name), path, input_size, preprocessing)
    return _read_file(path, path, input_size, preprocessing)


def _read_file(
    file: Path, path: Path | Member, input_size: tuple[int, int], preprocessing: Preprocessing
) -> NDArray[np.uint8]:
    """Read a file; an error names ``path``."""
    try:
        pixels: NDArray[np.uint8] = program.read_photo(
            file, input_size[1], input_size[0], preprocessing
        )
    except program.InputError as error:
        prefix = f"cannot use {program.printable(file)}: "
        raise ImageError(path, str(error).removeprefix(prefix)) from None
    return pixels


def _verify(command: list[str]) -> None:
    try:
        done = subprocess.run(  # noqa: S603 - our own program
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=TIMEOUT_S,
        )
    except subprocess.TimeoutExpired:
        raise JobError(f"the device bundle's self-check took more than {TIMEOUT_S} s.") from None
    if done.returncode:
        output = (done.stdout + done.stderr).strip()
        raise JobError(f"the device bundle failed its self-check: {output}")
