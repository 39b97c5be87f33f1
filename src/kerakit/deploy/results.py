"""What was delivered, as JSON and as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from kerakit import machine
from kerakit.console import print_table
from kerakit.deploy.gate import Answers, Measured
from kerakit.files import write_json

_PACKAGES = ("kerakit", "keras", "ai-edge-litert", "numpy")


@dataclass
class Row:
    """One format in the report.

    Attributes:
        format: its name, as in --formats.
        file: the name of its file, or of its folder.
        status: "delivered", "skipped" (left out, see reason) or "failed".
        reason: why it was skipped or failed, or what could not be checked.
        measured: what its scores on the held-out images say; None where it was not run.
        latency_ms: median time for one image on this machine's CPU, in milliseconds: on one thread, or with TensorFlow (h5,
            keras, saved_model) on as many as it takes.
        bytes: size of the file or of all files in the folder.
        sha256: of the file's bytes, or of its folder as ``kerakit.files.sha256`` defines it.
        details: what else its format found out.
        answers: what it answered; None where it was not run. For the page, not for the report.
    """

    format: str
    file: str
    status: Literal["delivered", "skipped", "failed"]
    reason: str = ""
    measured: Measured | None = None
    latency_ms: float | None = None
    bytes: int | None = None
    sha256: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
    answers: Answers | None = None


def write_report(path: Path, rows: list[Row], facts: dict[str, Any]) -> dict[str, Any]:
    """Write ``facts``, the versions and the machine, and one entry for each format; return what was written."""
    entries = [asdict(replace(row, answers=None)) for row in rows]
    for entry in entries:
        del entry["answers"]
    report = {**machine.describe_machine(_PACKAGES), **facts, "formats": entries}
    write_json(path, report)
    return report


def show(rows: list[Row], held_out_images: int) -> None:
    """Print the table of formats, and below it the reasons for what is missing."""
    title = f"Measured on {held_out_images} held-out image{'s' * (held_out_images != 1)}"
    if seen := next((row.measured for row in rows if row.measured), None):
        title += f", of which the trained model gets {seen.accuracy + seen.drop:.2%} right"
    table = Table(title=title, title_justify="left")
    for heading in ("format", "file", "right", "as Keras", "ms", "KiB", "sha256"):
        table.add_column(
            heading,
            justify="left" if heading in ("format", "file", "sha256") else "right",
            no_wrap=True,
        )
    for row in rows:
        seen = row.measured
        measured = (
            [_percent(seen.accuracy), _percent(seen.agreement), _number(row.latency_ms)]
            if seen
            else [""] * 3
        )
        if row.status == "delivered":
            table.add_row(
                row.format,
                row.file,
                *measured,
                f"{(row.bytes or 0) / 1024:,.0f}",
                (row.sha256 or "")[:8],
            )
        else:
            table.add_row(row.format, row.file, row.status)
    print_table(table)
    for row in rows:
        if row.measured is not None and not row.measured.passed:
            print(
                f"{row.format} is BELOW THE GATE: it loses {row.measured.drop:.2%} of the held-out images."
            )
        if row.reason:
            print(f"{row.format} {row.status}: {row.reason}")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{value:.2%}"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
