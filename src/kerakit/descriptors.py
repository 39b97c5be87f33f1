"""Open files: reading and writing at an offset, where the system lacks Linux's calls, too."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""Flag: a link is an error. Windows lacks it."""

NO_BLOCK = getattr(os, "O_NONBLOCK", 0)
"""Flag: a named pipe does not wait for its other end. Windows lacks it."""

_BINARY = getattr(os, "O_BINARY", 0)
"""Flag of Windows, which otherwise changes line feeds."""

_position = threading.Lock()
"""Held while the position of a file is moved, which its readers share."""


def open_file(path: Path | str, flags: int, mode: int = 0o644) -> int:
    """Open a file of bytes, and return its descriptor; child processes do not inherit it."""
    return os.open(path, flags | _BINARY, mode)


def read_at(descriptor: int, size: int, offset: int) -> bytes:
    """Return up to ``size`` bytes of an open file from ``offset`` on.

    >>> with Path(__file__).open("rb") as file:
    ...     read_at(file.fileno(), 7, 3)
    b'Open fi'
    """
    if hasattr(os, "pread"):
        return os.pread(descriptor, size, offset)
    with _at(descriptor, offset):
        return os.read(descriptor, size)


def read_into(descriptor: int, views: Sequence[memoryview], offset: int) -> int:
    """Read the bytes from ``offset`` on into buffers; return their number."""
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, views, offset)
    count = 0
    for view in views:
        part = read_at(descriptor, view.nbytes, offset + count)
        view.cast("B")[: len(part)] = part
        count += len(part)
        if len(part) < view.nbytes:
            break
    return count


def write_at(descriptor: int, views: Sequence[bytes | memoryview], offset: int) -> int:
    """Write buffers from ``offset`` on; return the number of bytes."""
    if hasattr(os, "pwritev"):
        return os.pwritev(descriptor, views, offset)
    with _at(descriptor, offset):
        return os.write(descriptor, b"".join(views))


@contextmanager
def _at(descriptor: int, offset: int) -> Iterator[None]:
    with _position:
        os.lseek(descriptor, offset, os.SEEK_SET)
        yield
