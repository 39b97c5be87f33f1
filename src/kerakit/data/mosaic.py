"""Mosaics: four images with boxes become one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit.data.boxes import clip_boxes, visible_boxes
from kerakit.data.decode import Pixels

Load = Callable[[int], tuple[Pixels, dict[str, Any]]]
"""Function from a dataset index to an image and its annotation, see ``Mosaic``."""

_CENTER = (0.3, 0.7)
"""Range of the point where the four images meet, as fractions of the sides."""

_SCALE = (0.5, 1.25)
"""Range of the scale of each image; at least what fills its part."""


class Mosaic:
    """Mosaics of an image and three others: more objects, of more sizes, at more places.

    Each image is scaled by a random factor and cut to its part of the mosaic. Boxes that are mostly
    cut away are dropped (see ``kerakit.data.boxes``). Source: Bochkovskiy et al., "YOLOv4", 2020.
    The last epochs are better trained without mosaics, on images as they will be predicted: Ge et
    al., "YOLOX", 2021.

    Args:
        probability: of an image to become a mosaic.
        epochs: number of epochs with mosaics; None: all.

    >>> def load(i: int) -> tuple[Pixels, dict[str, Any]]:
    ...     boxes = np.array([[0, 0, 16, 12]], np.float32)
    ...     return np.full((12, 16, 3), i, np.uint8), {"boxes": boxes, "classes": np.array([i])}
    >>> image, annotation = Mosaic(1)(load, 7, candidates=np.arange(100), seed=0)
    >>> image.shape, len(np.unique(image)), sorted(annotation)
    ((12, 16, 3), 4, ['boxes', 'classes'])
    """

    def __init__(self, probability: float = 0.5, epochs: int | None = None) -> None:
        self.probability, self.epochs = probability, epochs

    def is_active(self, epoch: int) -> bool:
        """Return whether ``epoch``, counted from 0, has mosaics."""
        return self.probability > 0 and (self.epochs is None or epoch < self.epochs)

    def partners(self, candidates: NDArray[np.int64], seed: int) -> list[int]:
        """Return the dataset indices of the images beside one: three, or none without a mosaic."""
        return self._draw(np.random.Generator(np.random.Philox(key=seed)), candidates)

    def _draw(self, rng: np.random.Generator, candidates: NDArray[np.int64]) -> list[int]:
        is_mosaic = rng.random() < self.probability
        return rng.choice(candidates, 3).tolist() if is_mosaic else []

    def __call__(
        self, load: Load, index: int, candidates: NDArray[np.int64], seed: int
    ) -> tuple[Pixels, dict[str, Any]]:
        """Return a mosaic, or the image alone: a function of the arguments.

        Args:
            load: returns an image, uint8 (height, width, 3), all of one size, and its annotation:
                ``boxes``, x1, y1, x2, y2 in pixels of that image, (n, 4), and other arrays of n
                rows, such as ``classes``.
            index: dataset index of the image.
            candidates: dataset indices of the images that may be beside it, (m,).
            seed: in [0, 2**64), such as that of (seed, epoch, key).
        """
        rng = np.random.Generator(np.random.Philox(key=seed))
        image, annotation = load(index)
        others = [load(int(i)) for i in self._draw(rng, candidates)]
        if not others:
            return image, annotation
        samples = [(image, annotation), *others]
        order = rng.permutation(4)
        height, width = image.shape[:2]
        x, y = (round(side * rng.uniform(*_CENTER)) for side in (width, height))
        mosaic = np.empty_like(image)
        parts = []
        for place, (left, right, top, bottom) in enumerate(
            [(0, x, 0, y), (x, width, 0, y), (0, x, y, height), (x, width, y, height)]
        ):
            part = mosaic[top:bottom, left:right]
            cut = _fill(part, samples[order[place]], rng)
            cut["boxes"] += np.array([left, top, left, top], np.float32)
            parts.append(cut)
        return mosaic, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _fill(
    part: Pixels, sample: tuple[Pixels, dict[str, Any]], rng: np.random.Generator
) -> dict[str, Any]:
    """Fill a part of a mosaic with a scaled cutout of an image; return the boxes in the part."""
    image, annotation = sample
    (rows, columns), (height, width) = part.shape[:2], image.shape[:2]
    fit = max(rows / height, columns / width)
    scale = rng.uniform(max(_SCALE[0], fit), _SCALE[1])
    cut_width, cut_height = min(width, round(columns / scale)), min(height, round(rows / scale))
    left, top = rng.integers(width - cut_width + 1), rng.integers(height - cut_height + 1)
    cutout = np.ascontiguousarray(image[top : top + cut_height, left : left + cut_width])
    part[:] = cv2.resize(cutout, (columns, rows))
    factors = np.array([columns / cut_width, rows / cut_height] * 2, np.float32)
    boxes = np.asarray(annotation["boxes"], np.float32).reshape(-1, 4)
    boxes, visible = clip_boxes(
        (boxes - np.array([left, top, left, top], np.float32)) * factors, columns, rows
    )
    remaining = visible_boxes(boxes, visible)
    return {
        name: (boxes if name == "boxes" else np.asarray(values))[remaining]
        for name, values in annotation.items()
    }
