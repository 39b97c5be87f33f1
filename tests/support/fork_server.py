"""A process that has imported TensorFlow and forks a child per script: starts take no time.

Run as a program, it reads one JSON object per line: ``script``, ``args``, ``folder``, ``output``,
``kill_at``; it prints the process id of each child, and then its exit code, negative for a signal.
In between, the child may print "reached": see ``kill_points``.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import Any

from projects import Result


class ForkServer:
    """Starts scripts of a project in processes of their own.

    Args:
        environment: variables of the processes.
    """

    def __init__(self, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
        )

    def start(
        self,
        folder: Path,
        output: Path,
        script: str,
        *args: object,
        kill_at: tuple[str, int] | None = None,
        environment: dict[str, str] | None = None,
    ) -> Child:
        """Start a script in ``folder``; its output is written to ``output``.

        Args:
            kill_at: the point at which the script ends itself: see ``kill_points``.
            environment: variables of this process alone.
        """
        request = {
            "script": script,
            "args": [str(each) for each in args],
            "folder": str(folder),
            "output": str(output),
            "kill_at": kill_at,
            "environment": environment or {},
        }
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Child(int(self._process.stdout.readline()), output, self._process.stdout)

    def run(self, folder: Path, script: str, *args: object) -> Result:
        """Run a script in ``folder`` to its end; ``err`` is its whole output."""
        with tempfile.NamedTemporaryFile() as file:
            child = self.start(folder, Path(file.name), script, *args)
            code = child.wait()
            return Result(code, child.output, child.output)

    def close(self) -> None:
        """End the server."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class Child:
    """A process of a script; only one at a time."""

    def __init__(self, pid: int, output: Path, codes: Any) -> None:
        self.pid, self._output = pid, output
        self._code: int | None = None
        self._reached = threading.Event()
        self._reader = threading.Thread(target=self._read, args=(codes,), daemon=True)
        self._reader.start()

    def _read(self, codes: Any) -> None:
        line = codes.readline()
        if line == "reached\n":
            self._reached.set()
            line = codes.readline()
        self._code = int(line)
        self._reached.set()

    def wait_until_reached(self) -> None:
        """Wait for the point "save_end", or the end."""
        assert self._reached.wait(300)

    def wait(self, timeout: float = 300) -> int:
        """Return the exit code, negative for a signal."""
        self._reader.join(timeout)
        assert self._code is not None, f"still running: {self.output[-2000:]}"
        return self._code

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._reader.is_alive()

    def kill(self, number: int) -> None:
        """Send a signal."""
        if self.is_running():
            os.kill(self.pid, number)

    @property
    def output(self) -> str:
        """The output so far."""
        return self._output.read_text(errors="replace")


def _run(request: dict[str, Any]) -> None:
    """Run a script in this child, and exit."""
    from kerakit.script import exit_on_error

    os.environ.update(request["environment"])
    if request["kill_at"]:
        from kill_points import install

        kind, number = request["kill_at"]
        install(kind, number, partial(os.write, os.dup(1), b"reached\n"))
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.chdir(request["folder"])
    sys.argv = [request["script"], *request["args"]]
    sys.path.insert(0, str(Path(request["script"]).absolute().parent))
    code: Any = 0
    try:
        try:
            runpy.run_path(request["script"], run_name="__main__")
        except BaseException as error:
            if isinstance(error, SystemExit):
                raise
            # Python's own hook, unless the script has set one.
            hook = exit_on_error if sys.excepthook is sys.__excepthook__ else sys.excepthook
            hook(type(error), error, error.__traceback__)
            code = 1
    except SystemExit as stop:
        code = stop.code or 0
    if request["environment"]:  # of several processes, which wait for each other
        atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _serve() -> None:
    # As in conftest.py: files are synced for power cuts, which no test causes.
    os.fsync = lambda fd: None  # noqa: ARG005
    import grain  # noqa: F401 - for the children
    import keras  # noqa: F401
    import matplotlib.pyplot  # noqa: F401 - imported, it starts no thread
    import sklearn.metrics  # noqa: F401

    from kerakit import data, deploy, training
    from kerakit.training import session, state_callback  # noqa: F401

    for package in (data, deploy, training):
        for name in dir(package):  # they import their modules
            getattr(package, name)
    state_callback.MAX_FRACTION = float(os.environ.get("MAX_FRACTION", "0.02"))
    gc.freeze()  # else, each child copies all memory
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _run(json.loads(line))
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    _serve()
