"""The Edge TPU of Google's Coral: what its compiler makes of the int8 model.

The compiler is a program for Linux on x86-64 that Google gives away and that cannot be bundled
(coral.ai/docs/edgetpu/compiler). Its options and its words here are those of version 16.0.384591198.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from kerakit.deploy.edgetpu.compiled import verify
from kerakit.deploy.formats.base import Predict, Skipped, Source, Written
from kerakit.errors import JobError

TIMEOUT_S = 180
"""The compiler's own limit for one model, in seconds."""
TRIES = 3
"""How often a compilation is tried."""
GRACE_S = 30
"""How much longer than that we wait for it to say so, in seconds."""

MAPPED = "Mapped to Edge TPU"
_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


class EdgeTpu:
    """The int8 model, compiled. It runs only where a Coral is, so what is checked here is the compiler's word for it."""

    name, file, made_from = "edgetpu", "model_edgetpu.tflite", "model.tflite"

    def write(self, source: Source) -> Written:
        """Compile ``model.tflite`` of the same folder, or verify what was compiled elsewhere."""
        path, int8 = source.folder / self.file, source.folder / self.made_from
        if source.edgetpu.compiled is not None:
            content = source.edgetpu.compiled.read_bytes()
            details = verify(content, int8.read_bytes())
            path.write_bytes(content)
            return Written(path, details)
        compiler = _find_compiler(source.edgetpu.compiler)
        return Written(
            path, compile_for_edgetpu(compiler, int8, source.folder, runtime=source.edgetpu.runtime)
        )

    def load(self, path: Path) -> Predict | None:  # noqa: ARG002 - the protocol's signature
        """Return None: no Coral is here to run it."""
        return None


EDGETPU = EdgeTpu()


def _find_compiler(named: Path | None) -> Path:
    if named is not None:
        return named.resolve()
    found = shutil.which("edgetpu_compiler")
    if found is not None:
        return Path(found).resolve()
    command = shlex.join(["edgetpu_compiler", "--show_operations", EDGETPU.made_from])
    raise Skipped(
        f"edgetpu_compiler is not installed here. Elsewhere, beside {EDGETPU.made_from}: {command}; then here again, with "
        "--edgetpu_compiled model_edgetpu.tflite"
    )


def compile_for_edgetpu(
    compiler: Path,
    model: Path,
    folder: Path,
    timeout_s: float = TIMEOUT_S,
    runtime: int | None = None,
) -> dict[str, Any]:
    """Compile ``model`` into ``folder``; return what the compiler said, for the report.

    It is known to fail by chance (google-coral/edgetpu#211), so it is tried up to TRIES times, but after a timeout.

    Args:
        compiler: the program.
        model: an int8 .tflite file.
        folder: gets ``<stem>_edgetpu.tflite`` and ``<stem>_edgetpu.log``.
        timeout_s: limit for the compiler, in seconds.
        runtime: the oldest version of the runtime that the file must run on; None for the compiler's choice.

    Raises:
        JobError: the compiler failed, hung, or did not say and do all that success means: exit code 0, its closing line, a
            file with an Edge TPU operator, a log of at least one mapped operator.
    """
    compiled, log = (
        folder.resolve() / f"{model.stem}_edgetpu{ending}" for ending in (".tflite", ".log")
    )
    # Never --num_segments: of files that TensorFlow's converter made, it takes the compiler down.
    command = [
        str(compiler),
        "--show_operations",
        "--timeout_sec",
        str(int(timeout_s)),
        "--out_dir",
        str(folder.resolve()),
    ]
    command += [] if runtime is None else ["--min_runtime_version", str(runtime)]
    for tries in range(1, TRIES + 1):
        for stale in (compiled, log):
            stale.unlink(missing_ok=True)
        code, said = _run([*command, str(model.resolve())], timeout_s + GRACE_S)
        try:
            _refuse_failure(code, said, compiled, log)
            return {**_details(said, log.read_text("utf-8", "replace")), "tries": tries}
        except JobError as error:
            for left in (compiled, log):
                left.unlink(missing_ok=True)
            failure = error
    raise JobError(f"{failure} ({TRIES} tries)")


def _run(command: list[str], timeout_s: float) -> tuple[int, str]:
    """Run a program; return its exit code and what it said. At the limit it is killed with the processes it started."""
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
        said, _ = process.communicate(timeout=timeout_s)
    except BaseException as error:
        # Ctrl-C does not reach a session of its own, so it is passed on too.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(error, subprocess.TimeoutExpired):
            raise JobError(f"the Edge TPU compiler did not end within {timeout_s:g} s.") from None
        raise
    return process.returncode, said.decode("utf-8", "replace")


def _refuse_failure(code: int, said: str, compiled: Path, log: Path) -> None:
    reasons = re.findall(
        r"^(?:ERROR: .*|Compilation failed: .*|Invalid model: .*|Model .*not .*|Internal .*)$",
        said,
        re.MULTILINE,
    )
    reason = (
        " ".join(line.strip() for line in dict.fromkeys(reasons))
        or (said.strip().splitlines() or ["it said nothing"])[-1]
    )
    if code != 0 or "Compilation failed!" in said:
        raise JobError(f"the Edge TPU compiler failed (exit code {code}): {reason}")
    if "Compilation succeeded!" not in said:
        raise JobError(f"the Edge TPU compiler did not say that it succeeded: {reason}")
    for path in (compiled, log):
        if not path.is_file() or not path.stat().st_size:
            raise JobError(
                f"the Edge TPU compiler said that it succeeded but wrote no {path.name}."
            )
    if b"edgetpu-custom-op" not in compiled.read_bytes():
        raise JobError(
            f"the Edge TPU compiler mapped no operator: {compiled.name} would run on the CPU alone."
        )


def _details(said: str, log: str) -> dict[str, Any]:
    """Return what the compiler's output and log say, in bytes, counts and its own words."""
    operators = [
        {"op": op, "count": int(count), "status": status.strip()}
        for op, count, status in re.findall(r"^(\w+) +(\d+) +(\S.*)$", log, re.MULTILINE)
    ]
    on_tpu = sum(row["count"] for row in operators if row["status"] == MAPPED)
    if not on_tpu:
        raise JobError("the Edge TPU compiler's log names no operator that was mapped.")
    return {
        "compiler": _find(r"^Edge TPU Compiler version (\S+)", said),
        "operators": operators,
        "on_tpu": on_tpu,
        "on_cpu": sum(row["count"] for row in operators) - on_tpu,
        "subgraphs": int(_find(r"^Number of Edge TPU subgraphs: (\d+)", said) or 0),
        "on_chip_bytes": _bytes(said, "On-chip memory used for caching model parameters"),
        "on_chip_left_bytes": _bytes(said, "On-chip memory remaining for caching model parameters"),
        "streamed_bytes": _bytes(
            said, "Off-chip memory used for streaming uncached model parameters"
        ),
    }


def _find(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text, re.MULTILINE)
    return match.group(1) if match else None


def _bytes(said: str, label: str) -> int | None:
    match = re.search(rf"^{re.escape(label)}: ([\d.]+)({'|'.join(_SIZES)})\s*$", said, re.MULTILINE)
    return round(float(match.group(1)) * _SIZES[match.group(2)]) if match else None
