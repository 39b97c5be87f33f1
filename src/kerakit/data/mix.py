"""MixUp and CutMix: images of a batch and their labels are blended in pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.errors import UserError


class Mix:
    """MixUp and CutMix of training batches; targets become soft labels.

    With both, each batch uses one of them, drawn with equal probability. λ, the weight of
    the first image, is drawn from Beta(alpha, alpha) once per batch, as in the papers' own code:
    Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix", 2019.

    Args:
        soft_targets: the number of classes, or ``Task.soft_targets``, which encodes a batch of
            targets so that they can be blended.
        mixup: alpha of MixUp, above 0; 0: off.
        cutmix: alpha of CutMix, above 0; 0: off.

    >>> mix = Mix(2, mixup=0.2)
    >>> images, labels = mix(np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1]), seed=0)
    >>> images.shape, labels.shape
    ((4, 8, 8, 3), (4, 2))
    """

    def __init__(
        self,
        soft_targets: int | Callable[[Any, str], Any],
        mixup: float = 0,
        cutmix: float = 0,
    ) -> None:
        self.mixup, self.cutmix = mixup, cutmix
        if isinstance(soft_targets, int):
            self._one_hot = np.eye(soft_targets, dtype=np.float32)
            soft_targets = self._class_targets
        self._soft_targets = soft_targets
        methods = ((_blend, mixup), (_paste, cutmix))
        self._methods = [(method, alpha) for method, alpha in methods if alpha]

    def soft_labels(self, targets: Any) -> Any:
        """Return targets of a batch as soft labels: float32 (batch, ...), or a dict of them.

        Raises:
            UserError: the targets cannot be blended.
        """
        # Each method may refuse targets.
        labels = {
            name: self._soft_targets(targets, name)
            for name in ("mixup", "cutmix")
            if getattr(self, name)
        }
        return next(iter(labels.values()))

    def _class_targets(self, targets: Any, _: str) -> NDArray[np.float32]:
        if not (
            isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu"
        ):
            raise UserError(
                "MixUp and CutMix need one class index per image as the target. Omit --mixup and "
                "--cutmix."
            )
        return self._one_hot[targets]

    def __call__(self, images: Any, targets: Any, seed: int) -> tuple[NDArray[np.uint8], Any]:
        """Mix a batch: images, uint8 (batch, height, width, 3), and their targets."""
        rng = np.random.Generator(np.random.Philox(key=seed))
        method, alpha = self._methods[rng.integers(len(self._methods))]
        partners = rng.permutation(len(images))
        mixed, lam = method(images, images[partners], rng.beta(alpha, alpha), rng)

        def blend(labels: NDArray[np.float32]) -> NDArray[np.float32]:
            return np.float32(lam) * labels + np.float32(1 - lam) * labels[partners]

        return mixed, nested.map_arrays(blend, self.soft_labels(targets))


def _blend(
    images: NDArray[np.uint8], partners: NDArray[np.uint8], lam: float, _: np.random.Generator
) -> tuple[NDArray[np.uint8], float]:
    """MixUp: λ of the image plus 1 - λ of its partner."""
    flat = (len(images), -1)
    blended = cv2.addWeighted(images.reshape(flat), lam, partners.reshape(flat), 1 - lam, 0)
    return np.asarray(blended, np.uint8).reshape(images.shape), lam


def _paste(
    images: NDArray[np.uint8], partners: NDArray[np.uint8], lam: float, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], float]:
    """CutMix: a box of 1 - λ of the area is the partner's; λ is corrected if it is clipped."""
    height, width = images.shape[1:3]
    half = math.sqrt(1 - lam) / 2
    y, x = rng.random(2)
    top, bottom = (round(height * min(1.0, max(0.0, y + side * half))) for side in (-1, 1))
    left, right = (round(width * min(1.0, max(0.0, x + side * half))) for side in (-1, 1))
    pasted = images.copy()
    pasted[:, top:bottom, left:right] = partners[:, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
