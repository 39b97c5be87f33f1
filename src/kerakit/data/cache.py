"""Caches of decoded images, in memory or on disk, for later epochs and later runs.

A cache stores the uint8 array before augmentation, so it does not change batches.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Literal

import numpy as np

from kerakit.data.decode import Pixels, read_image
from kerakit.data.identity import decoder_identity
from kerakit.data.shards.member import Member, file_identity
from kerakit.data.store import ArrayStore, default_limit, digest, remove_oldest
from kerakit.device.preprocessing import STRETCH, Preprocessing
from kerakit.machine import available_memory

CacheKind = Literal["none", "ram", "disk"]


ROOM_IMAGES = 256
"""Number of images that a disk cache makes room for, by removing images of other sizes."""


class RamCache:
    """Cache in memory. Once it is full, further images are decoded at each call.

    Args:
        input_size: (width, height) in pixels.
        limit: largest size in bytes; default: half of the available memory.
        preprocessing: crop, resize policy and color.
    """

    def __init__(
        self,
        input_size: tuple[int, int],
        limit: int | None = None,
        preprocessing: Preprocessing = STRETCH,
    ) -> None:
        self._input_size, self._preprocessing = input_size, preprocessing
        limit = available_memory() // 2 if limit is None else limit
        self._max_images = limit // _bytes_per_image(input_size)
        self._images: dict[Path | Member, Pixels] = {}

    def __len__(self) -> int:
        """Return the number of cached images."""
        return len(self._images)

    def __contains__(self, path: Path | Member) -> bool:
        """Whether an image is cached."""
        return path in self._images

    def __call__(self, path: Path | Member) -> Pixels:
        """Return a copy of the image, uint8 (height, width, 3)."""
        image = self._images.get(path)
        if image is None:
            image = read_image(path, self._input_size, self._preprocessing)
            if len(self._images) < self._max_images:
                self._images[path] = image
        return image.copy()


class DiskCache:
    """Cache on disk, shared by runs. Once it is full, further images are decoded at each call.

    Images are keyed by path, size, and times of modification and change, and by the versions of
    the decoders: an edited image is decoded again. Whatever is wrong with the folder, images are
    decoded.

    Args:
        folder: folder of the caches of all input sizes.
        input_size: (width, height) in pixels.
        limit: largest size of ``folder`` in bytes; default: half of the disk space that is free or
            used by it.
        preprocessing: crop, resize policy and color.
    """

    def __init__(
        self,
        folder: Path,
        input_size: tuple[int, int],
        limit: int | None = None,
        preprocessing: Preprocessing = STRETCH,
    ) -> None:
        self._input_size, self._preprocessing = input_size, preprocessing
        self._folder = folder
        name = f"{input_size[0]}x{input_size[1]}-{decoder_identity()}"
        if preprocessing != STRETCH:
            name += f"-{digest(repr(preprocessing)).hex()}"
        own = folder / name
        record_bytes = _bytes_per_image(input_size)
        limit = default_limit(folder) if limit is None else limit
        # Pixels of other sizes and decoders are not read by this run.
        remove_oldest(folder, "*/*.index", ROOM_IMAGES * record_bytes, limit, keep=[own])
        self._store = ArrayStore(own, record_bytes, limit, root=folder)
        with contextlib.suppress(OSError):
            os.utime(own)

    def __len__(self) -> int:
        """Return the number of cached images."""
        return len(self._store)

    def __contains__(self, path: Path | Member) -> bool:
        """Whether an image is cached."""
        return digest(*file_identity(path)) in self._store

    def __call__(self, path: Path | Member) -> Pixels:
        """Return the image, uint8 (height, width, 3), as a writable array."""
        identity = file_identity(path)
        if not identity:
            return self._decode(path)  # raises an ImageError that says why
        key = digest(*identity)
        image = np.empty((self._input_size[1], self._input_size[0], 3), np.uint8)
        if self._store.read(key, image):
            return image
        image = np.ascontiguousarray(self._decode(path))
        try:
            self._store.write(key, image)
        except OSError as error:
            print(
                f"WARNING: the cache {self._folder} cannot be written ({error.strerror}). Images "
                "that are not in it are decoded in every epoch.",
                flush=True,
            )
        return image

    def _decode(self, path: Path | Member) -> Pixels:
        return read_image(path, self._input_size, self._preprocessing)


def open_cache(
    kind: CacheKind,
    input_size: tuple[int, int],
    folder: Path,
    limit_gb: float | None = None,
    preprocessing: Preprocessing = STRETCH,
) -> RamCache | DiskCache | None:
    """Return a cache: a function from a path to an image, for the ``read`` of ``BatchGenerator``.

    Args:
        kind: "ram", "disk", or "none" (returns None).
        input_size: (width, height) in pixels.
        folder: folder of the disk caches.
        limit_gb: largest size in GB (10**9 bytes); default: half of the available memory or disk
            space.
        preprocessing: crop, resize policy and color.

    >>> cache = open_cache("ram", (224, 224), Path(".cache"), limit_gb=2)
    >>> len(cache)
    0
    """
    limit = None if limit_gb is None else int(limit_gb * 1e9)
    if kind == "ram":
        return RamCache(input_size, limit, preprocessing)
    return DiskCache(folder, input_size, limit, preprocessing) if kind == "disk" else None


def _bytes_per_image(input_size: tuple[int, int]) -> int:
    return input_size[0] * input_size[1] * 3
