"""Signals that end a process: handled like Ctrl-C, and held back while a folder changes."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from kerakit import interrupt

TERMINATION = tuple(
    getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Sent by schedulers, ``kill`` and closed terminals. Windows lacks SIGHUP."""


class Terminated(KeyboardInterrupt):
    """A signal asked this process to end. Wherever Ctrl-C is handled, this is, too.

    Attributes:
        number: number of the signal.

    >>> Terminated(signal.SIGTERM).exit_code
    143
    """

    def __init__(self, number: int) -> None:
        super().__init__(f"terminated by {signal.Signals(number).name}.")
        self.number = number

    @property
    def exit_code(self) -> int:
        """128 + the number of the signal, as shells expect, or that of ``exit_with``."""
        return _exit_code or 128 + self.number


_exit_code = 0


def exit_with(code: int) -> None:
    """Set the exit code after a signal of TERMINATION, until the next ``raise_on_signals``."""
    global _exit_code
    _exit_code = code


def raise_on_signals() -> None:
    """Let the signals of TERMINATION raise ``Terminated``, so that temporary files are removed.

    Ctrl-C raises ``KeyboardInterrupt``, also after ``exit_on_interrupt``. An ignored signal stays
    ignored, such as SIGHUP by ``nohup``.
    """
    exit_with(0)
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is interrupt.exit_at_once:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in TERMINATION:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _raise)


def _raise(number: int, _frame: FrameType | None) -> None:
    terminate(number)


def terminate(number: int) -> NoReturn:
    """Raise ``Terminated`` for a signal.

    A scheduler repeats its signal: only the first one interrupts, the others would interrupt what
    saves and cleans up.
    """
    ignore_termination()
    raise Terminated(number)


def ignore_termination() -> None:
    """Ignore the signals of TERMINATION, of a process that ends anyway.

    While Python ends, handlers are gone: a signal would replace the exit code.
    """
    if threading.current_thread() is threading.main_thread():
        for number in TERMINATION:
            signal.signal(number, signal.SIG_IGN)


@contextlib.contextmanager
def shielded() -> Iterator[None]:
    """Hold back Ctrl-C and the signals of TERMINATION until the end of a block.

    Signal masks would not do: threads of native libraries receive the signals, too.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    handlers: dict[int, Any] = {}
    for number in (signal.SIGINT, *TERMINATION):
        handler = signal.getsignal(number)
        if handler not in (None, signal.SIG_IGN):
            handlers[number] = handler
            signal.signal(number, lambda number, _frame: received.append(number))
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if received:
            signal.raise_signal(received[0])
