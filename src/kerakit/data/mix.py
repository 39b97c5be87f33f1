"""MixUp and CutMix: images of a batch and their labels are blended in pairs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

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
        methods = ((False, mixup), (True, cutmix))
        self._methods = [(is_pasted, alpha) for is_pasted, alpha in methods if alpha]

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
        rows = np.arange(len(images))
        partners = self.partners(len(images), images.shape[1:3], seed)
        return self.mix_rows(images, targets, rows, partners, len(images), seed)

    def partners(self, count: int, shape: tuple[int, int], seed: int) -> NDArray[np.int64]:
        """Return the row of the partner of each image of a batch, (count,)."""
        return self._draw(count, shape, seed).partners

    def mix_rows(
        self,
        images: Any,
        targets: Any,
        rows: NDArray[np.int64],
        others: NDArray[np.int64],
        count: int,
        seed: int,
    ) -> tuple[NDArray[np.uint8], Any]:
        """Mix rows of images with others, as in a batch of ``count``.

        Args:
            images: uint8 (n, height, width, 3).
            targets: their targets, (n, ...).
            rows: indices of the images, rising.
            others: indices of their partners.
            count: number of images of the batch.
            seed: that of the batch.
        """
        draw = self._draw(count, images.shape[1:3], seed)
        labels = self.soft_labels(targets)
        blended = nested.map_arrays(lambda one: draw.blend(one[rows], one[others]), labels)
        own = images if len(rows) == len(images) else images[rows]
        return draw.mix(own, images[others]), blended

    def blend(
        self, values: NDArray[np.float32], shape: tuple[int, int], seed: int
    ) -> NDArray[np.float32]:
        """Return values of the images of a batch, float32 (batch, ...), blended like labels.

        Args:
            values: one row per image.
            shape: height and width of the images.
            seed: that of the batch.
        """
        draw = self._draw(len(values), shape, seed)
        return draw.blend(values, values[draw.partners])

    def _draw(self, count: int, shape: tuple[int, int], seed: int) -> _Draw:
        """Return partners and proportions for ``count`` images of a shape (height, width)."""
        rng = np.random.Generator(np.random.Philox(key=seed))
        is_pasted, alpha = self._methods[rng.integers(len(self._methods))]
        partners, lam = rng.permutation(count), float(rng.beta(alpha, alpha))
        if not is_pasted:
            return _Draw(partners, lam)
        box, lam = _draw_box(*shape, lam, rng)
        return _Draw(partners, lam, box)


class _Draw(NamedTuple):
    """Partners and proportions of a mixed batch.

    Attributes:
        partners: of each image, (batch,).
        lam: λ, the weight of the image; 1 - λ is that of its partner.
        box: of CutMix: top, bottom, left and right side; None: MixUp.
    """

    partners: NDArray[np.int64]
    lam: float
    box: tuple[int, int, int, int] | None = None

    def mix(self, images: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return images mixed with their partners."""
        if self.box is None:
            flat = (len(images), -1)
            blended = cv2.addWeighted(
                images.reshape(flat), self.lam, others.reshape(flat), 1 - self.lam, 0
            )
            return np.asarray(blended, np.uint8).reshape(images.shape)
        top, bottom, left, right = self.box
        pasted = images.copy()
        pasted[:, top:bottom, left:right] = others[:, top:bottom, left:right]
        return pasted

    def blend(
        self, labels: NDArray[np.float32], others: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Return labels (batch, ...) mixed with those of their partners."""
        return np.float32(self.lam) * labels + np.float32(1 - self.lam) * others


def _draw_box(
    height: int, width: int, lam: float, rng: np.random.Generator
) -> tuple[tuple[int, int, int, int], float]:
    """Return a box of 1 - λ of the area, clipped to the image, and the λ that it then has."""
    half = math.sqrt(1 - lam) / 2
    y, x = rng.random(2)
    top, bottom = (round(height * min(1.0, max(0.0, y + side * half))) for side in (-1, 1))
    left, right = (round(width * min(1.0, max(0.0, x + side * half))) for side in (-1, 1))
    return (top, bottom, left, right), 1 - (bottom - top) * (right - left) / (height * width)
