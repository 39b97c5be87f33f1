"""How a script of a project starts and ends: flags, then the job, then an exit code that says how it went."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.table import Table

from kerakit.config import Config
from kerakit.errors import KerakitError
from kerakit.run import Run

ConfigT = TypeVar("ConfigT", bound=Config)

# 128 + SIGINT: what shells expect of a program that Ctrl-C ended.
INTERRUPTED = 130
# 128 + SIGPIPE.
PIPE_CLOSED = 141


def run(main: Callable[[ConfigT], None], config_class: type[ConfigT]) -> None:
    """Parse the flags into ``config_class``, call ``main`` with it, and exit.

    Exit codes: 0 done; 1 the job ran and failed; 2 called wrongly or bad input; 130 interrupted. A mistake of the user's
    ends in words, never in a stack trace; a defect keeps its stack trace.
    """
    # Before anything imports TensorFlow: its C++ start-up lines bury what the user must read.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    with ending():
        main(config_class.parse(description=sys.modules[main.__module__].__doc__))


class ending:  # noqa: N801 - used as `with ending():`
    """A context that turns errors into a message on stderr and an exit code."""

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        """Exit with the code of ``error``; errors that nobody foresaw pass through with their stack trace."""
        if isinstance(error, KerakitError):
            fail(str(error), error.exit_code)
        if isinstance(error, KeyboardInterrupt):
            fail("interrupted.", INTERRUPTED)
        if isinstance(error, BrokenPipeError):
            # Whoever read the output, such as `head`, has enough; Python would else complain when it flushes.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(PIPE_CLOSED) from None
        if isinstance(error, OSError) and (code := _words_for(error)) is not None:
            fail(*code)


def _words_for(error: OSError) -> tuple[str, int] | None:
    """Say in words what the file system refused; None for errors that are a defect of the program."""
    where = error.filename if isinstance(error.filename, str) else "a file"
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "No space left on device" in str(error):
        return f"the disk is full: {where} could not be written. Free some space and start again.", 1
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {where}. Choose another folder, or change its permissions.", 2
    if error.errno == errno.ENAMETOOLONG:
        return f"the path {where} is longer than this file system takes. Choose a shorter one.", 2
    return None


def print_table(table: Table) -> None:
    """Print a table of rich's; what is no terminal is taken as wide enough, so that a log keeps the whole of it."""
    width = None if sys.stdout.isatty() else 120
    Console(width=width, markup=False, highlight=False).print(table)


def deploy_command(run: Run) -> str:
    """Return the command that deploys ``run``, to be pasted into a shell."""
    return _command("deploy.py", "--read_from", str(run.path), "--save_to", f"deploy/{run.path.name}")


def evaluate_command(run: Run) -> str:
    """Return the command that evaluates ``run``, to be pasted into a shell."""
    return _command("evaluate.py", "--read_from", str(run.path))


def _command(script: str, *flags: str) -> str:
    """Return a command that runs another script of the project that this one belongs to."""
    return shlex.join(["python", str(Path(sys.argv[0]).with_name(script)), *flags])


def fail(message: str, code: int) -> None:
    """Print ``message`` as an error and exit with ``code``."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)
