"""Batches for training, and single images for calibration. The places to change are marked with CHANGE."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812 - its documentation calls it A
import numpy as np

import kerakit
from kerakit.data.decode import Pixels
from kerakit.deploy.quantization.calibration import places_in_turn
from kerakit.report.plots import image_grid
from reader import DataReader


class BatchGenerator(kerakit.BatchGenerator):
    """A ``keras.utils.Sequence``: ``generator[i]`` is (images, targets), uint8 (batch, height, width, 3) and int32 (batch,)."""

    def get_aug_pipeline(self) -> A.Compose:
        """Return what --jitter does to a training image. CHANGE: to what may happen to your images and keeps their class.

        ``self.strength`` is 1, or what --jitter_strength says.

        Masks, boxes and keypoints follow if the reader gives a dictionary of them as the target, as albumentations names them.
        """
        s = self.strength
        return A.Compose(
            [
                kerakit.Warp(flip=0.5, scale=(0.85**s, 1.25**s), translate=0.1 * s, rotate=15 * s),
                kerakit.Recolor(
                    brightness=0.15 * s, contrast=0.2 * s, saturation=0.2 * s, hue=6 * s
                ),
                A.OneOf(
                    [
                        A.GaussianBlur(blur_limit=(3, 5)),
                        A.GaussNoise(std_range=(0.02, 0.06), noise_scale_factor=0.5),
                    ],
                    p=0.2 * s,
                ),
                A.Erasing(scale=(0.02, 0.1), p=0.2 * s),
            ]
        )

    def preprocess(self, image: Pixels, annot: Any) -> tuple[Pixels, Any]:
        """Return the pixels and the target of one image. CHANGE: crop, or build another target. The model normalises."""
        return image, annot

    def visualize(self, i: int, path: Path | str | None = None) -> Any:
        """Draw batch ``i`` as a ``PIL.Image.Image``; save it to ``path`` if given. CHANGE: to titles that tell your targets."""
        images, targets = self.peek(i)
        are_arrays = isinstance(targets, np.ndarray)
        picture = image_grid(
            images,
            [self._title(target) for target in targets] if are_arrays else [""] * len(images),
        )
        if path is not None:
            picture.save(path)
        return picture

    def _title(self, target: Any) -> str:
        names = self.data_reader.class_names
        if target.ndim == 1 and target.dtype.kind == "f" and len(target) == len(names):
            return " ".join(f"{names[i]} {target[i]:.0%}" for i in np.flatnonzero(target))
        return names[target] if target.ndim == 0 and target.dtype.kind == "i" else ""


class ImageGenerator:
    """Training images for calibration, without end and without augmentation.

    Each comes once before any comes again, and classes take turns, so that few images stand for all of them.

    Args:
        data_reader: what there is to read.
        input_size: (width, height) in pixels.
        seed: of the order.
    """

    def __init__(self, data_reader: DataReader, input_size: tuple[int, int], seed: int = 0) -> None:
        self._batches = BatchGenerator(
            data_reader, "train", batch_size=1, input_size=input_size, seed=seed
        )
        self._places = places_in_turn(self._batches)

    def __len__(self) -> int:
        """Return the number of different images."""
        return len(self._places)

    def keys(self, count: int) -> list[str]:
        """Return the reader's names of the first ``count`` images."""
        return [self._batches.keys(place)[0] for place in self._places[:count]]

    def __iter__(self) -> Iterator[Pixels]:
        """Yield uint8 (height, width, 3)."""
        for place in itertools.cycle(self._places):
            yield np.asarray(self._batches.sample(place)[0], np.uint8)
