"""Terminal output: tables, progress, and suppression of library logs."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from kerakit.errors import UserError, printable_lines
from kerakit.errors import printable as printable
from kerakit.extras import BACKENDS, install_command, is_installed

SECONDS_BETWEEN_LINES = 2
"""Interval of progress lines where stdout is not a terminal."""

_LOG_WIDTH = 120


def open_missing_streams() -> None:
    """Discard the output of streams that were closed at the start (``>&-``).

    Otherwise the next file that is opened would get their number, and the output of native code.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Silence the warnings that Keras, TensorFlow and grain log through absl."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def redirect_native_output(target: Any = None) -> Iterator[None]:
    """Redirect the output of native code into ``target``, an open file; default: discard it."""
    with open(os.devnull, "w") as devnull:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        try:
            for descriptor in (1, 2):
                os.dup2((target or devnull).fileno(), descriptor)
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for descriptor, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, descriptor)
                os.close(copy)


@contextlib.contextmanager
def quiet_startup() -> Iterator[None]:
    """Import Keras without TensorFlow's start-up messages and without optional packages.

    Keras and TensorFlow import scikit-learn, Matplotlib and JAX where they are installed, for
    ``keras.wrappers``, ``keras.visualization`` and a converter: a third of the import time. To use
    these, import the package before.

    Raises:
        UserError: Keras's backend is unknown or not installed.

    >>> with quiet_startup():
    ...     import keras
    """
    optional = ["sklearn", "matplotlib"]
    backend = keras_backend()
    _check_backend(backend)
    if backend != "jax":
        optional.append("jax")
    hidden = [name for name in optional if name not in sys.modules]
    with redirect_native_output():
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type] # None: no such module
        try:
            yield
            if backend != "tensorflow" and is_installed("tensorflow"):
                # Keras imports it for seeds and serialization anyway, with its start-up messages.
                importlib.import_module("tensorflow")
        finally:
            for name in hidden:
                sys.modules.pop(name, None)


def keras_backend() -> str:
    """Return the name of Keras's backend, by Keras's own rules."""
    home = os.path.expanduser("~")
    folder = Path(home if os.access(home, os.W_OK) else "/tmp", ".keras")  # noqa: S108 - Keras's default
    folder = Path(os.environ.get("KERAS_HOME", folder)).expanduser()
    config: Any = {}
    with contextlib.suppress(OSError, ValueError):
        config = json.loads((folder / "keras.json").read_text("utf-8"))
    in_file = config.get("backend") if isinstance(config, dict) else None
    return os.environ.get("KERAS_BACKEND") or in_file or "tensorflow"


def _check_backend(name: Any) -> None:
    """Raise UserError where the import of Keras would fail with a stack trace."""
    source = "KERAS_BACKEND" if os.environ.get("KERAS_BACKEND") else "keras.json"
    if name not in (*BACKENDS, "numpy", "openvino"):
        raise UserError(
            f"{source}: unknown Keras backend {name!r}. Set the environment variable KERAS_BACKEND "
            "to tensorflow, jax or torch."
        )
    if is_installed(name):
        return
    extra = BACKENDS.get(name)
    install = install_command(extra) if extra else f"pip install {name}"
    needed = ", which an export needs," if name == "tensorflow" else ""
    others = [f"KERAS_BACKEND={other}" for other in BACKENDS if is_installed(other)]
    use = f". Or train and evaluate with {' or '.join(others)}." if others else ""
    raise UserError(f"Keras's backend {name}{needed} is not installed: {install}{use}")


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence[str]],
    title: str | None = None,
    left: Sequence[str] = (),
    **options: Any,
) -> None:
    """Print a table; without a terminal, wide enough that a log file keeps every column.

    Args:
        headings: column headings.
        rows: the cells of each row; their control characters are escaped.
        title: above the table.
        left: headings of left-aligned columns; others: right-aligned.
        options: options for ``rich.table.Table.add_column``, for every column.
    """
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(heading, justify="left" if heading in left else "right", **options)
    for row in rows:
        table.add_row(*map(printable_lines, row))
    width = None if sys.stdout.isatty() else _LOG_WIDTH
    _Console(width=width, markup=False, highlight=False).print(table)


class _Console(Console):
    """A console whose broken pipes reach ``script.exit_on_error``; rich exits with code 1."""

    def on_broken_pipe(self) -> None:
        """Raise the error again."""
        raise BrokenPipeError


class progress:  # noqa: N801 - used as `with progress(...) as update:`
    """Progress of a job: a bar on a terminal, otherwise a line every SECONDS_BETWEEN_LINES.

    Args:
        label: a participle, such as "checking".
        total: number of items.
        unit: plural noun of the items.
    """

    def __init__(self, label: str, total: int, unit: str = "images") -> None:
        self._label, self._total, self._unit = label, total, unit
        self._last_line = time.monotonic()
        self._done = self._printed = 0
        self._bar = Progress(transient=True) if sys.stdout.isatty() else None

    def __enter__(self) -> Callable[[int], None]:
        """Return the function to call with the number of completed items."""
        if self._bar is None:
            return self._print_line
        bar = self._bar
        bar.start()
        task = bar.add_task(self._label, total=self._total)
        return lambda done: bar.update(task, completed=done)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Remove the bar, or print the last line if others were printed."""
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and 0 < self._printed < self._done:
            self._print_line(self._done, is_last=True)

    def _print_line(self, done: int, is_last: bool = False) -> None:
        self._done = done
        if is_last or time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            self._last_line, self._printed = time.monotonic(), done
            print(f"{self._label}: {done:,} of {self._total:,} {self._unit}", flush=True)
