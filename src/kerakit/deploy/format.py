"""What a format of delivery is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

LABELS = "labels.txt"
"""Beside the models: the class names, a line each, in the order of the outputs."""

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 images (n, height, width, 3) to float32 scores (n, classes)."""


class Skipped(Exception):  # noqa: N818 - not an error: the format was left out, and this says why
    """Raised by a format that cannot be made here; its text says why, and what to do elsewhere."""


@dataclass(frozen=True)
class Source:
    """What every format is made from.

    Attributes:
        model: the trained ``keras.Model``; takes raw pixels, (n, height, width, 3), 0 to 255.
        calibration: returns a new iterator over the calibration images, uint8 (height, width, 3).
        folder: where the files are written; a format may read what another one wrote there.
        edgetpu_compiler: Google's compiler, or None for the one on the PATH.
    """

    model: Any
    calibration: Callable[[], Iterator[NDArray[np.uint8]]]
    folder: Path
    edgetpu_compiler: Path | None = None


@dataclass(frozen=True)
class Written:
    """A delivered file, and what its format found out about it, for the report."""

    path: Path
    details: dict[str, Any] = field(default_factory=dict)


class Format(Protocol):
    """One format: how to write it, and how its users load it."""

    name: str
    file: str

    def write(self, source: Source) -> Written:
        """Write ``source.folder / self.file``. Raises Skipped, or JobError with what failed."""

    def load(self, path: Path) -> Predict | None:
        """Load the file as its users do; None where it runs only on a device that is not here."""
