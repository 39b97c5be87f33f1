"""Batches for training, and single images for calibration. CHANGE marks the places to edit."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812 - as in its documentation
import numpy as np
from PIL import Image

from kerakit import data
from reader import DataReader


class BatchGenerator(data.BatchGenerator):
    """A ``keras.utils.Sequence``: ``generator[i]`` is one batch of (images, targets).

    Images are uint8 (batch, height, width, 3); targets of classification are int32 (batch,).
    """

    def get_aug_pipeline(self) -> A.Compose:
        """Return the augmentation of --jitter. CHANGE: use label-preserving transforms.

        ``self.strength`` is 1, or --jitter_strength.
        """
        s = self.strength
        return A.Compose(
            [
                data.Warp(flip=0.5, scale=(0.85**s, 1.25**s), translate=0.1 * s, rotate=15 * s),
                data.Recolor(brightness=0.15 * s, contrast=0.2 * s, saturation=0.2 * s, hue=6 * s),
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

    def preprocess(self, image: data.Pixels, annot: Any) -> tuple[data.Pixels, Any]:
        """Return image and annotation after augmentation. CHANGE: for example, the annotation.

        ``annot`` is None in predict.py. Devices do not run this method, so deploy.py requires that
        it leaves pixels unchanged: see PREPROCESSING in config.py for crop, letterbox and gray.
        """
        return image, annot

    def visualize(self, i: int, path: Path | str | None = None) -> Image.Image:
        """Draw batch ``i``; save it to ``path`` if given. CHANGE: the captions.

        Of validation and test images, whose order is by class, each class has its turn.
        """
        if self.mode == "train":
            images, targets = self.load_batch(i)
        else:
            order = self.class_balanced_order()[i * self.batch_size :][: self.batch_size]
            images, targets = self.load_samples(order)
        grid = data.image_grid(*self.draw(images, targets))
        if path is not None:
            data.save_image(grid, path)
        return grid


class ImageGenerator:
    """Training images for calibration: endless, class-balanced, without augmentation.

    Every image is generated once before any is repeated.

    Args:
        data_reader: the dataset.
        input_size: (width, height) in pixels.
        seed: shuffle seed.
        preprocessing: crop, resize policy and color.
    """

    def __init__(
        self,
        data_reader: DataReader,
        input_size: tuple[int, int],
        seed: int = 0,
        preprocessing: data.Preprocessing | None = None,
    ) -> None:
        self._batches = BatchGenerator(
            data_reader,
            "train",
            batch_size=1,
            input_size=input_size,
            seed=seed,
            preprocessing=preprocessing,
        )
        self._order = self._batches.class_balanced_order()

    def __len__(self) -> int:
        """Return the number of different images."""
        return len(self._order)

    def keys(self, count: int) -> list[str]:
        """Return the keys of the first ``count`` images."""
        return [self._batches.sample_key(0, int(i)) for i in self._order[:count]]

    def __iter__(self) -> Iterator[data.Pixels]:
        """Yield images, uint8 (height, width, 3)."""
        for i in itertools.cycle(self._order):
            yield np.asarray(self._batches.sample(int(i))[0], np.uint8)
