"""Atomic files: written to a temporary file, synced, renamed; either complete or absent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerakit.errors import JobError, UserError

RESTORE = "Restore it from a backup, or train again."
"""Advice for a damaged or missing file of a run."""


_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; on success, sync it and rename it to ``path``.

    After an error, Ctrl-C or a kill, ``path`` has either its old or its new content.
    The temporary name keeps the file extension, by which Keras chooses the format.

    Raises:
        OSError: writing failed. Its ``filename`` is ``path``.
    """
    temporary = path.with_name(f".{secrets.token_hex(4)}.{path.name}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            _sync(file.fileno())
        temporary.replace(path)
        _sync_dir(path.parent)
    except OSError as error:
        code = error.errno or _native_errno(error)
        if code is None or error.filename not in (None, str(temporary), temporary):
            raise
        raise OSError(code, os.strerror(code), str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # what failed is raised, not this
            temporary.unlink(missing_ok=True)


def _native_errno(error: OSError) -> int | None:
    """Return the number of the system's error in a message of HDF5."""
    found = re.search(r"\berrno = (\d+)", str(error))
    return int(found.group(1)) if found else None


def _sync(descriptor: int) -> None:
    """Sync a file or folder, where its file system can: SMB, FUSE and 9p may refuse."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def _sync_dir(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # a folder that may be written and not listed
    try:
        _sync(handle)
    finally:
        os.close(handle)


def make_dir(path: Path) -> None:
    """Create ``path`` and its parents. Raises UserError where that is impossible."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot create the folder {path}: {error.strerror}. Choose another one."
        ) from None


def check_disk_space(folder: Path, size: int) -> None:
    """Raise JobError unless ``size`` bytes are free on the disk of ``folder``.

    For writers that do not handle a full disk: h5py prints its own stack traces, and may crash the
    process. A file of this size is reserved and removed: quotas and ``ulimit -f`` count, too.
    """
    free = shutil.disk_usage(folder).free
    if free < size:
        raise JobError(
            f"the disk is full: {folder} has {free / 2**20:,.1f} MiB free, {size / 2**20:,.1f} MiB "
            "are needed. Free some space."
        )
    if not hasattr(os, "posix_fallocate"):  # macOS
        return
    path = folder / f".{secrets.token_hex(4)}.reserved"
    try:
        with path.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, size))
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        path.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` in UTF-8, atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically. Raises ValueError for NaN."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path, kind: type[Any]) -> Any:
    """Read a JSON file of a run.

    Args:
        path: path of the file.
        kind: the expected type of the value, ``dict`` or ``list``.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged: no JSON, or another type.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(value, kind):
        raise damaged(path, f"expected {_JSON_NAMES[kind]}, got {type(value).__name__}")
    return value


_JSON_NAMES: dict[type[Any], str] = {dict: "an object", list: "a list"}


def damaged(path: Path, reason: object) -> UserError:
    """Return the error for a file of a run whose content is invalid."""
    return UserError(f"{path} is damaged: {reason}. {RESTORE}")


def move_into_place(new: Path, path: Path) -> None:
    """Rename ``new`` to ``path``; a file is replaced in one step, a folder is removed first."""
    if new.is_dir() or path.is_dir():
        remove(path)
    new.replace(path)


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def size_bytes(path: Path) -> int:
    """Return the size of a file, or of all files in a folder, in bytes."""
    return sum(file.stat().st_size for file in _files(path))


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file or of a folder, as 64 hexadecimal digits.

    A folder's is that of the lines that ``sha256sum`` prints for its files in the order of their
    paths: within it, ``find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`` prints it.
    """
    if path.is_dir():
        lines = "".join(
            f"{sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path)
        )
        return hashlib.sha256(lines.encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(path: Path) -> list[Path]:
    """Return the files below a folder, sorted by the bytes of their paths; for a file, itself."""
    if not path.is_dir():
        return [path]
    return sorted(
        (file for file in path.rglob("*") if file.is_file()),
        key=lambda file: os.fsencode(file.as_posix()),
    )


class OutputFolder:
    """Base of the folders that Kerakit writes: runs, exports, searches.

    Args:
        path: the folder; it need not exist.

    Attributes:
        path: the folder.
    """

    kind = "output"
    """Noun of the content for messages, such as "run"."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def owned(self) -> list[Path]:
        """Return the paths of everything that Kerakit writes here, existing or not."""
        raise NotImplementedError

    def is_ours(self) -> bool:
        """Whether existing files with the owned names were written by Kerakit."""
        return True

    def check_new(self, overwrite: bool) -> None:
        """Raise UserError if writing here would replace files without ``overwrite``."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --save_to expects a folder.")
        existing = [path for path in self.owned() if path.exists()]
        if not existing:
            return
        if not self.is_ours():
            raise UserError(
                f"{existing[0]} was not written by Kerakit and is kept. Choose another --save_to."
            )
        if not overwrite:
            raise UserError(
                f"{self.path} already holds a {self.kind} ({existing[0].name}). Choose another "
                "--save_to, or pass --overwrite to replace it."
            )
