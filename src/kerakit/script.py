"""The scripts of a project: parsing of flags, and errors as messages with exit codes."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import shlex
import sys
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO, TypeVar

from kerakit import threads
from kerakit.config import Config
from kerakit.console import open_missing_streams
from kerakit.errors import KerakitError, printable_lines
from kerakit.files import DISK_FULL, describe_disk_full, disk_full_code
from kerakit.locks import release_all
from kerakit.machine import find_address_limit, limit_threads
from kerakit.run import Run
from kerakit.signals import Terminated, raise_on_signals

ConfigT = TypeVar("ConfigT", bound=Config)

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 + SIGINT, as shells expect."""
PIPE_CLOSED = 141
"""Exit code after a closed pipe: 128 + SIGPIPE."""
PREEMPTED = 33
"""Exit code of a training that SIGTERM ended and another start continues: "run me again"."""


def parse_args(config_class: type[ConfigT], description: str | None = None) -> ConfigT:
    """Parse the flags of a script; from here on, errors cause a message and an exit code.

    Exit codes: 0 completed; 1 the job failed; 2 wrong flags or bad input; 33 a training was
    preempted; 130 interrupted; 143 and 129 terminated by SIGTERM and SIGHUP, after the removal of
    temporary files. A user error causes a message without a stack trace; a bug keeps its stack
    trace.

    Args:
        config_class: class whose fields are the flags.
        description: printed by ``--help``; usually ``__doc__``.

    >>> class Flags(Config):
    ...     num_epochs: int = 10
    >>> sys.argv = ["train.py", "--num_epochs", "3"]
    >>> parse_args(Flags).num_epochs
    3
    """
    _prepare_output()
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
    with _checked_output():  # --help exits
        return config_class.parse(description=description)


def exit_on_error(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    """Print ``error`` and exit with its code; an unexpected error keeps its stack trace."""
    try:
        _exit_on_error(kind, error, trace)
    except SystemExit as stop:
        if threads.stuck:
            release_all()
            _write_output()
            os._exit(int(stop.code or 0))  # Python would wait for them
        raise


def _exit_on_error(
    kind: type[BaseException], error: BaseException, trace: types.TracebackType | None
) -> None:
    if isinstance(error, KerakitError):
        fail(str(error), error.exit_code)
    if isinstance(error, Terminated):
        fail(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        fail("interrupted.", INTERRUPTED)
    if isinstance(error, OSError):
        is_unnamed = error.filename is None and error.errno in (*DISK_FULL, errno.EIO)
        failure = _write_output("\n" if is_unnamed else "")
        if isinstance(error, BrokenPipeError):
            failure = error
        if failure is not None:
            raise SystemExit(_report_output(failure))
    if isinstance(error, SyntaxError) and error.filename:
        # The code of the project's owner, or a file of it that a merge left with conflict marks.
        fail(f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}", 2)
    if isinstance(error, OSError) and (described := _describe_os_error(error)) is not None:
        fail(*described)
    _print_trace(kind, error, trace)


def _prepare_output() -> None:
    """Let an output that cannot be written be one error, also where its end is written at exit."""
    open_missing_streams()
    atexit.register(_end_output)


def _end_output() -> None:
    """Write the end of the output at exit. Registered first, it runs after all others."""
    if (error := _write_output()) is not None:
        os._exit(_report_output(error))  # Python would complain and exit with 120


@contextlib.contextmanager
def _checked_output() -> Iterator[None]:
    """Exit with an error if the output of a block cannot be written; Python may pass over it."""
    try:
        yield
    except SystemExit:
        if (error := _write_output()) is not None:
            raise SystemExit(_report_output(error)) from None
        raise
    if (error := _write_output()) is not None:
        raise SystemExit(_report_output(error))


def _write_output(text: str = "") -> OSError | None:
    """Write ``text`` and what Python still holds to stdout; return the error if that fails."""
    try:
        print(end=text, flush=True)
    except OSError as error:
        _discard(sys.stdout)
        return error
    return None


def _discard(stream: TextIO) -> None:
    """Discard what a stream still holds, and what follows: it cannot be written."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        stream.flush()


def _print_error(message: str) -> None:
    try:
        print(f"error: {printable_lines(message)}", file=sys.stderr, flush=True)
    except OSError:  # the exit code still tells
        _discard(sys.stderr)


def _report_output(error: OSError) -> int:
    """Report that stdout cannot be written, unless its reader, such as `head`, has ended."""
    if isinstance(error, BrokenPipeError):
        return PIPE_CLOSED
    _print_error(f"the output cannot be written: {error.strerror}.")
    return 1


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
    _prepare_output()
    limit_threads()
    raise_on_signals()
    try:
        with _checked_output():
            function()
    except (Exception, KeyboardInterrupt) as error:
        exit_on_error(type(error), error, error.__traceback__)
        raise SystemExit(1) from None


def fail(message: str, code: int) -> None:
    """Print ``message`` as an error and exit with ``code``.

    A message may contain names from files, and thus control characters: they are escaped.
    """
    _print_error(message)
    raise SystemExit(code)


def _describe_os_error(error: OSError) -> tuple[str, int] | None:
    """Return message and exit code of a file-system error; None for errors that are bugs."""
    path = error.filename if isinstance(error.filename, str) else _find_path(str(error))
    if (code := disk_full_code(error)) is not None:
        return describe_disk_full(code, path), 1
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"no permission for {path}. Choose another folder, or change its permissions.", 2
    if error.errno in (errno.EIO, errno.ESTALE):
        return f"{error.strerror}: {path}. Check the disk, or choose another folder.", 1
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
