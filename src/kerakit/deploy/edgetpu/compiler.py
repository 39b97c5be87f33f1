"""Adapter of Google's ``edgetpu_compiler``.

The compiler is a program for Linux on x86-64 that may not be redistributed
(coral.ai/docs/edgetpu/compiler). Options and output are those of version 16.0.384591198.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from kerakit.deploy.edgetpu.loader import COMPILED
from kerakit.deploy.edgetpu.verdicts import MAPPED
from kerakit.errors import JobError

PROGRAM = "edgetpu_compiler"

TIMEOUT_S = 180
"""The compiler's own limit per model, in seconds."""
MAX_ATTEMPTS = 3
"""Number of attempts per model."""
GRACE_S = 30
"""Time beyond the limit for the compiler to report it, in seconds."""

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


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
            line, a file with an Edge TPU operator, a log of at least one mapped operator.
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
        code, output = _run([*command, str(model.resolve())], timeout_s + GRACE_S)
        try:
            _check_success(code, output, compiled, log)
            details = _parse_output(output, log.read_text("utf-8", "replace"))
            return {**details, "attempts": attempt}
        except JobError as error:
            for partial in (compiled, log):
                partial.unlink(missing_ok=True)
            failure = error
    raise JobError(f"{failure} ({MAX_ATTEMPTS} attempts)")


def _run(command: list[str], timeout_s: float) -> tuple[int, str]:
    """Run a program; return its exit code and output. On a timeout its process group is killed."""
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, absolute paths, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise JobError(
            f"the Edge TPU compiler {command[0]} cannot be run: {error.strerror}."
        ) from None
    try:
        output, _ = process.communicate(timeout=timeout_s)
    except BaseException as error:
        # Ctrl-C does not reach a session of its own, so it is passed on too.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise JobError(
                f"the Edge TPU compiler was killed after {timeout_s:g} s without a result."
            ) from None
        raise
    return process.returncode, output.decode("utf-8", "replace")


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
    )
    if code != 0 or "Compilation failed!" in output:
        raise JobError(f"the Edge TPU compiler failed (exit code {code}): {reason}")
    if "Compilation succeeded!" not in output:
        raise JobError(f"the Edge TPU compiler did not report success: {reason}")
    for path in (compiled, log):
        if not path.is_file() or not path.stat().st_size:
            raise JobError(f"the Edge TPU compiler reported success but wrote no {path.name}.")
    if COMPILED.encode() not in compiled.read_bytes():
        raise JobError(
            f"the Edge TPU compiler mapped no operator: {compiled.name} would run on the CPU alone."
        )


def _parse_output(output: str, log: str) -> dict[str, Any]:
    """Return the details that the compiler printed: bytes, counts and its own statuses."""
    operators = [
        {"op": op, "count": int(count), "status": status.strip()}
        for op, count, status in re.findall(r"^(\w+) +(\d+) +(\S.*)$", log, re.MULTILINE)
    ]
    on_tpu = sum(row["count"] for row in operators if row["status"] == MAPPED)
    if not on_tpu:
        raise JobError("the log of the Edge TPU compiler lists no mapped operator.")
    on_chip = "On-chip memory {} for caching model parameters"
    streamed = "Off-chip memory used for streaming uncached model parameters"
    return {
        "compiler": PROGRAM,
        "compiler_version": _find(r"^Edge TPU Compiler version (\S+)", output),
        "operators": operators,
        "on_tpu": on_tpu,
        "on_cpu": sum(row["count"] for row in operators) - on_tpu,
        "subgraphs": int(_find(r"^Number of Edge TPU subgraphs: (\d+)", output) or 0),
        "on_chip_bytes": _find_bytes(on_chip.format("used"), output),
        "on_chip_remaining_bytes": _find_bytes(on_chip.format("remaining"), output),
        "streamed_bytes": _find_bytes(streamed, output),
    }


def _find(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1) if match else None


def _find_bytes(label: str, output: str) -> int | None:
    pattern = rf"^{re.escape(label)}: ([\d.]+)({'|'.join(_UNITS)})\s*$"
    match = re.search(pattern, output, re.MULTILINE)
    return round(float(match.group(1)) * _UNITS[match.group(2)]) if match else None
