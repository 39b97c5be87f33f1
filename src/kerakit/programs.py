"""Other programs, run within limits of time and memory."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import IO, cast

from kerakit.errors import JobError, printable_lines

KEPT_BYTES = 2**18
"""Number of bytes at the begin and at the end of the output that are read: a version is in the
first line, errors may be in both, success in the last line."""

_CHUNK_BYTES = 2**16
_POLL_S = 0.05


def run_program(command: list[str], timeout_s: float, name: str) -> tuple[int, str]:
    r"""Run a program; return its exit code and the begin and end of its output.

    It ends with its first process: a child may keep the output open. Then, on a timeout and on
    Ctrl-C, which does not reach a session of its own, the whole process group is killed. The output
    is read from a pipe and mostly dropped: a file could fill the disk, all of it the memory.

    Args:
        command: path of the program, and its arguments.
        timeout_s: limit in seconds.
        name: what errors call the program.

    Raises:
        JobError: it cannot be run, or is still running after ``timeout_s``.

    >>> import sys
    >>> run_program([sys.executable, "-c", "print(7)"], timeout_s=60, name="Python")
    (0, '7\n')
    """
    if not hasattr(os, "killpg"):
        return _run_alone(command, timeout_s, name)
    try:
        process = subprocess.Popen(  # noqa: S603 - a list, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise _cannot_run(name, command, error) from None
    with cast("IO[bytes]", process.stdout) as pipe:
        try:
            output = _read_until_exit(process, pipe.fileno(), timeout_s)
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
    if output is None:
        raise _no_result(name, timeout_s)
    return code, printable_lines(output.decode("utf-8", "replace"))


def _cannot_run(name: str, command: list[str], error: OSError) -> JobError:
    return JobError(f"{name} {command[0]} cannot be run: {error.strerror}.")


def _no_result(name: str, timeout_s: float) -> JobError:
    return JobError(f"{name} was killed after {timeout_s:g} s without a result.")


def _run_alone(command: list[str], timeout_s: float, name: str) -> tuple[int, str]:
    """Run a program where the system has no process groups (Windows); see ``run_program``."""
    try:
        done = subprocess.run(  # noqa: S603 - a list, no shell
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise _cannot_run(name, command, error) from None
    except subprocess.TimeoutExpired:
        raise _no_result(name, timeout_s) from None
    output = done.stdout[:KEPT_BYTES] + done.stdout[KEPT_BYTES:][-KEPT_BYTES:]
    return done.returncode, printable_lines(output.decode("utf-8", "replace"))


def _read_until_exit(process: subprocess.Popen[bytes], pipe: int, timeout_s: float) -> bytes | None:
    """Return the first and last KEPT_BYTES of the output; None if it still runs at the limit."""
    begin, end = b"", b""
    deadline = time.monotonic() + timeout_s
    os.set_blocking(pipe, False)
    left = KEPT_BYTES  # to read after the exit, where a child of the process may print for ever
    closed = False
    while left > 0:
        exited = process.poll() is not None
        wait_s = 0 if exited else _POLL_S
        ready = not closed and select.select([pipe], [], [], wait_s)[0]
        chunk = os.read(pipe, _CHUNK_BYTES) if ready else b""
        closed = closed or bool(ready and not chunk)
        missing = KEPT_BYTES - len(begin)
        begin, end = begin + chunk[:missing], (end + chunk[missing:])[-KEPT_BYTES:]
        if exited:
            left = left - len(chunk) if chunk else 0
        elif time.monotonic() > deadline:
            return None
        elif closed:
            time.sleep(_POLL_S)
    return begin + end
