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


def put_in_place(new: Path, path: Path) -> None:
    """Rename ``new``, a file or a folder, to ``path``; a file is replaced in one step, a folder removed before."""
    if new.is_dir() or path.is_dir():
        remove(path)
    new.replace(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    return sum(file.stat().st_size for file in _files(path))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, or of a folder, as 64 hexadecimal digits.

    A folder's is that of the lines that ``sha256sum`` prints for its files in the order of their paths: within it,
    ``find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` gives it.
    """
    if path.is_dir():
        lines = "".join(f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path))
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    """Return the files in a folder, in the order of their paths' bytes; of a file itself."""
    if not path.is_dir():
        return [path]
    return sorted((file for file in path.rglob("*") if file.is_file()), key=lambda file: os.fsencode(file.as_posix()))
