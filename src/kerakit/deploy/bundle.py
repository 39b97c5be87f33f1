"""The pack for a device: one folder to copy there, with a program that needs nothing of Kerakit and checks itself.

What it holds beside the models is in ``device/``, as it is copied.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kerakit.console import redirect_native_output
from kerakit.deploy.device import classify
from kerakit.deploy.edgetpu.compiler import EDGETPU
from kerakit.deploy.formats.base import LABELS
from kerakit.deploy.formats.tflite import INT8
from kerakit.errors import JobError

FOLDER = "device"
GOLDEN = "golden.npz"
PROGRAM, README = "classify.py", "README.txt"
FILES = (INT8.file, EDGETPU.file, LABELS, GOLDEN, PROGRAM, README)
"""All that a pack may hold."""

TIMEOUT_S = 300
"""How long the pack's check of itself may take."""


def write_pack(folder: Path, images: NDArray[np.uint8]) -> None:
    """Write the pack for the int8 model that lies in ``folder`` with its labels, and have it check itself.

    Args:
        folder: holds ``model.tflite``, ``labels.txt`` and perhaps ``model_edgetpu.tflite``; gets FOLDER.
        images: uint8 (n, height, width, 3), held out; with their scores they become the golden file.

    Raises:
        JobError: the program does not find again, in a process of its own, what was written.
    """
    pack = folder / FOLDER
    pack.mkdir()
    for name in FILES:
        source = (
            Path(classify.__file__).parent / name if name in (PROGRAM, README) else folder / name
        )
        if source.exists():
            shutil.copyfile(source, pack / name)
    with redirect_native_output():
        model = classify.Classifier(pack / INT8.file)
    scores = np.stack([model.run(image)[0] for image in images])
    labels = (pack / LABELS).read_text(encoding="utf-8")
    digest, runtime = model.sha256, model.runtime
    np.savez_compressed(
        pack / GOLDEN, images=images, scores=scores, sha256=digest, runtime=runtime, labels=labels
    )
    try:
        _refuse_other_scores([sys.executable, str(pack / PROGRAM), "--check"])
    except JobError:
        shutil.rmtree(pack)
        raise


def _refuse_other_scores(command: list[str]) -> None:
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
        raise JobError(f"the device's program did not check itself within {TIMEOUT_S} s.") from None
    if done.returncode:
        raise JobError(
            f"the device's program failed its own check: {(done.stdout + done.stderr).strip()}"
        )
