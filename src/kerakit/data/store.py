"""Array store on disk: records of one size, keyed by digests of all their inputs.

A store is a folder with pairs of files: ``*.records`` holds records end to end, ``*.index`` their
digests. A process appends to its own pair and reads all pairs. Nothing is synced: each entry has a
CRC-32 of its record, verified when a process first reads a record of another one, so that a kill or
a power cut may lose records but never returns a wrong one.

Whatever fails while reading is a missing record. Only ``write`` raises, and only once.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import struct
import threading
import time
import weakref
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.data.shards.member import Member, file_identity
from kerakit.descriptors import open_file, read_into, write_at

RECORDS_PER_COUNT = 64
"""Number of writes after which the used space is measured again: other processes write, too."""

MAX_OPEN_FILES = 64
"""Number of files that a store holds open; records of further files are opened at each read."""

ORPHAN_SECONDS = 3600
"""Age at which one file of a pair, without the other, is removed: no process is creating it."""

_ENTRY = struct.Struct("<16sQII")
"""Digest, index of the record in its file, CRC-32 of the record, CRC-32 of these three."""

ENTRY_BYTES = _ENTRY.size
"""Size of an entry of the index, in addition to its record."""


def digest(*parts: object) -> bytes:
    """Return 16 bytes that identify ``parts`` by their ``repr``."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def size_and_times(path: Path | Member) -> tuple[int, ...]:
    """Return size and times of modification and change of a file; () if it does not exist.

    Of a member of a shard: offset, size and CRC-32.
    """
    return file_identity(path)[1:]


