"""Files that are either whole or not there: written beside themselves, synced, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerakit.errors import JobError, UserError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; when the block ends well, sync it and rename it to ``path``.

    Whatever stops the block (an error, Ctrl-C, a kill), ``path`` holds its old content or its new one, never a part. The
    temporary name keeps the ending of ``path``, since Keras chooses the format by it.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make ``path`` and the folders above it, if they are not there. Raises UserError where that is not possible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be made: {error.strerror}. Choose another one.") from None


def require_space(folder: Path, size: int) -> None:
    """Raise JobError unless ``size`` bytes fit where ``folder`` lies.

    For writers that don't survive a full disk: h5py prints stack traces of its own, and may take the process down.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise JobError(
            f"the disk is full: {folder} takes {free / 2**20:,.1f} MiB, {size / 2**20:,.1f} MiB are needed. Free some space."
        )


def write_text(path: Path, text: str) -> None:
    """Replace ``path`` by ``text`` in UTF-8."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` by ``value`` as indented JSON. NaN is refused: other readers of JSON do."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path) -> str:
    """Return the SHA-256 of the file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
