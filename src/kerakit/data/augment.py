"""Augmentation whose randomness is a pure function of (seed, epoch, key), on any number of threads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray


class Augmenter:
    """Runs an albumentations pipeline, seeded for each image.

    A ``Compose`` keeps its random state inside and is not thread-safe, so each thread makes its own.

    Args:
        make_pipeline: returns a new ``albumentations.Compose``.
        seed: of the run.
    """

    def __init__(self, make_pipeline: Callable[[], Any], seed: int) -> None:
        self._make_pipeline = make_pipeline
        self._seed = seed
        self._of_thread = threading.local()

    def __call__(self, epoch: int, key: str, **data: Any) -> dict[str, Any]:
        """Augment ``data`` (``image=`` uint8 (height, width, 3); also ``mask=``, ``bboxes=``, … as albumentations names them).

        Returns:
            A dictionary with the same names.
        """
        if not hasattr(self._of_thread, "pipeline"):
            self._of_thread.pipeline = self._make_pipeline()
        self._of_thread.pipeline.set_random_seed(seed_of(self._seed, epoch, key))
        augmented: dict[str, NDArray[Any]] = self._of_thread.pipeline(**data)
        return augmented


def seed_of(seed: int, epoch: int, key: str) -> int:
    """Return a seed in [0, 2**32) that depends on nothing but its arguments."""
    digest = hashlib.blake2b(b"%d:%d:%s" % (seed, epoch, os.fsencode(key)), digest_size=4).digest()
    return int.from_bytes(digest, "big")
