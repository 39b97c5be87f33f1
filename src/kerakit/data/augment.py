"""Augmentation with randomness that is a pure function of (seed, epoch, key)."""

from __future__ import annotations

import hashlib
import os
import random
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError

# The increment of the PCG64 streams, any odd number; images differ in the state, of 128 bits.
_INCREMENT = 0xDA3E39CB94B95BDB


class Augmenter:
    """An albumentations pipeline that is seeded for each image.

    A ``Compose`` keeps its random state and is not thread-safe, so each thread has its own.

    Args:
        make_pipeline: function that returns a new ``albumentations.Compose``.
        seed: seed of the run.
        compose_options: arguments of ``albumentations.Compose`` for boxes and keypoints, which the
            pipeline need not have (see ``FollowingPipeline``).

    Raises:
        UserError: when called: ``make_pipeline`` returned something else.
    """

    def __init__(
        self,
        make_pipeline: Callable[[], Any],
        seed: int,
        compose_options: Mapping[str, Any] | None = None,
    ) -> None:
        self._make_pipeline = make_pipeline
        self._seed = seed
        self._compose_options = dict(compose_options or {})
        self._per_thread = threading.local()

    def __call__(self, epoch: int, key: str, **data: Any) -> dict[str, Any]:
        """Augment an image with its masks, boxes and keypoints.

        Args:
            epoch: counted from 0.
            key: key of the image.
            data: ``image``, uint8 (height, width, 3), and optionally ``mask``, ``bboxes``,
                ``keypoints``, as albumentations names them. With ``compose_options``, coordinates
                are positions in pixels, from 0 to the width or height.

        Returns:
            A dictionary with the same names.
        """
        if not hasattr(self._per_thread, "seeded"):
            self._per_thread.seeded = _SeededPipeline(self._make_pipeline(), self._compose_options)
        augmented: dict[str, Any] = self._per_thread.seeded(_digest(self._seed, epoch, key), data)
        return augmented


class _SeededPipeline:
    """A pipeline whose transforms share two random generators, which are seeded in place.

    ``Compose.set_random_seed`` creates generators at every call, visits each transform, and tries
    to import torch, whose absence Python finds out by searching the import path: 0.16 ms per image.
    """

    def __init__(self, pipeline: Any, compose_options: Mapping[str, Any]) -> None:
        if not hasattr(pipeline, "set_random_state"):
            raise UserError(
                f"get_aug_pipeline() returned {type(pipeline).__name__}. Expected an "
                "albumentations.Compose."
            )
        # It imports albumentations, which commands that augment nothing start sooner without.
        from kerakit.data.followers import FollowingPipeline, follow_masks

        self._bits = np.random.PCG64(0)
        self._state: Any = dict(self._bits.state)
        self._random = random.Random()
        # Without a seed of its own, a Compose does not look for torch when it is called, either.
        pipeline.set_random_seed(None)
        follow_masks(pipeline)
        if compose_options:
            pipeline = FollowingPipeline(pipeline, compose_options)
        self._pipeline = pipeline
        pipeline.set_random_state(np.random.Generator(self._bits), self._random)

    def __call__(self, seed: bytes, data: dict[str, Any]) -> Any:
        self._state["state"] = {"state": int.from_bytes(seed[:16], "big"), "inc": _INCREMENT}
        self._bits.state = self._state
        self._random.seed(int.from_bytes(seed[16:], "big"))
        return self._pipeline(**data)


def derive_seed(seed: int, epoch: int, key: str) -> int:
    """Return a seed in [0, 2**32) that is a pure function of the arguments."""
    return int.from_bytes(_digest(seed, epoch, key, size=4), "big")


def _digest(seed: int, epoch: int, key: str, size: int = 32) -> bytes:
    return hashlib.blake2b(b"%d:%d:%s" % (seed, epoch, os.fsencode(key)), digest_size=size).digest()


def is_mirrored(before: NDArray[Any], after: NDArray[Any]) -> bool:
    """Return whether three points, (3, 2), changed their orientation, as in a mirrored image.

    Args:
        before: points that are not on a line.
        after: the same points after augmentation.

    >>> corners = np.array([[0, 0], [1, 0], [0, 1]])
    >>> is_mirrored(corners, corners * [-1, 1]), is_mirrored(corners, corners * [-1, -1])
    (True, False)
    """
    return bool(_orientation(before) * _orientation(after) < 0)


def _orientation(points: NDArray[Any]) -> Any:
    """Return twice the signed area of a triangle."""
    (a, b), (c, d) = np.asarray(points[1:3], np.float64) - np.asarray(points[0], np.float64)
    return a * d - b * c
