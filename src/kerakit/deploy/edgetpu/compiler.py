"""Adapter of Google's ``edgetpu_compiler``.

The compiler is a program for Linux on x86-64 that may not be redistributed
(coral.ai/docs/edgetpu/compiler). Options and output are those of version 16.0.384591198.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from kerakit.deploy.edgetpu.compiled import compare_compiled
from kerakit.deploy.edgetpu.loader import COMPILED
from kerakit.deploy.edgetpu.verdicts import MAPPED
from kerakit.errors import JobError, UserError, printable_lines
from kerakit.programs import KEPT_BYTES, run_program

PROGRAM = "edgetpu_compiler"

TIMEOUT_S = 180
"""The compiler's own limit per model, in seconds."""
MAX_ATTEMPTS = 3
"""Number of attempts per model."""
GRACE_S = 30
"""Time beyond the limit for the compiler to report it, in seconds."""

_LONGEST_REASON = 1_000

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_CHIP_BYTES = 8 * 2**20
"""Memory of the chip."""


def find_compiler(path: Path | None) -> Path | None:
    """Return the absolute path of the compiler: ``path``, else the one on the PATH, else None."""
    found = path or shutil.which(PROGRAM)
    return Path(found).resolve() if found else None


def compile_model(
    compiler: Path,
    model: Path,
    folder: Path,
    timeout_s: float = TIMEOUT_S,
    min_runtime: int | None = None,
) -> dict[str, Any]:
    """Compile ``model`` into ``folder``; return the details for the report.

    The compiler is known to fail at random (google-coral/edgetpu#211), so there are up to
    MAX_ATTEMPTS attempts; a timeout is not retried.

    Args:
        compiler: path of the program.
        model: path of an int8 .tflite file.
        folder: for ``<stem>_edgetpu.tflite`` and ``<stem>_edgetpu.log``.
        timeout_s: limit for the compiler, in seconds.
        min_runtime: oldest version of the Edge TPU runtime; None: the compiler's default.

    Raises:
        JobError: the compiler failed, hung, or lacks a sign of success: exit code 0, its closing
            line, a compiled file that belongs to the model and has an Edge TPU operator, a log.
    """
    compiled, log = (
        folder.resolve() / f"{model.stem}_edgetpu{extension}" for extension in (".tflite", ".log")
    )
    # Never --num_segments: it crashes the compiler on files of TensorFlow's converter.
    command = [
        str(compiler),
        "--show_operations",
        "--timeout_sec",
        str(int(timeout_s)),
        "--out_dir",
        str(folder.resolve()),
    ]
    command += [] if min_runtime is None else ["--min_runtime_version", str(min_runtime)]
    for attempt in range(1, MAX_ATTEMPTS + 1):
        for stale in (compiled, log):
            stale.unlink(missing_ok=True)
        code, output = run_program(
            [*command, str(model.resolve())], timeout_s + GRACE_S, "the Edge TPU compiler"
        )
        try:
            _check_success(code, output, compiled, log)
            details = {
                **_parse_output(output, compiled.stat().st_size),
                **_count(compiled, model, log),
            }
            return {**details, "attempts": attempt}
        except JobError as error:
            for partial in (compiled, log):
                partial.unlink(missing_ok=True)
            failure = error
    raise JobError(f"{failure} ({MAX_ATTEMPTS} attempts)")


def _check_success(code: int, output: str, compiled: Path, log: Path) -> None:
    """Raise JobError, with the compiler's reason, unless every sign of success is there."""
    reasons = re.findall(
        r"^(?:ERROR: .*|Compilation failed: .*|Invalid model: .*|Model .*not .*|Internal .*)$",
        output,
        re.MULTILINE,
    )
    reason = (
        " ".join(line.strip() for line in dict.fromkeys(reasons))
        or (output.strip().splitlines() or ["no output"])[-1]
    )[:_LONGEST_REASON]
    if code != 0 or "Compilation failed!" in output:
        how = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        raise JobError(f"the Edge TPU compiler failed ({how}): {reason}")
    if "Compilation succeeded!" not in output:
        raise JobError(f"the Edge TPU compiler did not report success: {reason}")
    for path in (compiled, log):
        if not path.is_file() or not path.stat().st_size:
            raise JobError(f"the Edge TPU compiler reported success but wrote no {path.name}.")
    if COMPILED.encode() not in compiled.read_bytes():
        raise JobError(
            f"the Edge TPU compiler mapped no operator: {compiled.name} would run on the CPU alone."
        )


def _count(compiled: Path, model: Path, log: Path) -> dict[str, Any]:
    """Return the number of operators per target from the files, with the statuses of the log.

    The files decide: where the log contradicts them, its statuses are dropped.

    Raises:
        JobError: the compiled file is damaged, or of another model.
    """
    try:
        counts = compare_compiled(compiled.read_bytes(), model.read_bytes())
    except UserError as error:
        raise JobError(f"the Edge TPU compiler wrote a damaged file: {error}") from None
    if not counts["subgraphs"]:
        raise JobError(f"the Edge TPU compiler mapped no operator of {model.name}.")
    logged = _read_log(log)
    if _per_target(logged) == _per_target(counts["operators"]):
        counts["operators"] = logged
    return counts


def _read_log(path: Path) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        text = printable_lines(file.read(KEPT_BYTES).decode("utf-8", "replace"))
    return [
        {"op": op, "count": int(count), "status": status.strip()}
        for op, count, status in re.findall(
            r"^(\w{1,99}) {1,99}(\d{1,9}) {1,99}(\S.{0,200})$", text, re.MULTILINE
        )
    ]


def _per_target(rows: list[dict[str, Any]]) -> Counter[tuple[str, bool]]:
    """Return the number of operators per kind, and whether it is mapped."""
    counts: Counter[tuple[str, bool]] = Counter()
    for row in rows:
        counts[row["op"], row["status"] == MAPPED] += row["count"]
    return counts


def _parse_output(output: str, compiled_bytes: int) -> dict[str, Any]:
    """Return the version and the memory that the compiler printed; None for impossible values."""
    on_chip = "On-chip memory {} for caching model parameters"
    streamed = "Off-chip memory used for streaming uncached model parameters"
    match = re.search(r"^Edge TPU Compiler version ([\w.]{1,99})$", output, re.MULTILINE)
    return {
        "compiler": PROGRAM,
        "compiler_version": match.group(1) if match else None,
        "on_chip_bytes": _find_bytes(on_chip.format("used"), output, _CHIP_BYTES),
        "on_chip_remaining_bytes": _find_bytes(on_chip.format("remaining"), output, _CHIP_BYTES),
        # The parameters are in the file.
        "streamed_bytes": _find_bytes(streamed, output, compiled_bytes),
    }


def _find_bytes(label: str, output: str, most: int) -> int | None:
    pattern = rf"^{re.escape(label)}: (\d{{1,9}}(?:\.\d{{1,9}})?)({'|'.join(_UNITS)})\s*$"
    match = re.search(pattern, output, re.MULTILINE)
    size = round(float(match.group(1)) * _UNITS[match.group(2)]) if match else most + 1
    return size if size <= most else None
