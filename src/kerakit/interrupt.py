"""Ctrl-C while a script imports its modules; until this one is imported, it is not silent."""

from __future__ import annotations

import os
import signal


def exit_on_interrupt() -> None:
    """Let Ctrl-C exit with code 130 at once, without a stack trace, until the flags are parsed.

    For the imports of a script, which take half a second. From ``parse_args`` on, Ctrl-C is an
    error with a message, after the removal of temporary files.

    >>> exit_on_interrupt()
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, exit_at_once)


def exit_at_once(number: int, _frame: object) -> None:
    """Exit with 128 + the number of a signal: an exception might become another in an import."""
    os._exit(128 + number)
