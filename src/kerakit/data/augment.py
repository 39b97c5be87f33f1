"""Augmentation with randomness that is a pure function of (seed, epoch, key)."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray


class Augmenter:
    """An albumentations pipeline that is seeded for each image.

    A ``Compose`` keeps its random state and is not thread-safe, so each thread has its own.

    Args:
        make_pipeline: function that returns a new ``albumentations.Compose``.
        seed: seed of the run.
    """

    def __init__(self, make_pipeline: Callable[[], Any], seed: int) -> None:
        self._make_pipeline = make_pipeline
        self._seed = seed
        self._per_thread = threading.local()

    def __call__(self, epoch: int, key: str, **data: Any) -> dict[str, Any]:
        """Augment an image with its masks, boxes and keypoints.

        Args:
            epoch: counted from 0.
            key: key of the image.
            data: ``image``, uint8 (height, width, 3), and optionally ``mask``, ``bboxes``,
                ``keypoints``, as albumentations names them.

        Returns:
            A dictionary with the same names.
        """
        if not hasattr(self._per_thread, "pipeline"):
            self._per_thread.pipeline = self._make_pipeline()
        self._per_thread.pipeline.set_random_seed(derive_seed(self._seed, epoch, key))
        augmented: dict[str, NDArray[Any]] = self._per_thread.pipeline(**data)
        return augmented


def derive_seed(seed: int, epoch: int, key: str) -> int:
    """Return a seed in [0, 2**32) that is a pure function of the arguments."""
    digest = hashlib.blake2b(b"%d:%d:%s" % (seed, epoch, os.fsencode(key)), digest_size=4).digest()
    return int.from_bytes(digest, "big")
