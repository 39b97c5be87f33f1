"""The scripts of a project: parsing of flags, and errors as messages with exit codes."""

from __future__ import annotations

import errno
import os
import re
import shlex
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from kerakit.config import Config
from kerakit.console import open_missing_streams
from kerakit.errors import KerakitError, printable_lines
from kerakit.files import disk_full_code
from kerakit.machine import find_address_limit, limit_threads
from kerakit.run import Run
from kerakit.signals import Terminated, raise_on_signals

ConfigT = TypeVar("ConfigT", bound=Config)

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""
PIPE_CLOSED = 141
"""Exit code after a closed pipe: 128 + SIGPIPE."""


def parse_args(config_class: type[ConfigT], description: str | None = None) -> ConfigT:
    """Parse the flags of a script; from here on, errors cause a message and an exit code.

    Exit codes: 0 completed; 1 the job failed; 2 wrong flags or bad input; 130 interrupted; 143 and
    129 terminated by SIGTERM and SIGHUP, after the removal of temporary files. A user error causes
    a message without a stack trace; a bug keeps its stack trace.

    Args:
        config_class: class whose fields are the flags.
        description: printed by ``--help``; usually ``__doc__``.

    >>> class Flags(Config):
    ...     num_epochs: int = 10
    >>> sys.argv = ["train.py", "--num_epochs", "3"]
    >>> parse_args(Flags).num_epochs
    3
    """
    open_missing_streams()
    # Before TensorFlow is imported: its C++ log lines bury what the user must read.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    limit_threads()
    if limit := find_address_limit():
        print(
            f"WARNING: the address space is limited to {limit / 2**30:.1f} GiB (ulimit -v): native "
            "libraries may abort. Limit the memory by a container instead.",
            file=sys.stderr,
        )
    sys.excepthook = exit_on_error
    raise_on_signals()
    return config_class.parse(description=description)


def exit_on_error(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Print ``error`` and exit with its code; an unexpected error keeps its stack trace."""
    if isinstance(error, KerakitError):
        fail(str(error), error.exit_code)
    if isinstance(error, Terminated):
        fail(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        fail("interrupted.", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        # The reader of the output, such as `head`, has ended; Python would complain when it
        # flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(PIPE_CLOSED)
    if isinstance(error, SyntaxError) and error.filename:
        # The code of the project's owner, or a file of it that a merge left with conflict marks.
        fail(f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}", 2)
    if isinstance(error, OSError) and (failure := _describe_os_error(error)) is not None:
        fail(*failure)
    _print_trace(kind, error, trace)


def _print_trace(
    kind: type[BaseException], error: BaseException, frames: types.TracebackType | None
) -> None:
    """Print the stack trace; of an error in the project's code, without the frames in between."""
    trace = traceback.TracebackException(kind, error, frames)
    project, engine = Path(sys.argv[0]).absolute().parent, Path(__file__).parent
    own = [i for i, frame in enumerate(trace.stack) if _is_source(frame.filename, project)]
    if own:
        # What the project's code called, unless that is a function of Kerakit, whose bug it may be.
        called = trace.stack[own[-1] + 1 :]
        if not any(_is_source(frame.filename, engine) for frame in called):
            shown = [*(trace.stack[i] for i in own), *called]
            trace.stack = traceback.StackSummary.from_list(shown)
    print("".join(trace.format()), end="", file=sys.stderr)


def _is_source(name: str, folder: Path) -> bool:
    """Whether a file of a stack trace is in a folder, and not in a virtual environment there."""
    path = Path(name).absolute()
    is_frozen = name.startswith("<")  # <frozen runpy>
    if is_frozen or not path.is_relative_to(folder):
        return False
    return "site-packages" not in path.relative_to(folder).parts


def call(function: Callable[[], None]) -> None:
    """Call a function with the error handling of scripts."""
    open_missing_streams()
    raise_on_signals()
    try:
        function()
    except (Exception, KeyboardInterrupt) as error:
        exit_on_error(type(error), error, error.__traceback__)
        raise SystemExit(1) from None


def fail(message: str, code: int) -> None:
    """Print ``message`` as an error and exit with ``code``.

    A message may contain names from files, and thus control characters: they are escaped.
    """
    print(f"error: {printable_lines(message)}", file=sys.stderr)
    raise SystemExit(code)


def _describe_os_error(error: OSError) -> tuple[str, int] | None:
    """Return message and exit code of a file-system error; None for errors that are bugs."""
    path = error.filename if isinstance(error.filename, str) else _find_path(str(error))
    if disk_full_code(error) is not None:
        return f"the disk is full: {path} could not be written. Free some space and start again.", 1
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {path}. Choose another folder, or change its permissions.", 2
    if error.errno == errno.ENAMETOOLONG:
        return f"the path {path} is too long for this file system. Choose a shorter one.", 2
    return None


def _find_path(message: str) -> str:
    """Return the path that h5py names in its messages."""
    found = re.search(r"name = '([^']+)'", message)
    return found[1] if found else "a file"


def deploy_command(run: Run) -> str:
    """Return the shell command that deploys ``run``.

    >>> sys.argv = ["train.py"]
    >>> deploy_command(Run("progress/test"))
    'python deploy.py --read_from progress/test --save_to deploy/test'
    """
    return _command(
        "deploy.py", "--read_from", str(run.path), "--save_to", f"deploy/{run.path.name}"
    )


def evaluate_command(run: Run) -> str:
    """Return the shell command that evaluates ``run``."""
    return _command("evaluate.py", "--read_from", str(run.path))


def _command(script: str, *flags: str) -> str:
    """Return the shell command of another script of the running script's project."""
    return shlex.join(["python", str(Path(sys.argv[0]).with_name(script)), *flags])
