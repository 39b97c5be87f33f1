"""Ctrl-C and SIGTERM during a training: they stop it between two steps, after a save."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

from kerakit.signals import TERMINATION, terminate


class StopSignals:
    """Handler of Ctrl-C, SIGTERM and SIGHUP.

    A signal raises at once, as Ctrl-C does in Python. After ``defer(True)``, the first one is only
    recorded in ``requested``, for ``fit`` to stop at its next safe point; a second Ctrl-C raises at
    once.

    Attributes:
        requested: number of the signal that was received, if any.
        is_agreed: whether all processes of the training stop by it, after the same step.

    >>> StopSignals().requested is None
    True
    """

    def __init__(self) -> None:
        self.requested: int | None = None
        self.is_agreed = False
        self._is_deferred = False

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handle the signals in the block; an ignored signal (nohup) stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {one: signal.getsignal(one) for one in (signal.SIGINT, *TERMINATION)}
        for one, handler in before.items():
            if handler is not signal.SIG_IGN:
                signal.signal(one, self._receive)
        try:
            yield
        finally:
            for one, handler in before.items():
                # Repeated while Python ends, a signal would replace the exit code.
                if self.requested is None or one == signal.SIGINT:
                    signal.signal(one, handler)

    def defer(self, is_deferred: bool) -> None:
        """Set whether the first signal is recorded instead of raised."""
        self._is_deferred = is_deferred

    def stop(self) -> NoReturn:
        """Raise KeyboardInterrupt, or Terminated, for the signal that was received."""
        self._is_deferred = False
        if self.requested in (None, signal.SIGINT):
            raise KeyboardInterrupt
        terminate(self.requested or signal.SIGTERM)

    def _receive(self, number: int, frame: Any) -> None:  # noqa: ARG002 - of the signal module
        is_first = self.requested is None
        self.requested = self.requested or number
        if not self._is_deferred:
            self.stop()
        if number != signal.SIGINT:
            return
        if not is_first:
            self.stop()
        # Not print(): the signal may come while that holds the lock of the stream.
        os.write(2, b"\nstopping after this step; Ctrl-C again: at once\n")
