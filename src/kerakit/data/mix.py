"""MixUp and CutMix: each image of a batch is blended with another one, and so are their classes."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError


class Mix:
    """Blends the images of a training batch pairwise; its targets become shares of the classes.

    With both, an even draw decides for each batch. The share of an image is drawn from Beta(a, a), once a batch, as in the
    papers' own code: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018; Yun et al., "CutMix", 2019.

    Args:
        num_classes: of the data.
        mixup: the a of MixUp, above 0; 0 for none.
        cutmix: the a of CutMix, above 0; 0 for none.
    """

    def __init__(self, num_classes: int, mixup: float = 0, cutmix: float = 0) -> None:
        self._classes = np.eye(num_classes, dtype=np.float32)
        self._ways = [(way, alpha) for way, alpha in ((_blend, mixup), (_paste, cutmix)) if alpha]

    def shares(self, targets: Any) -> NDArray[np.float32]:
        """Return class numbers, (batch,), as shares, float32 (batch, num_classes).

        Raises:
            UserError: the targets are not one class an image.
        """
        if not (
            isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu"
        ):
            raise UserError(
                "MixUp and CutMix need one class an image; these targets are something else. Leave them away."
            )
        return self._classes[targets]

    def __call__(
        self, images: Any, targets: Any, seed: int
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Blend a batch, uint8 (batch, height, width, 3) and int (batch,), by what ``seed`` draws."""
        draw = np.random.Generator(np.random.Philox(key=seed))
        way, alpha = self._ways[draw.integers(len(self._ways))]
        partner = draw.permutation(len(images))
        mixed, share = way(images, images[partner], draw.beta(alpha, alpha), draw)
        shares = self.shares(targets)
        return mixed, np.float32(share) * shares + np.float32(1 - share) * shares[partner]


def _blend(
    images: NDArray[np.uint8], others: NDArray[np.uint8], share: float, _: np.random.Generator
) -> tuple[NDArray[np.uint8], float]:
    """MixUp: λ of the one and 1 - λ of the other."""
    flat = (len(images), -1)
    blended = cv2.addWeighted(images.reshape(flat), share, others.reshape(flat), 1 - share, 0)
    return np.asarray(blended, np.uint8).reshape(images.shape), share


def _paste(
    images: NDArray[np.uint8], others: NDArray[np.uint8], share: float, draw: np.random.Generator
) -> tuple[NDArray[np.uint8], float]:
    """CutMix: a rectangle of 1 - λ of the area, its middle anywhere, comes from the other; cut at the edge, it counts less."""
    height, width = images.shape[1:3]
    cut = math.sqrt(1 - share) / 2
    y, x = draw.random(2)
    top, bottom = (round(height * min(1.0, max(0.0, y + side * cut))) for side in (-1, 1))
    left, right = (round(width * min(1.0, max(0.0, x + side * cut))) for side in (-1, 1))
    pasted = images.copy()
    pasted[:, top:bottom, left:right] = others[:, top:bottom, left:right]
    return pasted, 1 - (bottom - top) * (right - left) / (height * width)
