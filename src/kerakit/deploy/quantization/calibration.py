"""Which images the ranges of a quantised model are measured on."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.data.order import permutation

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Calibration:
    """Training images without augmentation, the same in the same order each time; every beginning is balanced over classes.

    Attributes:
        keys: the name of each image.
        images: returns a new iterator over them, uint8 (height, width, 3).
        twice: returns the list of twice as many, which begins with these; all where there are fewer. None: there are no more.
    """

    keys: tuple[str, ...]
    images: Callable[[], Iterator[Pixels]]
    twice: Callable[[], Calibration] | None = None

    @property
    def sha256(self) -> str:
        """The SHA-256 of the list: one key a line, in UTF-8, in the order of the images."""
        lines = "".join(f"{key}\n" for key in self.keys)
        return hashlib.sha256(lines.encode(errors="surrogateescape")).hexdigest()

    def facts(self) -> dict[str, Any]:
        """Return what the report says of it."""
        return {"images": len(self.keys), "sha256": self.sha256}


def calibration_images(generator: Any, count: int) -> Calibration:
    """Return the first ``count`` images of the project's ``ImageGenerator``; all where there are fewer, each once."""
    count = min(count, len(generator))
    return Calibration(
        tuple(generator.keys(count)),
        lambda: itertools.islice(iter(generator), count),
        lambda: calibration_images(generator, 2 * count),
    )


def places_in_turn(generator: Any) -> NDArray[np.int64]:
    """Return the places of a ``BatchGenerator``'s first epoch, int64 (n,), so that classes take turns."""
    reader, rows = generator.data_reader, generator.index
    if generator.mode == "train":
        rows = rows[permutation(len(rows), generator.seed, 0)]
    # By its text any target can be compared, arrays and dictionaries too.
    return in_turn(repr(reader.target(int(row))) for row in rows)


def in_turn(classes: Iterable[str]) -> NDArray[np.int64]:
    """Return the order that takes one of each class in turn, as long as there are any, and else keeps the order given."""
    seen: Counter[str] = Counter()
    rounds = []
    for one in classes:
        rounds.append(seen[one])
        seen[one] += 1
    return np.argsort(rounds, kind="stable")
