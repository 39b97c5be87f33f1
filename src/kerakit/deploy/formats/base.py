"""The protocol of an export format."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.quantization.ranges import ActivationStats, collect_ranges
from kerakit.extras import install_command, is_installed
from kerakit.inference import PredictFn

if TYPE_CHECKING:
    import keras

    from kerakit.deploy.quantization.calibration import Calibration
    from kerakit.tasks.base import Task

FLOAT32_FILE = "model_float32.tflite"
"""TensorFlow Lite file in float32, the source of quantized ones."""
TASK = "task.json"
"""File beside the models: the values of ``Task.spec``, and the names of several outputs."""
LABELS = "labels.txt"
"""File beside the models: the class names, one per line, in the order of the outputs."""


class FormatUnavailable(Exception):  # noqa: N818 - not an error: the format is skipped
    """A format cannot be written on this machine; the message has the reason and an alternative."""


@dataclass(frozen=True)
class EdgeTpuOptions:
    """Options of the Edge TPU compiler.

    Attributes:
        compiler: path of Google's ``edgetpu_compiler``; None: the one on the PATH.
        min_runtime: oldest Edge TPU runtime that the file must run on, 10 to 14; None: the
            compiler's default.
        compiled: a file that the compiler wrote on another machine, to be verified instead of
            compiling here.

    >>> EdgeTpuOptions(min_runtime=13).compiled is None
    True
    """

    compiler: Path | None = None
    min_runtime: int | None = None
    compiled: Path | None = None


@dataclass(frozen=True)
class ExportSource:
    """Input of every format.

    Attributes:
        model: the trained model; its input is pixels (n, height, width, 3), 0 to 255.
        calibration: images that calibrate the activation ranges.
        folder: where files are written; a format may read the file of another one here.
        edgetpu: options of the Edge TPU compiler.
        task: the task whose labels TensorFlow Lite files contain; None: no labels.
        samples: held-out images, uint8 (n, height, width, 3).
    """

    model: keras.Model
    calibration: Calibration
    folder: Path
    edgetpu: EdgeTpuOptions = EdgeTpuOptions()
    task: Task | None = None
    samples: NDArray[np.uint8] | None = None

    @cached_property
    def activation_stats(self) -> ActivationStats:
        """Statistics of the float32 file's activations, measured once per export."""
        content = (self.folder / FLOAT32_FILE).read_bytes()
        return collect_ranges(content, self.calibration.images())


@dataclass(frozen=True)
class WrittenFormat:
    """Output of a format.

    Attributes:
        path: the exported file or folder.
        details: facts for the report, as JSON values.
        half: the same file made with half of the calibration images, for comparison only.
    """

    path: Path
    details: dict[str, Any] = field(default_factory=dict)
    half: Path | None = None


class Format(Protocol):
    """An export format: writes a file, and loads it with its own runtime.

    A format that is converted from the file of another one has an attribute ``requires``: the name
    of that file. A format that this machine or this model may rule out has a method
    ``check(source)``, which is called before any work and raises like ``write``. One that is not
    evaluated here has an attribute ``untested``: the remark in the report.

    Attributes:
        name: as in --formats.
        file: name of its file, or of its folder if it has several files.
    """

    name: str
    file: str

    def write(self, source: ExportSource) -> WrittenFormat:
        """Write ``source.folder / self.file``.

        Raises:
            FormatUnavailable: this machine lacks a tool that the format needs.
            JobError: the export failed.
        """

    def load(self, path: Path, names: tuple[str, ...] = ()) -> PredictFn | None:
        """Load the file; None if it runs only on a device that this machine lacks.

        Args:
            path: path of the file.
            names: names of several outputs, in the order of the file: see ``output_names``.

        Raises:
            JobError: the runtime rejects the file.
        """


def require_packages(extra: str, *packages: str) -> None:
    """Raise FormatUnavailable unless ``packages``, which are in ``extra``, are installed."""
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise FormatUnavailable(f"needs {' and '.join(missing)}: {install_command(extra)}")
