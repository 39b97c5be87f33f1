"""Batches for training, and single images for calibration. The places to change are marked with CHANGE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812 - its documentation calls it A
import numpy as np

import kerakit
from kerakit.data.decode import Pixels
from kerakit.training.plots import image_grid
from reader import DataReader


class BatchGenerator(kerakit.BatchGenerator):
    """A ``keras.utils.Sequence``: ``generator[i]`` is (images, targets), uint8 (batch, height, width, 3) and int32 (batch,)."""

    def get_aug_pipeline(self) -> A.Compose:
        """Return what --jitter does to a training image. CHANGE: to what may happen to your images and keeps their class."""
        return A.Compose(
            [
                A.HorizontalFlip(p=0.5),
                A.Affine(scale=(0.85, 1.15), translate_percent=(-0.1, 0.1), rotate=(-15, 15), border_mode=4),
                A.RandomBrightnessContrast(brightness_limit=0.2, contrast_limit=0.2, p=0.7),
                A.HueSaturationValue(hue_shift_limit=6, sat_shift_limit=20, val_shift_limit=0, p=0.3),
                A.OneOf([A.GaussianBlur(blur_limit=(3, 5)), A.GaussNoise(std_range=(0.02, 0.06))], p=0.2),
            ]
        )

    def preprocess(self, image: Pixels, annot: Any) -> tuple[Pixels, Any]:
        """Return the pixels and the target of one image. CHANGE: crop, or build another target. The model normalises."""
        return image, annot

    def visualize(self, i: int, path: Path | str | None = None) -> Any:
        """Draw batch ``i`` as a ``PIL.Image.Image``; save it to ``path`` if given. CHANGE: to titles that tell your targets."""
        images, targets = self.peek(i)
        are_classes = isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind == "i"
        titles = [self.data_reader.class_names[target] for target in targets] if are_classes else [""] * len(images)
        picture = image_grid(images, titles)
        if path is not None:
            picture.save(path)
        return picture


class ImageGenerator:
    """Training images without end and without augmentation, each once before any comes again: for calibration.

    Args:
        data_reader: what there is to read.
        input_size: (width, height) in pixels.
        seed: of the order.
    """

    def __init__(self, data_reader: DataReader, input_size: tuple[int, int], seed: int = 0) -> None:
        self._batches = BatchGenerator(data_reader, "train", batch_size=1, input_size=input_size, seed=seed)

    def __len__(self) -> int:
        """Return the number of different images."""
        return len(self._batches.index)

    def __iter__(self) -> Iterator[Pixels]:
        """Yield uint8 (height, width, 3)."""
        position = 0
        while True:
            yield np.asarray(self._batches.sample(position)[0], np.uint8)
            position += 1
