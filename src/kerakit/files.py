"""Atomic files: written to a temporary file, synced, renamed; either complete or absent."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from kerakit.console import printable
from kerakit.errors import JobError, UserError

RESTORE = "Restore it from a backup, or train again."
"""Advice for a damaged or missing file of a run."""

MAX_JSON_BYTES = 64 * 2**20
"""Largest JSON file that is read; Kerakit writes at most a few megabytes."""

DISK_FULL = {
    errno.ENOSPC: ("the disk is full", "Free some space"),
    errno.EDQUOT: ("your disk quota is reached", "Free some space"),
    errno.EFBIG: ("the limit on the size of files (ulimit -f) is reached", "Raise it"),
}
"""Errors of a full disk, of a quota, and of ``ulimit -f``: cause and advice, by their number."""

_MAX_REASON = 200
"""Largest number of characters of a file that a message shows."""


_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOTTY)


def disk_full_code(error: BaseException) -> int | None:
    """Return the system's number if ``error`` is one of DISK_FULL, or its text says so; else None.

    Native code has errors of its own for it: h5py, Pillow, TensorFlow.
    """
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        return error.errno
    return next((code for code in DISK_FULL if os.strerror(code) in str(error)), None)


def describe_disk_full(code: int, path: object) -> str:
    """Return the message for one of DISK_FULL.

    >>> describe_disk_full(errno.ENOSPC, "a.txt")
    'the disk is full: a.txt could not be written. Free some space and start again.'
    """
    cause, advice = DISK_FULL[code]
    return f"{cause}: {path} could not be written. {advice} and start again."


@contextlib.contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Name ``path`` in the error of a full disk that names no file, as that of a write.

    A file in the folder ``temporary``, which will become ``path``, is named by its later path.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        named = Path(error.filename) if isinstance(error.filename, str) else path
        if temporary is not None and named.is_relative_to(temporary):
            named = path / named.relative_to(temporary)
        elif named is not path:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(named)) from error


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
            sync_file(file.fileno())
        temporary.replace(path)
        sync_dir(path.parent)
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


def sync_file(descriptor: int) -> None:
    """Sync a file or folder, where its file system can: SMB, FUSE and 9p may refuse."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise


def sync_dir(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return  # a folder that may be written and not listed
    try:
        sync_file(handle)
    finally:
        os.close(handle)


def remove_temporary_files(paths: Iterable[Path]) -> None:
    """Remove the files that killed processes left half-written beside ``paths``."""
    for path in paths:
        for temporary in path.parent.glob(f".????????.{glob.escape(path.name)}"):
            if re.fullmatch("[0-9a-f]{8}", temporary.name[1:9]):
                temporary.unlink(missing_ok=True)


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
            # Without a name, its space is free again whatever ends this process.
            path.unlink()
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
    r"""Write ``value`` as indented JSON, atomically; lists of numbers are on one line.

    File names that are not text are written as JSON escapes, such as ``\udcff``.

    Raises:
        ValueError: NaN, which JSON does not have.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Within strings, line breaks are escaped: only lists match.
    text = re.sub(
        r"\[\n\s+([-+.\deE]+(?:,\n\s+[-+.\deE]+)*)\n\s*\]",
        lambda match: "[" + re.sub(r"\n\s+", " ", match[1]) + "]",
        text,
    )
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path, kind: type[Any]) -> Any:
    """Read a JSON file of a run.

    Args:
        path: path of the file.
        kind: the expected type of the value, ``dict`` or ``list``.

    Raises:
        FileNotFoundError: there is no such file.
        UserError: the file is damaged: no JSON of RFC 8259, a repeated key, or another type.
    """
    try:
        if path.exists() and not path.is_file():
            raise ValueError("it is not a file")  # opening a named pipe would wait
        with path.open("rb") as file:
            content = file.read(MAX_JSON_BYTES + 1)
        if len(content) > MAX_JSON_BYTES:
            raise ValueError(f"it is larger than {MAX_JSON_BYTES // 2**20} MiB")
        value = json.loads(
            content.decode("utf-8"),
            parse_constant=_reject_constant,
            parse_float=_parse_float,
            object_pairs_hook=_parse_object,
        )
        json.dumps(value)  # nesting that can be read can still be too deep to be written
    except (ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(value, kind):
        raise damaged(path, f"expected {_JSON_NAMES[kind]}, got {type(value).__name__}")
    return value


def _reject_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number of JSON")


def _parse_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _parse_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:40]!r} is repeated")
    return value


_JSON_NAMES: dict[type[Any], str] = {dict: "an object", list: "a list"}


def damaged(path: Path, reason: object) -> UserError:
    """Return the error for a file of a run whose content is invalid."""
    text = printable(str(reason))
    if len(text) > _MAX_REASON:
        text = f"{text[:_MAX_REASON]}..."
    return UserError(f"{path} is damaged: {text}. {RESTORE}")


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

    Files belong to Kerakit if its own record in the folder lists them; all others are the user's
    and stay as they are.

    Args:
        path: the folder; it need not exist.

    Attributes:
        path: the folder.
    """

    kind = "output"
    """Noun of the content for messages, such as "run"."""

    advice = ""
    """Advice for messages, other than replacing existing content."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def owned(self) -> list[Path]:
        """Return the paths of everything that Kerakit writes here, existing or not."""
        raise NotImplementedError

    def recorded(self) -> Collection[Path]:
        """Return the paths that the record of an earlier output lists; folders with all content."""
        raise NotImplementedError

    def has_results(self) -> bool:
        """Whether existing files of Kerakit are worth keeping: not those of a failed start."""
        return True

    def check_new(self, overwrite: bool) -> None:
        """Raise UserError if writing here would replace files of others, or of an earlier output.

        Args:
            overwrite: allow the latter.
        """
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --save_to expects a folder.")
        existing = [file for path in self.owned() for file in existing_files(path)]
        recorded = set(self.recorded()) if existing else set()
        for file in existing:
            if recorded.isdisjoint((file, *file.parents)):
                raise UserError(
                    f"{file} was not written by Kerakit and is kept. Choose another --save_to, or "
                    "move it."
                )
        if existing and not overwrite and self.has_results():
            raise UserError(
                f"{self.path} already holds a {self.kind} ({existing[0].name}). Choose another "
                f"--save_to, or pass {self.advice}--overwrite to replace it."
            )


def existing_files(path: Path) -> list[Path]:
    """Return the files and links at or below ``path``; links are not followed.

    >>> existing_files(Path("gone"))
    []
    """
    if path.is_symlink() or path.is_file():
        return [path]
    return [
        Path(folder, name)
        for folder, folders, files in os.walk(path)
        for name in (*files, *(name for name in folders if Path(folder, name).is_symlink()))
    ]
