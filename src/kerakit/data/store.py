"""Array store on disk: records of one size, keyed by digests of all their inputs.

A store is a folder with pairs of files: ``*.records`` holds records end to end, ``*.index`` their
digests. A process appends to its own pair and reads all pairs. Nothing is synced: each entry has a
CRC-32 of its record, verified when a process first reads a record of another one, so that a kill or
a power cut may lose records but never returns a wrong one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import struct
import threading
import zlib
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kerakit.files import make_dir

RECORDS_PER_COUNT = 64
"""Number of writes after which the used space is measured again: other processes write, too."""

_ENTRY = struct.Struct("<16sQII")
"""Digest, index of the record in its file, CRC-32 of the record, CRC-32 of these three."""

ENTRY_BYTES = _ENTRY.size
"""Size of an entry of the index, in addition to its record."""


def digest(*parts: object) -> bytes:
    """Return 16 bytes that identify ``parts`` by their ``repr``."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def used_bytes(folder: Path) -> int:
    """Return the size of all files below ``folder``, in bytes; 0 if it does not exist."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # another process may remove files meanwhile
                total += os.stat(os.path.join(parent, name)).st_size
    return total


def default_limit(folder: Path) -> int:
    """Return half of the bytes that are free on the disk or used by ``folder``."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    return (shutil.disk_usage(existing).free + used_bytes(folder)) // 2


def remove_store(folder: Path) -> None:
    """Remove the files of an array store, and its folder if that is empty then."""
    with contextlib.suppress(OSError):  # another process may do the same
        for path in [*folder.glob("*.index"), *folder.glob("*.records")]:
            path.unlink(missing_ok=True)
        folder.rmdir()


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
        self._files: list[int] = []
        # By digest: file, index in it, and the CRC-32 until it is verified, then None.
        self._entries: dict[bytes, tuple[int, int, int | None]] = {}
        self._own: tuple[int, int] | None = None
        self._written = 0
        self._room = self._count_room()
        for index in sorted(folder.glob("*.index")):
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
        # Not memory-mapped: one copy into the caller's arrays, without holding the GIL.
        read = os.preadv(file, [array.data for array in into], i * self._record_bytes)
        if read != self._record_bytes or (crc is not None and _crc32(into) != crc):
            self._entries.pop(key, None)
            return False
        if crc is not None:
            self._entries[key] = (file, i, None)
        return True

    def write(self, key: bytes, *arrays: NDArray[Any]) -> bool:
        """Append a record of C-contiguous arrays. Returns False if the store is full.

        Raises:
            OSError: the disk is full, or the folder is read-only. From then on the store is full.
        """
        with self._lock:
            if self._room <= 0:
                return False
            self._room -= 1
            i, self._written = self._written, self._written + 1
        try:
            with self._lock:
                records, index = self._own or self._create()
            buffers = [array.data for array in arrays]
            if os.pwritev(records, buffers, i * self._record_bytes) != self._record_bytes:
                raise OSError("no space left on the disk")
            crc = _crc32(arrays)
            os.write(index, _ENTRY.pack(key, i, crc, _entry_crc32(key, i, crc)))
        except OSError:
            with self._lock:
                is_first, self._room = self._room > 0, 0
            if is_first:
                raise
            return False
        self._entries[key] = (records, i, None)
        if i % RECORDS_PER_COUNT == 0:
            with self._lock:
                self._room = min(self._room, self._count_room())
        return True

    def _open(self, index: Path) -> None:
        """Add the entries of one pair of files, except damaged ones."""
        try:
            records = os.open(index.with_suffix(".records"), os.O_RDONLY)
        except OSError:
            return
        self._files.append(records)
        count = os.fstat(records).st_size // self._record_bytes
        content = index.read_bytes()
        for entry in _ENTRY.iter_unpack(content[: len(content) // _ENTRY.size * _ENTRY.size]):
            key, i, crc, check = entry
            if check == _entry_crc32(key, i, crc) and i < count:
                self._entries[key] = (records, i, crc)

    def _create(self) -> tuple[int, int]:
        make_dir(self._folder)
        name = self._folder / f"{os.getpid()}-{secrets.token_hex(4)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        # The records first: an index without records is ignored.
        for suffix, more in ((".records", 0), (".index", os.O_APPEND)):
            self._files.append(os.open(f"{name}{suffix}", flags | more, 0o644))
        self._own = (self._files[-2], self._files[-1])
        return self._own

    def _count_room(self) -> int:
        if self._limit is None:
            return 2**63
        return max(0, self._limit - used_bytes(self._root)) // self._record_bytes

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            for file in self._files:
                os.close(file)


def _crc32(arrays: tuple[NDArray[Any], ...]) -> int:
    crc = 0
    for array in arrays:
        crc = zlib.crc32(array.data, crc)
    return crc


def _entry_crc32(key: bytes, i: int, crc: int) -> int:
    return zlib.crc32(key + i.to_bytes(8, "little") + crc.to_bytes(4, "little"))