def used_bytes(folder: Path) -> int:
    """Return the size of all files below ``folder``, in bytes; 0 if it does not exist."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # another process may remove files meanwhile
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def default_limit(folder: Path) -> int:
    """Return half of the bytes that are free on the disk or used by ``folder``; 0: unknown."""
    existing = next(path for path in (folder, *folder.absolute().parents) if os.path.isdir(path))
    try:
        free = shutil.disk_usage(existing).free
    except OSError:
        return 0
    return (free + used_bytes(folder)) // 2


def remove_store(folder: Path) -> None:
    """Remove the files of an array store, and its folder if that is empty then."""
    with contextlib.suppress(OSError):  # another process may do the same
        for path in [*folder.glob("*.index"), *folder.glob("*.records")]:
            path.unlink(missing_ok=True)
        folder.rmdir()


def remove_oldest(
    root: Path, pattern: str, needed: int, limit: int, keep: Collection[Path]
) -> None:
    """Remove the least recently used stores until ``needed`` more bytes fit into ``limit``.

    Args:
        root: folder of the stores.
        pattern: glob pattern of the index files below ``root``.
        needed: bytes.
        limit: largest size of ``root`` in bytes.
        keep: stores that are not removed.
    """
    stores: list[tuple[float, Path]] = []
    with contextlib.suppress(OSError):  # another process may remove stores meanwhile
        folders = {path.parent for path in root.glob(pattern)}.difference(keep)
        stores = sorted((folder.stat().st_mtime, folder) for folder in folders)
    excess = used_bytes(root) + needed - limit
    for _, folder in stores:
        if excess <= 0:
            return
        excess -= used_bytes(folder)
        remove_store(folder)


def _list_indexes(folder: Path) -> list[Path]:
    """Return the index files of a store in their order; remove orphans of killed processes."""
    try:
        paths = [Path(entry.path) for entry in os.scandir(folder)]
    except OSError:
        return []
    partner = {".index": ".records", ".records": ".index"}
    names = {path.name for path in paths}
    pairs = []
    for path in paths:
        if path.suffix not in partner:
            continue
        if path.with_suffix(partner[path.suffix]).name in names:
            pairs.append(path)
            continue
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ORPHAN_SECONDS:
                path.unlink()
    return sorted(path for path in pairs if path.suffix == ".index")


class ArrayStore:
    """Records of one size, each the bytes of one or several arrays.

    Args:
        folder: folder of the store; created by the first ``write``.
        record_bytes: size of a record.
        limit: largest size of ``root`` in bytes; None: unlimited.
        root: folder that ``limit`` applies to; default: ``folder``.
    """

    def __init__(
        self, folder: Path, record_bytes: int, limit: int | None = None, root: Path | None = None
    ) -> None:
        self._folder, self._root = folder, root or folder
        self._record_bytes = record_bytes
        self._limit = limit
        self._lock = threading.Lock()
        self._is_broken = self._is_in_memory = False
        self._descriptors: list[int] = []
        # A weak reference: at the end of the process, the names of this module may be gone.
        weakref.finalize(self, _close, self._descriptors).atexit = False
        # By digest: file or record, index in it, and the CRC-32 until it is verified, then None.
        self._entries: dict[bytes, tuple[int | Path | bytes, int, int | None]] = {}
        self._own: tuple[int, int] | None = None
        self._written = 0
        self._room = self._count_room()
        for index in _list_indexes(folder):
            with contextlib.suppress(OSError):
                self._open(index)

    def __len__(self) -> int:
        """Return the number of records."""
        return len(self._entries)

    def __contains__(self, key: bytes) -> bool:
        """Whether there is a record of ``key``; it may be damaged if it was never read."""
        return key in self._entries

    def read(self, key: bytes, *into: NDArray[Any]) -> bool:
        """Read a record into C-contiguous arrays. Returns False if it is missing or damaged."""
        entry = self._entries.get(key)
        if entry is None:
            return False
        file, i, crc = entry
        try:
            read = self._read_at(file, [array.data for array in into], i * self._record_bytes)
        except OSError:
            read = 0
        if read != self._record_bytes or (crc is not None and _crc32(into) != crc):
            self._entries.pop(key, None)
            return False
        if crc is not None:
            self._entries[key] = (file, i, None)
        return True

    def write(self, key: bytes, *arrays: NDArray[Any]) -> bool:
        """Append a record of C-contiguous arrays. Returns False if the store is full.

        The files are those of this process; after ``move_to_memory``, there are none.

        Raises:
            OSError: the disk is full, or the folder is read-only. From then on the store is full.
                Its ``filename`` is the folder.
        """
        if self._is_in_memory:
            self._entries[key] = (b"".join(array.data for array in arrays), 0, None)
            return True
        with self._lock:
            if self._room <= 0:
                return False
            self._room -= 1
            i, self._written = self._written, self._written + 1
        try:
            with self._lock:
                records, index = self._own or self._create()
            buffers = [array.data for array in arrays]
            written = write_at(records, buffers, i * self._record_bytes)
            crc = _crc32(arrays)
            entry = _ENTRY.pack(key, i, crc, _entry_crc32(key, i, crc))
            if written != self._record_bytes or os.write(index, entry) != len(entry):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with self._lock:
                is_first, self._room, self._is_broken = not self._is_broken, 0, True
            if is_first:
                raise OSError(error.errno, error.strerror, str(self._folder)) from None
            return False
        self._entries[key] = (records, i, None)
        if i % RECORDS_PER_COUNT == 0:
            with self._lock:
                self._room = min(self._room, self._count_room())
        return True

    # The next three: not while another thread reads.

    def clear(self) -> None:
        """Remove all records, those of other processes, too."""
        self.discard()
        remove_store(self._folder)
        self._entries.clear()
        _close(self._descriptors)
        self._room, self._is_broken = self._count_room(), False

    def discard(self) -> None:
        """Remove the records that this process has written, and free their disk space."""
        if self._own is None:
            return
        for key in self._own_entries():
            del self._entries[key]
        for descriptor in self._own:
            self._descriptors.remove(descriptor)
            _close([descriptor])
        self._own, self._written = None, 0
        for suffix in (".index", ".records"):
            with contextlib.suppress(OSError):
                self._own_path.with_suffix(suffix).unlink(missing_ok=True)

    def move_to_memory(self) -> None:
        """Move what this process has written to memory; further records are written there, too."""
        moved: dict[bytes, tuple[bytes, int, None]] = {}
        for key in self._own_entries():
            record = np.empty(self._record_bytes, np.uint8)
            if self.read(key, record):
                moved[key] = (record.tobytes(), 0, None)
        self.discard()
        self._entries.update(moved)
        self._is_in_memory = True

    def _own_entries(self) -> list[bytes]:
        """Return the keys of the records in the file of this process."""
        if self._own is None:
            return []
        return [key for key, entry in self._entries.items() if entry[0] == self._own[0]]

    def _read_at(self, file: int | Path | bytes, into: list[memoryview], offset: int) -> int:
        if isinstance(file, bytes):
            start = 0
            for view in into:
                view.cast("B")[:] = file[start : start + view.nbytes]
                start += view.nbytes
            return start
        # Not memory-mapped: one copy into the caller's arrays, without holding the GIL.
        if isinstance(file, int):
            return read_into(file, into, offset)
        descriptor = open_file(file, os.O_RDONLY)
        try:
            return read_into(descriptor, into, offset)
        finally:
            os.close(descriptor)

    def _open(self, index: Path) -> None:
        """Add the entries of one pair of files, except damaged ones."""
        path = index.with_suffix(".records")
        content = index.read_bytes()
        records: int | Path = path
        size = os.stat(path).st_size
        if len(self._descriptors) < MAX_OPEN_FILES:
            # Open files can be read after another process has removed them.
            with contextlib.suppress(OSError):  # too many files are open
                records = open_file(path, os.O_RDONLY)
                self._descriptors.append(records)
        count = size // self._record_bytes
        for entry in _ENTRY.iter_unpack(content[: len(content) // _ENTRY.size * _ENTRY.size]):
            key, i, crc, check = entry
            if check == _entry_crc32(key, i, crc) and i < count:
                self._entries[key] = (records, i, crc)

    def _create(self) -> tuple[int, int]:
        os.makedirs(self._folder, exist_ok=True)
        self._own_path = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}.index"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        # The records first: an index without records is ignored.
        records = open_file(self._own_path.with_suffix(".records"), flags, 0o644)
        self._descriptors.append(records)
        index = open_file(self._own_path, flags | os.O_APPEND, 0o644)
        self._descriptors.append(index)
        self._own = (records, index)
        return self._own

    def _count_room(self) -> int:
        if self._limit is None:
            return 2**63
        return max(0, self._limit - used_bytes(self._root)) // self._record_bytes


def _close(descriptors: list[int]) -> None:
    while descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptors.pop())


def _crc32(arrays: tuple[NDArray[Any], ...]) -> int:
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array.data, crc)
    return crc


def _entry_crc32(key: bytes, i: int, crc: int) -> int:
    return zlib.crc32(key + i.to_bytes(8, "little") + crc.to_bytes(4, "little"))
