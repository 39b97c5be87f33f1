"""Results of an export, as JSON and as a table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from kerakit.console import print_table
from kerakit.deploy.gate import AccuracyGate, Measurement, describe_drop
from kerakit.files import write_json
from kerakit.machine import describe_machine
from kerakit.report.formatting import format_label, format_percent, format_value
from kerakit.tasks.base import Predictions

_PACKAGES = ("keras", "ai-edge-litert", "numpy")
_TEXT_COLUMNS = ("format", "file", "SHA-256")


@dataclass
class FormatResult:
    """The result of one format.

    Attributes:
        format: its name, as in --formats.
        file: name of its file, or of its folder.
        status: "exported", "skipped" or "failed".
        reason: why it was skipped or failed, or what was not tested.
        measurement: metrics on the held-out images; None if it was not run.
        latency_ms: median latency for one image on this machine's CPU, in milliseconds: on one
            thread, or with TensorFlow (h5, keras, saved_model) on as many as it uses.
        size_bytes: size of the file, or of all files in the folder.
        sha256: SHA-256 of the file, or of the folder as in ``kerakit.files.sha256``.
        details: additional data of the format, as JSON values.
        predictions: on the held-out images; None if it was not run. Not part of the report.

    >>> result = FormatResult("onnx", "model.onnx", "skipped", "needs tf2onnx")
    >>> result.status, result.measurement
    ('skipped', None)
    """

    format: str
    file: str
    status: Literal["exported", "skipped", "failed"]
    reason: str = ""
    measurement: Measurement | None = None
    latency_ms: float | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    predictions: Predictions | None = None

    @property
    def passed(self) -> bool | None:
        """Whether it passed the accuracy gate; None if it was not run."""
        return self.measurement.passed if self.measurement else None

    def to_json(self) -> dict[str, Any]:
        """Return its entry in the report."""
        measured = dict.fromkeys(("metrics", "drop", "agreement", "passed"))
        return {
            "format": self.format,
            "file": self.file,
            "status": self.status,
            "reason": self.reason,
            **(asdict(self.measurement) if self.measurement else measured),
            "latency_ms": self.latency_ms,
            "size_bytes": self.size_bytes,
            "sha256": self.sha256,
            "details": self.details,
        }


def write_report(
    path: Path, results: Sequence[FormatResult], gate: AccuracyGate, info: dict[str, Any]
) -> dict[str, Any]:
    """Write the results with versions, machine and ``info`` as JSON; return the written values."""
    if "run" in info:
        info = {**info, "run": _inside(Path(info["run"]))}
    values = {
        **describe_machine(_PACKAGES),
        **info,
        "task": gate.task.name,
        "held_out_images": gate.count,
        "image_reading": gate.reading,
        "main_metric": gate.main_metric,
        "keras_metrics": gate.keras_metrics,
        "max_drop": gate.max_drop,
        "formats": [result.to_json() for result in results],
    }
    report: dict[str, Any] = _strict(values)
    write_json(path, report)
    return report


def _inside(path: Path) -> str:
    """Return a path within the current folder, or its name: reports are published."""
    absolute, here = path.absolute(), Path.cwd()
    relative = absolute.relative_to(here) if absolute.is_relative_to(here) else Path(path.name)
    return relative.as_posix()


def _strict(value: Any) -> Any:
    """Return a JSON value with null in place of NaN and infinity, which JSON lacks."""
    if isinstance(value, Mapping):
        return {key: _strict(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_results(
    results: Sequence[FormatResult], held_out_images: int, max_drop: float = 0.01
) -> None:
    """Print a table with one row per format, then failures of the accuracy gate and reasons.

    Args:
        results: results of ``export_model``.
        held_out_images: number of images that the metrics were measured on.
        max_drop: as given to ``export_model``.

    >>> skipped = FormatResult("onnx", "model.onnx", "skipped", "needs tf2onnx")
    >>> print_results([skipped], held_out_images=190)
    Evaluated on 190 held-out images...
    onnx skipped: needs tf2onnx
    """
    title = f"Evaluated on {held_out_images:,} held-out image{'s' * (held_out_images != 1)}."
    metric = "accuracy"
    if measurement := next((one.measurement for one in results if one.measurement), None):
        key, value = next(iter(measurement.metrics.items()))
        metric = format_label(key)
        title += f" Keras {metric}: {format_value(value + measurement.drop, key)}"
    headings = ("format", "file", metric, "agreement", "latency (ms)", "size (KiB)", "SHA-256")
    print_table(headings, map(_cells, results), title, left=_TEXT_COLUMNS, no_wrap=True)
    for result in results:
        if result.measurement is not None and not result.measurement.passed:
            drop = describe_drop(metric, result.measurement.drop, max_drop)
            print(f"{result.format} FAILED the accuracy gate: {drop}")
        if result.reason:
            print(f"{result.format} {result.status}: {result.reason}")


def _cells(result: FormatResult) -> list[str]:
    """Return the cells of a format's row; missing ones at the end stay empty."""
    if result.status != "exported":
        return [result.format, result.file, result.status]
    measured = ["", "", ""]
    if result.measurement is not None:
        metric, main = next(iter(result.measurement.metrics.items()))
        measured = [format_value(main, metric), format_percent(result.measurement.agreement), ""]
    if result.latency_ms is not None:
        measured[2] = f"{result.latency_ms:.2f}"
    size = f"{(result.size_bytes or 0) / 1024:,.0f}"
    return [result.format, result.file, *measured, size, (result.sha256 or "")[:8]]
