"""Calibration images: training images that determine the activation ranges."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class ImageSource(Protocol):
    """Images in a fixed order, such as those of the project's ``ImageGenerator``."""

    def __len__(self) -> int:
        """Return the number of different images."""

    def keys(self, count: int) -> list[str]:
        """Return the keys of the first ``count`` images."""

    def __iter__(self) -> Iterator[Pixels]:
        """Yield images, uint8 (height, width, 3)."""


@dataclass(frozen=True)
class Calibration:
    """Calibration images in a fixed order.

    Attributes:
        keys: one per image.
        images: returns a new iterator over the images, uint8 (height, width, 3).
        doubled: returns a calibration with twice as many images that begins with these; None: no
            more images are available.

    >>> Calibration(("a.png", "b.png"), lambda: iter(())).to_json()["images"]
    2
    """

    keys: tuple[str, ...]
    images: Callable[[], Iterator[Pixels]]
    doubled: Callable[[], Calibration] | None = None

    @property
    def sha256(self) -> str:
        """SHA-256 of the keys in UTF-8, one per line, in the order of the images."""
        lines = "".join(f"{key}\n" for key in self.keys)
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()

    def to_json(self) -> dict[str, Any]:
        """Return the entry of the report."""
        return {"images": len(self.keys), "sha256": self.sha256}


def select_calibration_images(source: ImageSource, count: int) -> Calibration:
    """Return the first ``count`` images of ``source``, or all if it has fewer.

    >>> class Source(dict):
    ...     def keys(self, count):
    ...         return list(self)[:count]
    >>> images = Source({"a.png": np.zeros((4, 4, 3), np.uint8)})
    >>> select_calibration_images(images, 100).keys
    ('a.png',)
    """
    count = min(count, len(source))
    return Calibration(
        tuple(source.keys(count)),
        lambda: itertools.islice(iter(source), count),
        (lambda: select_calibration_images(source, 2 * count)) if count < len(source) else None,
    )
