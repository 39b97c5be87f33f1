"""Adapter of Google's ``edgetpu_compiler``.

The compiler is a program for Linux on x86-64 that may not be redistributed
(coral.ai/docs/edgetpu/compiler). Options and output are those of version 16.0.384591198.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import IO, Any, cast

from kerakit.deploy.edgetpu.compiled import compare_compiled
from kerakit.deploy.edgetpu.loader import COMPILED
from kerakit.deploy.edgetpu.verdicts import MAPPED
from kerakit.errors import JobError, UserError, printable_lines

PROGRAM = "edgetpu_compiler"

TIMEOUT_S = 180
"""The compiler's own limit per model, in seconds."""
MAX_ATTEMPTS = 3
"""Number of attempts per model."""
GRACE_S = 30
"""Time beyond the limit for the compiler to report it, in seconds."""

_KEPT_BYTES = 2**18
"""Number of bytes at the begin and at the end of the output that are read: the version is in the
first line, errors may be in both, success in the last line."""
_CHUNK_BYTES = 2**16
_POLL_S = 0.05
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
        code, output = _run([*command, str(model.resolve())], timeout_s + GRACE_S)
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


def _run(command: list[str], timeout_s: float) -> tuple[int, str]:
    """Run a program; return its exit code and the begin and end of its output.

    It ends with its first process: a child may keep the output open. Then, on a timeout and on
    Ctrl-C, which does not reach a session of its own, the whole process group is killed. The output
    is read from a pipe and mostly dropped: a file could fill the disk, all of it the memory.
    """
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
    with cast("IO[bytes]", process.stdout) as pipe:
        try:
            output = _read_until_exit(process, pipe.fileno(), timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    return code, printable_lines(output.decode("utf-8", "replace"))


def _read_until_exit(process: subprocess.Popen[bytes], pipe: int, timeout_s: float) -> bytes:
    """Return the first and last _KEPT_BYTES of the output.

    Raises:
        JobError: the process is still running after ``timeout_s``.
    """
    begin, end = b"", b""
    deadline = time.monotonic() + timeout_s
    os.set_blocking(pipe, False)
    left = _KEPT_BYTES  # to read after the exit, where a child of the process may print for ever
    closed = False
    while left > 0:
        exited = process.poll() is not None
        wait_s = 0 if exited else _POLL_S
        ready = not closed and select.select([pipe], [], [], wait_s)[0]
        chunk = os.read(pipe, _CHUNK_BYTES) if ready else b""
        closed = closed or bool(ready and not chunk)
        missing = _KEPT_BYTES - len(begin)
        begin, end = begin + chunk[:missing], (end + chunk[missing:])[-_KEPT_BYTES:]
        if exited:
            left = left - len(chunk) if chunk else 0
        elif time.monotonic() > deadline:
            raise JobError(
                f"the Edge TPU compiler was killed after {timeout_s:g} s without a result."
            )
        elif closed:
            time.sleep(_POLL_S)
    return begin + end


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
        text = printable_lines(file.read(_KEPT_BYTES).decode("utf-8", "replace"))
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
