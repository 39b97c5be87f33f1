"""The process of a trial of a search."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence

from kerakit.errors import JobError
from kerakit.script import INTERRUPTED, PREEMPTED
from kerakit.training.launch import without_launch

_IS_POSIX = os.name == "posix"
"""Windows has no descriptors for child processes, and no SIGINT for them."""

_SIGNALED = {INTERRUPTED: "SIGINT", PREEMPTED: "SIGTERM", 129: "SIGHUP", 143: "SIGTERM"}
"""Exit codes of a trial that a signal ended."""


def run_process(command: Sequence[str], lock: int, prefix: str, retries: int = 1) -> None:
    """Run a command and print its output, each line after a prefix; run it again if it was killed.

    Ctrl-C reaches this process alone, which interrupts the command: hence the session of its own.
    The command inherits ``lock``.

    Raises:
        JobError: it failed; the message is its error message, or the last line of its output.
    """
    process = subprocess.Popen(  # noqa: S603 - the running script, with validated flags
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        pass_fds=(lock,) if _IS_POSIX else (),
        env={**without_launch(os.environ), "PYTHONUNBUFFERED": "1"},
    )
    last = error = ""
    try:
        for line in process.stdout or ():
            print(prefix + line, end="", flush=True)
            last = line.strip() or last
            if line.startswith("error: "):
                error = line.removeprefix("error: ").strip()
        code = process.wait()
    except BaseException:
        if _IS_POSIX:  # on Windows, it has the console of this process, and got Ctrl-C, too
            process.send_signal(signal.SIGINT)  # it saves what it has
        process.communicate()
        raise
    if code < 0 or code in _SIGNALED:
        name = signal.Signals(-code).name if code < 0 else _SIGNALED[code]
        if not retries:
            raise JobError(f"killed by {name} twice; out of memory?")
        print(f"killed by {name}; trying again", flush=True)
        run_process(command, lock, prefix, retries - 1)
    elif code:
        raise JobError(error or last or f"exit code {code}")
