"""Folders of shards: local, or an address of fsspec such as ``s3://bucket/folder``."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from kerakit.address import as_path, as_url
from kerakit.data.shards.http import HttpRanges, RangesIgnoredError, find_reason
from kerakit.descriptors import open_file, read_at
from kerakit.errors import UserError, first_line
from kerakit.extras import is_installed
from kerakit.files import atomic_write, make_dir

T = TypeVar("T")

_MAX_OPEN_FILES = 256
"""Number of files that stay open; further ones are opened at each read."""

_OBSTORE = {"s3": "s3", "s3a": "s3", "gs": "gs", "gcs": "gs"}
"""Protocols for which obstore is used where it is installed: a fifth of the CPU time of s3fs."""

_THREADS = 16
"""Requests at once to a storage whose package has no asynchronous functions."""

ATTEMPTS = 6
_FIRST_DELAY = 0.2
"""Seconds before the second attempt; each further one doubles them."""

_FINAL = (
    *(FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError),
    RangesIgnoredError,
)
"""Errors of remote files that another attempt does not change."""


class Storage:
    """Files of a folder, by their names in it.

    Args:
        place: path, or address of fsspec.

    Attributes:
        url: the address; None for a path.
        root: the path; for messages only if there is an address.
        name: path or address, for messages.

    Raises:
        UserError: no package for this kind of address.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     storage = Storage(folder)
    ...     storage.write("a.txt", b"0123456789")
    ...     storage.read("a.txt", 2, 5), storage.size("a.txt"), storage.size("b.txt")
    (b'234', 10, None)
    """

    def __init__(self, place: Path | str) -> None:
        self.url = as_url(place)
        self.root = Path(place) if self.url else as_path(place)
        self.name = self.url or str(self.root)
        self._fs: Any = None
        if self.url is not None:
            self._fs, self._base = _connect(self.url)
        is_http = self.url is not None and self.url.startswith(("http://", "https://"))
        self._http = HttpRanges(self._fs) if is_http else None
        self._handles: dict[str, int] = {}
        self._lock = threading.Lock()
        weakref.finalize(self, _close, self._handles).atexit = False

    def read(self, name: str, start: int | None = None, stop: int | None = None) -> bytes:
        """Return the bytes of a file from ``start`` to ``stop``; default: all.

        Raises:
            OSError: no such file, or an error after several attempts.
        """
        if self._fs is not None and (start is None or stop is None):
            return bytes(self._retry(lambda: self._fs.cat_file(self._path(name))))
        if self._fs is not None and start is not None and stop is not None:
            found = self.read_many([(name, start, stop)])[0]
            if isinstance(found, BaseException):
                raise found
            return found
        handle = self._open(name)
        try:
            size = os.fstat(handle).st_size
            start, stop = start or 0, size if stop is None else min(stop, size)
            data = read_at(handle, max(0, stop - start), start)
            while len(data) < stop - start:  # at most 2 GiB at once
                more = read_at(handle, stop - start - len(data), start + len(data))
                if not more:
                    break
                data += more
            return data
        finally:
            if self._handles.get(name) != handle:
                os.close(handle)

    def read_many(self, ranges: Sequence[tuple[str, int, int]]) -> list[bytes | OSError]:
        """Return the bytes of several ranges of remote files, read at once; or the error of one."""
        found: list[bytes | OSError] = [b""] * len(ranges)
        left = list(range(len(ranges)))
        for attempt in range(ATTEMPTS):
            try:
                results = self._read_once([ranges[i] for i in left])
            except Exception as error:  # each kind of storage has errors of its own
                results = [error] * len(left)
            for i, result in zip(left, results, strict=True):
                is_error = isinstance(result, Exception)
                found[i] = _as_os_error(result) if is_error else bytes(result)
            left = [i for i in left if _is_temporary(found[i])]
            if not left:
                break
            if attempt + 1 < ATTEMPTS:
                time.sleep(_FIRST_DELAY * 2**attempt)
        return found

    def _read_once(self, ranges: Sequence[tuple[str, int, int]]) -> Sequence[Any]:
        placed = [(self._path(name), start, stop) for name, start, stop in ranges]
        if self._http is not None:
            return self._http.read(placed)
        if not getattr(self._fs, "async_impl", False):
            # cat_ranges reads one after another, and blocks of several MB, such as of hf://.
            with ThreadPoolExecutor(_THREADS) as pool:
                return [*pool.map(self._read_range, placed)]
        columns = map(list, zip(*placed, strict=True))
        found: Sequence[Any] = self._fs.cat_ranges(*columns, on_error="return")
        return found

    def _read_range(self, one: tuple[str, int, int]) -> bytes | Exception:
        try:
            return bytes(self._fs.cat_file(*one, cache_type="none"))
        except Exception as error:
            return error

    def open(self, name: str) -> Any:
        """Return an open file, for reading from its start to its end.

        Raises:
            OSError: no such file, or an error after several attempts.
        """
        if self._fs is None:
            return (self.root / name).open("rb")
        return self._retry(lambda: self._fs.open(self._path(name), "rb"))

    def size(self, name: str) -> int | None:
        """Return the size of a file in bytes; None if it does not exist."""
        if self._fs is None:
            try:
                return os.stat(self.root / name).st_size
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            info = self._retry(lambda: self._fs.info(self._path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        size = info.get("size")
        return None if size is None else int(size)

    def stamp(self, name: str) -> str | None:
        """Return text that changes with the content of a file; None if it does not exist."""
        if self._fs is None:
            try:
                status = os.stat(self.root / name)
            except OSError:
                return None
            return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
        try:
            info = self._retry(lambda: self._fs.info(self._path(name)))
        except (FileNotFoundError, NotADirectoryError):
            return None
        return repr(sorted((key, str(value)) for key, value in info.items()))

    def names(self) -> list[str]:
        """Return the names of all files in the folder, those of its subfolders as ``sub/name``."""
        if self._fs is None:
            return sorted(
                path.relative_to(self.root).as_posix()
                for path in self.root.rglob("*")
                if path.is_file()
            )
        self._fs.invalidate_cache()
        base = self._fs._strip_protocol(self._base).rstrip("/") + "/"
        try:
            found = self._retry(lambda: self._fs.find(self._base))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(path.removeprefix(base) for path in found)

    @contextlib.contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """Yield the path of a local file that becomes ``name``, in one step, if no error is raised.

        Raises:
            OSError: it cannot be written.
        """
        if self._fs is None:
            path = self.root / name
            make_dir(path.parent)
            with atomic_write(path) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory(prefix="kerakit-") as folder:
            path = Path(folder, "file")
            yield path
            # Object stores show a file once it is complete.
            self._retry(lambda: self._put(path, name))

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in one step."""
        with self.new_file(name) as path:
            path.write_bytes(data)

    def remove(self, name: str) -> None:
        """Remove a file, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            if self._fs is None:
                os.unlink(self.root / name)
            else:
                self._retry(lambda: self._fs.rm_file(self._path(name)))

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}"

    def _put(self, path: Path, name: str) -> None:
        target = self._path(name)
        self._fs.makedirs(target.rpartition("/")[0], exist_ok=True)
        self._fs.put_file(str(path), target)

    def _retry(self, call: Callable[[], T]) -> T:
        for attempt in range(ATTEMPTS):
            try:
                return call()
            except NotImplementedError:
                raise UserError(f"{self.name} cannot be written to or listed.") from None
            except Exception as error:
                found = _as_os_error(error if self._http is None else find_reason(error))
                if attempt + 1 == ATTEMPTS or not _is_temporary(found):
                    raise found from error
            time.sleep(_FIRST_DELAY * 2**attempt)
        raise AssertionError("unreachable")

    def _open(self, name: str) -> int:
        handle = self._handles.get(name)
        if handle is not None:
            return handle
        handle = open_file(self.root / name, os.O_RDONLY)
        with self._lock:
            if name not in self._handles and len(self._handles) < _MAX_OPEN_FILES:
                self._handles[name] = handle
        return handle


def _connect(url: str) -> tuple[Any, str]:
    """Return the file system of an address, and the path in it."""
    import fsspec

    protocol, _, path = url.partition("://")
    if protocol in _OBSTORE and is_installed("obstore"):
        from obstore.fsspec import FsspecStore

        return FsspecStore(_OBSTORE[protocol]), path.rstrip("/")
    try:
        fs, base = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise UserError(
            f"{url} needs a package that is not installed: {first_line(error).rstrip('.')}."
        ) from None
    except ValueError as error:
        raise UserError(
            f"{url}: {first_line(error).rstrip('.')}. Expected a path, or an address such as "
            "s3://bucket/folder, gs://, hf:// or https://."
        ) from None
    return fs, base.rstrip("/")


def _as_os_error(error: Exception) -> OSError:
    if isinstance(error, OSError):
        return error
    return OSError(f"{type(error).__name__}: {first_line(error)}")


def _is_temporary(found: bytes | OSError) -> bool:
    return isinstance(found, OSError) and not isinstance(found, _FINAL)


def _close(handles: dict[str, int]) -> None:
    while handles:
        with contextlib.suppress(OSError):
            os.close(handles.popitem()[1])
