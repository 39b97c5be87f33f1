"""The processes of a search: each holds a lock by which the others know that it lives."""

from __future__ import annotations

import contextlib
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from kerakit.errors import UserError
from kerakit.locks import FILE, Holder, find_holder, lock_folder, locked, unlock_folder

PATIENCE_S = 60
"""Seconds to wait for another process that has the study."""


class SearchProcesses:
    """The processes that train trials of one search.

    All methods but ``joined`` are called in ``alone``.

    Args:
        folder: the search folder.

    Attributes:
        name: name of this process, unlike that of any other.
        lock: file descriptor for trials, which inherit it: where this process is killed, its trial
            holds the lock until it ends. -1 outside of ``joined``.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     one, other = (SearchProcesses(Path(folder)) for _ in range(2))
    ...     with one.joined():
    ...         other.find(one.name) is None, one.lock > 0  # of this process
    (True, True)
    """

    def __init__(self, folder: Path) -> None:
        self._search, self._folder = folder, folder / ".processes"
        self.name, self.lock = uuid.uuid4().hex[:12], -1

    def alone(self) -> contextlib.AbstractContextManager[int]:
        """Keep the other processes from the study for a block."""
        return locked(self._search, patience=PATIENCE_S)

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of the processes, until the end of a block or of this process."""
        with self.alone():
            self.lock = lock_folder(self._folder / self.name)
        try:
            yield
        finally:
            with contextlib.suppress(UserError), self.alone():
                unlock_folder(self._folder / self.name)
                self.lock = -1
                self._remove_lost()

    def find(self, name: object) -> Holder | None:
        """Return another process that lives, or whose trial does, by its name; None: neither."""
        is_name = isinstance(name, str) and re.fullmatch("[0-9a-f]{12}", name)
        return find_holder(self._folder / str(name)) if is_name else None

    def check_none(self) -> None:
        """Raise UserError if another process, or a trial of it, lives."""
        for path in self._folder.glob("*"):
            if (holder := find_holder(path)) is not None:
                raise UserError(
                    f"{holder} trains trials of {self._search}, which would be replaced. Wait "
                    "until it has ended, or choose another --save_to."
                )

    def _remove_lost(self) -> None:
        """Remove what killed processes have left."""
        with contextlib.suppress(OSError):  # of a process that lives
            for path in self._folder.glob("*"):
                if find_holder(path) is None:
                    (path / FILE).unlink(missing_ok=True)
                    path.rmdir()
            self._folder.rmdir()
