"""Files that stay aside until what replaces them exists; a kill at any step loses none of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path

from kerakit.files import existing_files, remove

FOLDER = ".previous"
"""Name of the folder that holds them."""


class SetAside:
    """Files of a folder, moved into a folder in it.

    Args:
        folder: the folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._whole = folder, folder / FOLDER
        # The name of an incomplete move, in either direction: its end is one rename.
        self._partial = folder / f"{FOLDER}-incomplete"

    def exists(self) -> bool:
        """Whether files are aside, all or some of them."""
        return any(path.is_dir() and not path.is_symlink() for path in (self._whole, self._partial))

    def is_whole(self) -> bool:
        """Whether all files are aside; otherwise a kill ended the move."""
        return self.exists() and not self._partial.is_dir()

    def add(self, files: Iterable[Path]) -> None:
        """Move files of the folder aside. Nothing may be aside yet."""
        for path in (self._whole, self._partial):
            if path.is_symlink():
                path.unlink()
        self._partial.mkdir()
        for file in files:
            target = self._partial / file.relative_to(self._folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        self._partial.replace(self._whole)

    def restore(self) -> None:
        """Move them back. What has replaced them must be removed before."""
        if self._whole.is_dir():
            self._whole.replace(self._partial)
        for file in existing_files(self._partial):
            target = self._folder / file.relative_to(self._partial)
            target.parent.mkdir(parents=True, exist_ok=True)
            file.replace(target)
        remove(self._partial)

    def remove(self) -> None:
        """Remove them."""
        for path in (self._whole, self._partial):
            with contextlib.suppress(FileNotFoundError):
                remove(path)
