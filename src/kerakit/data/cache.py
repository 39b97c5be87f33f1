"""Decoded images, kept in memory or on disk, so that later epochs and later runs need not decode them again.

What is kept is the uint8 array before augmentation, so a cache changes no batch. On disk a store is a folder for one input size
and one way of decoding, with pairs of files: ``*.pixels``, arrays of one length end to end, and ``*.index``, which says whose
they are. A process writes to its own pair and reads all of them, so any number of runs share a store. An entry of the index is
written only after its pixels are on the disk: whatever is killed, no entry leads to pixels that are not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import struct
import threading
import zlib
from pathlib import Path
from typing import Literal

import numpy as np

from kerakit.data.decode import DECODING, Pixels, read_image
from kerakit.files import make_folder

CacheKind = Literal["none", "ram", "disk"]

IMAGES_A_SYNC = 64
"""After how many new images the disk is made to hold them; a kill loses at most these."""

_ENTRY = struct.Struct("<16sQI")  # digest of the image's key; its place in .pixels; CRC-32 of the two


class RamCache:
    """Keeps decoded images in memory until ``limit`` bytes are used; the rest is decoded each time.

    Args:
        input_size: (width, height) in pixels.
        limit: in bytes; default: half of what is available now.
    """

    def __init__(self, input_size: tuple[int, int], limit: int | None = None) -> None:
        self._input_size = input_size
        self._room = (_available_memory() // 2 if limit is None else limit) // _bytes_of(input_size)
        self._images: dict[Path, Pixels] = {}

    def __call__(self, path: Path) -> Pixels:
        """Return the image, uint8 (height, width, 3), for the caller to change."""
        image = self._images.get(path)
        if image is None:
            image = read_image(path, self._input_size)
            if len(self._images) < self._room:
                self._images[path] = image
        return image.copy()

    def close(self) -> None:
        """Nothing to write."""


class DiskCache:
    """Keeps decoded images in a folder, for this run and for others, until ``limit`` bytes are used.

    An image is known by its path, size and time of change: one that was edited is decoded anew.

    Args:
        folder: holds the stores of all sizes.
        input_size: (width, height) in pixels.
        limit: of the whole folder in bytes; default: half of what is free now.
    """

    def __init__(self, folder: Path, input_size: tuple[int, int], limit: int | None = None) -> None:
        self._input_size = input_size
        self._length = _bytes_of(input_size)
        self._root = folder
        self._store = folder / f"{input_size[0]}x{input_size[1]}-{DECODING}"
        make_folder(self._store)
        free = os.statvfs(self._store).f_bavail * os.statvfs(self._store).f_frsize
        self._limit = _bytes_below(folder) + free // 2 if limit is None else limit
        self._lock = threading.Lock()
        self._files: list[int] = []
        self._where: dict[bytes, tuple[int, int]] = {}
        self._own: tuple[int, int] | None = None
        self._written = 0
        self._pending: list[tuple[bytes, int]] = []
        self._room = self._count_room()
        for index in sorted(self._store.glob("*.index")):
            self._open(index)

    def __len__(self) -> int:
        """Return how many images are kept."""
        return len(self._where)

    def __call__(self, path: Path) -> Pixels:
        """Return the image, uint8 (height, width, 3), for the caller to change."""
        try:
            digest = self._digest(path)
        except OSError:
            return read_image(path, self._input_size)  # raises what a user can read
        where = self._where.get(digest)
        if where is not None and (image := self._load(*where)) is not None:
            return image
        image = read_image(path, self._input_size)
        self._keep(digest, image)
        return image

    def close(self) -> None:
        """Make the disk hold what was kept. The cache can be used again afterwards."""
        with self._lock:
            self._sync()

    # ------------------------------------------------------------------------------------------------------------- reading

    def _digest(self, path: Path) -> bytes:
        status = path.stat()
        key = b"%s\0%d\0%d" % (os.fsencode(path.absolute()), status.st_size, status.st_mtime_ns)
        return hashlib.blake2b(key, digest_size=16).digest()

    def _open(self, index: Path) -> None:
        """Take over the entries of one pair of files; one that was cut off, or belongs to no pixels, is passed over."""
        try:
            pixels = os.open(index.with_suffix(".pixels"), os.O_RDONLY)
        except OSError:
            return
        self._files.append(pixels)
        images = os.fstat(pixels).st_size // self._length
        content = index.read_bytes()
        for entry in _ENTRY.iter_unpack(content[: len(content) // _ENTRY.size * _ENTRY.size]):
            digest, place, check = entry
            if check == _check(digest, place) and place < images:
                self._where[digest] = (pixels, place)

    def _load(self, file: int, place: int) -> Pixels | None:
        # Read, not memory-mapped: one copy into an array of the caller's own, without holding Python's lock.
        image = np.empty((self._input_size[1], self._input_size[0], 3), np.uint8)
        read = os.preadv(file, [image.data.cast("B")], place * self._length)
        return image if read == self._length else None

    # ------------------------------------------------------------------------------------------------------------- keeping

    def _keep(self, digest: bytes, image: Pixels) -> None:
        with self._lock:
            if self._room <= 0:
                return
            self._room -= 1
            try:
                pixels, _ = self._own or self._create()
            except OSError as error:
                self._give_up(error)
                return
            place, self._written = self._written, self._written + 1
        try:
            if os.pwrite(pixels, np.ascontiguousarray(image).data.cast("B"), place * self._length) != self._length:
                raise OSError("no space left")
        except OSError as error:
            self._give_up(error)
            return
        with self._lock:
            self._where[digest] = (pixels, place)
            self._pending.append((digest, place))
            if len(self._pending) >= IMAGES_A_SYNC:
                self._sync()
                self._room = min(self._room, self._count_room())

    def _create(self) -> tuple[int, int]:
        name = self._store / f"{os.getpid()}-{secrets.token_hex(4)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._own = os.open(f"{name}.pixels", flags, 0o644), os.open(f"{name}.index", flags | os.O_APPEND, 0o644)
        self._files += self._own
        return self._own

    def _sync(self) -> None:
        if self._own is None or not self._pending:
            return
        pixels, index = self._own
        try:
            os.fdatasync(pixels)
            os.write(index, b"".join(_ENTRY.pack(d, place, _check(d, place)) for d, place in self._pending))
        except OSError as error:
            self._give_up(error)
        self._pending.clear()

    def _give_up(self, error: OSError) -> None:
        if self._room > 0:
            print(f"cache: {self._store} takes no more ({error}); the other images are decoded each time.", flush=True)
        self._room = 0

    def _count_room(self) -> int:
        return max(0, self._limit - _bytes_below(self._root)) // self._length

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()
            for file in self._files:
                os.close(file)


def open_cache(
    kind: CacheKind, input_size: tuple[int, int], folder: Path, limit_gb: float | None = None
) -> RamCache | DiskCache | None:
    """Return a cache, which is called with a path and returns the image; None for none. ``limit_gb`` counts 10**9 bytes."""
    limit = None if limit_gb is None else int(limit_gb * 1e9)
    if kind == "ram":
        return RamCache(input_size, limit)
    return DiskCache(folder, input_size, limit) if kind == "disk" else None


def _check(digest: bytes, place: int) -> int:
    return zlib.crc32(digest + place.to_bytes(8, "little"))


def _bytes_of(input_size: tuple[int, int]) -> int:
    return input_size[0] * input_size[1] * 3


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _available_memory() -> int:
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
