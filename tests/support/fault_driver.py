"""Program: runs a script of a project with a fault at each change of its output folder.

``python fault_driver.py PROJECT FOLDER FAULT STEP SCRIPT FLAG ...``: FOLDER is copied to FOLDER-1,
FOLDER-2 and so on, given to the script as --save_to; the fault hits change 1, 1 + STEP and so on.
Keras is imported once: each run is a fork. Prints the numbers and the exit codes as JSON.
"""

from __future__ import annotations

import errno
import json
import os
import runpy
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")


def is_change(event: str, args: tuple[Any, ...], folder: str) -> bool:
    """Whether an audit event of Python changes something in a folder."""
    if not args or not str(args[0]).startswith(folder):
        return False
    return event in CHANGES or (event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR)))


def run(project: Path, folder: Path, fault: str, number: int, script: str, flags: list[str]) -> int:
    """Run a script, and return its exit code; 0 and less faults than ``number``: -1."""
    from kerakit.script import exit_on_error

    count = 0

    def inject(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if not is_change(event, args, str(folder)):
            return
        count += 1
        if count != number:
            return
        if fault.startswith("E"):
            code = getattr(errno, fault)
            raise OSError(code, os.strerror(code), str(args[0]))
        os.kill(os.getpid(), getattr(signal, fault))

    os.chdir(project)
    sys.argv, sys.path[:0] = [script, *flags, "--save_to", str(folder)], [str(project)]
    sys.addaudithook(inject)
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        return int(stop.code or 0)
    except BaseException as error:
        try:
            exit_on_error(type(error), error, error.__traceback__)
        except SystemExit as stop:
            return int(stop.code or 0)
        return 70  # a stack trace
    return 0 if count >= number else -1


def main() -> None:
    """See the module."""
    project, folder = map(Path, sys.argv[1:3])
    fault, step, script = sys.argv[3], int(sys.argv[4]), sys.argv[5]
    flags = sys.argv[6:]
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras  # noqa: F401

    codes: dict[int, int] = {}
    number = 1
    while True:
        copy = folder.with_name(f"{folder.name}-{number}")
        shutil.copytree(folder, copy, symlinks=True)
        child = os.fork()
        if not child:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            code = run(project, copy, fault, number, script, flags)
            os._exit(99 if code == -1 else code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 99:
            break
        codes[number] = code
        number += step
    print(json.dumps(codes))


if __name__ == "__main__":
    main()
