"""Decoded images, kept in memory or on disk, so that later epochs and later runs need not decode them again.

What is kept is the uint8 array before augmentation, so a cache changes no batch. On disk a store is a folder for one input size
and one way of decoding, with pairs of files: ``*.pixels``, arrays of one length end to end, and ``*.index``, which says whose
they are. A process writes to its own pair and reads all of them, so any number of runs share a store. Nothing waits for the
disk: every entry holds a CRC-32 of its pixels, and pixels of an earlier run are checked when they are first read, so that
whatever a kill or a power cut left, no wrong pixels come back.
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
from typing import Literal

import numpy as np

from kerakit.data.decode import DECODER_VERSION, Pixels, read_image
from kerakit.files import make_dir
from kerakit.machine import available_memory

CacheKind = Literal["none", "ram", "disk"]

IMAGES_A_COUNT = 64
"""After how many new images the folder is measured again, since other runs may fill it too."""

_ENTRY = struct.Struct(
    "<16sQII"
)  # digest of the image's key; its place in .pixels; CRC-32 of its pixels; CRC-32 of these


class RamCache:
    """Keeps decoded images in memory until ``limit`` bytes are used; the rest is decoded each time.

    Args:
        input_size: (width, height) in pixels.
        limit: in bytes; default: half of what is available now.
    """

    def __init__(self, input_size: tuple[int, int], limit: int | None = None) -> None:
        self._input_size = input_size
        self._room = (available_memory() // 2 if limit is None else limit) // _bytes_of(input_size)
        self._images: dict[Path, Pixels] = {}

    def __len__(self) -> int:
        """Return how many images are kept."""
        return len(self._images)

    def __call__(self, path: Path) -> Pixels:
        """Return the image, uint8 (height, width, 3), for the caller to change."""
        image = self._images.get(path)
        if image is None:
            image = read_image(path, self._input_size)
            if len(self._images) < self._room:
                self._images[path] = image
        return image.copy()


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
        self._store = folder / f"{input_size[0]}x{input_size[1]}-{DECODER_VERSION}"
        make_dir(self._store)
        self._limit = (
            _bytes_below(folder) + shutil.disk_usage(self._store).free // 2
            if limit is None
            else limit
        )
        self._lock = threading.Lock()
        self._files: list[int] = []
        # By digest: the file, the place in it, and the CRC-32 that is still to be checked (None once it was).
        self._where: dict[bytes, tuple[int, int, int | None]] = {}
        self._own: tuple[int, int] | None = None
        self._written = 0
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
        if where is not None and (image := self._load(digest, *where)) is not None:
            return image
        image = read_image(path, self._input_size)
        self._keep(digest, image)
        return image

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
            digest, place, crc, check = entry
            if check == _check(digest, place, crc) and place < images:
                self._where[digest] = (pixels, place, crc)

    def _load(self, digest: bytes, file: int, place: int, crc: int | None) -> Pixels | None:
        # Read, not memory-mapped: one copy into an array of the caller's own, without holding Python's lock.
        image = np.empty((self._input_size[1], self._input_size[0], 3), np.uint8)
        read = os.preadv(file, [image.data.cast("B")], place * self._length)
        if read != self._length or (crc is not None and zlib.crc32(image.data) != crc):
            return None
        if crc is not None:
            self._where[digest] = (file, place, None)
        return image

    # ------------------------------------------------------------------------------------------------------------- keeping

    def _keep(self, digest: bytes, image: Pixels) -> None:
        with self._lock:
            if self._room <= 0:
                return
            self._room -= 1
            try:
                pixels, index = self._own or self._create()
            except OSError as error:
                self._give_up(error)
                return
            place, self._written = self._written, self._written + 1
        try:
            whole = np.ascontiguousarray(image)
            if os.pwrite(pixels, whole.data.cast("B"), place * self._length) != self._length:
                raise OSError("no space left")
            crc = zlib.crc32(whole.data)
            os.write(index, _ENTRY.pack(digest, place, crc, _check(digest, place, crc)))
        except OSError as error:
            self._give_up(error)
            return
        self._where[digest] = (pixels, place, None)
        if place % IMAGES_A_COUNT == 0:
            with self._lock:
                self._room = min(self._room, self._count_room())

    def _create(self) -> tuple[int, int]:
        name = self._store / f"{os.getpid()}-{secrets.token_hex(4)}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL
        self._own = (
            os.open(f"{name}.pixels", flags, 0o644),
            os.open(f"{name}.index", flags | os.O_APPEND, 0o644),
        )
        self._files += self._own
        return self._own

    def _give_up(self, error: OSError) -> None:
        if self._room > 0:
            print(
                f"cache: {self._store} takes no more ({error}); the other images are decoded each time.",
                flush=True,
            )
        self._room = 0

    def _count_room(self) -> int:
        return max(0, self._limit - _bytes_below(self._root)) // self._length

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
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


def _check(digest: bytes, place: int, crc: int) -> int:
    return zlib.crc32(digest + place.to_bytes(8, "little") + crc.to_bytes(4, "little"))


def _bytes_of(input_size: tuple[int, int]) -> int:
    return input_size[0] * input_size[1] * 3


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
