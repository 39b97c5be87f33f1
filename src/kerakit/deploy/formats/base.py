"""What a format of delivery is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.quantization.calibration import Calibration

LABELS = "labels.txt"
"""Beside the models: the class names, a line each, in the order of the outputs."""

PredictFn = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""uint8 images (n, height, width, 3) to float32 scores (n, classes)."""


class Skipped(Exception):  # noqa: N818 - not an error: the format was left out, and this says why
    """Raised by a format that cannot be made here; its text says why, and what to do elsewhere."""


@dataclass(frozen=True)
class Compiling:
    """How the int8 file is compiled for the Edge TPU.

    Attributes:
        compiler: Google's compiler, or None for the one on the PATH.
        runtime: the oldest version of the Edge TPU's runtime that it must run on, 10 to 14; None for the compiler's choice.
        compiled: what the compiler made of it elsewhere, to be verified instead.
    """

    compiler: Path | None = None
    runtime: int | None = None
    compiled: Path | None = None


@dataclass(frozen=True)
class Source:
    """What every format is made from.

    Attributes:
        model: the trained ``keras.Model``; takes raw pixels, (n, height, width, 3), 0 to 255.
        calibration: the images that ranges are measured on.
        folder: where the files are written; a format may read what another one wrote there.
        edgetpu: how the int8 file is compiled for the Edge TPU.
    """

    model: Any
    calibration: Calibration
    folder: Path
    edgetpu: Compiling = Compiling()


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        path: the delivered file or folder.
        details: what its format found out about it, for the report.
        half: the same made with half of the calibration images, to be compared and not delivered.
    """

    path: Path
    details: dict[str, Any] = field(default_factory=dict)
    half: Path | None = None


class Format(Protocol):
    """One format: how to write it, and how its users load it.

    Attributes:
        name: as in --formats.
        file: the name of its file, or of its folder where it is several.
        made_from: where there is one, the ``file`` of the format that must be written before.
    """

    name: str
    file: str

    def write(self, source: Source) -> Written:
        """Write ``source.folder / self.file``. Raises Skipped, or JobError with what failed."""

    def load(self, path: Path) -> PredictFn | None:
        """Load it as its users do; None where it runs only on a device that is not here. Raises JobError."""


def require(extra: str, *packages: str) -> None:
    """Raise Skipped unless the packages that the extra of this name installs are there."""
    if missing := [name for name in packages if find_spec(name) is None]:
        raise Skipped(f"needs {' and '.join(missing)}: pip install 'kerakit[{extra}]'")
