"""A U-Net in plain Keras, trained from scratch: the baseline of segmentation in ``tasks.py``.

``python benchmarks/unet.py DATA``. The folder DATA has images/ and masks/ with files of the same
names in train/ and val/. Printed is the mean IoU of the best of ten checkpoints, as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from PIL import Image

FILTERS, BATCH, IGNORED, RATE = (16, 32, 64, 128, 256), 8, 255, 1e-3


def load(folder: Path, size: list[int], ignore: list[int]) -> tuple[Any, Any]:
    """Return images, uint8 (n, height, width, 3), and masks, uint8 (n, height, width)."""
    images = {path.stem: path for path in (folder / "images").iterdir()}
    x, y = [], []
    for path in sorted((folder / "masks").iterdir()):
        x.append(np.asarray(Image.open(images[path.stem]).convert("RGB").resize(size)))
        y.append(np.asarray(Image.open(path).resize(size, Image.Resampling.NEAREST)))
    return np.stack(x), np.where(np.isin(y, ignore), IGNORED, y).astype(np.uint8)


def augment(image: Any, mask: Any, rng: np.random.Generator) -> tuple[Any, Any]:
    """Flip, scale, shift, and change brightness and contrast."""
    import cv2

    height, width = mask.shape
    scale, at = rng.uniform(0.75, 1.6), rng.random(2)
    matrix = np.array([[scale, 0, width * (1 - scale)], [0, scale, height * (1 - scale)]])
    matrix[:, 2] *= at
    if rng.random() < 0.5:
        matrix[0] = -scale, 0, width - matrix[0, 2]
    options = {"flags": cv2.INTER_NEAREST, "borderValue": IGNORED}
    mask = cv2.warpAffine(mask, matrix, (width, height), **options)
    pixels = cv2.warpAffine(image, matrix, (width, height)).astype(np.float32)
    return np.clip(pixels * rng.uniform(0.75, 1.25) + rng.uniform(-25, 25), 0, 255), mask


def build(size: list[int], classes: int) -> Any:
    """Return a U-Net (Ronneberger et al. 2015) with batch normalization."""
    import keras
    from keras import layers

    def block(x: Any, filters: int) -> Any:
        for _ in range(2):
            x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        return x

    image = keras.Input((size[1], size[0], 3))
    x, skips = layers.Rescaling(1 / 127.5, -1)(image), []
    for filters in FILTERS[:-1]:
        skips.append(block(x, filters))
        x = layers.MaxPooling2D()(skips[-1])
    x = block(x, FILTERS[-1])
    for filters, skip in zip(FILTERS[-2::-1], skips[::-1], strict=True):
        x = layers.Conv2DTranspose(filters, 2, strides=2)(x)
        x = block(layers.Concatenate()([x, skip]), filters)
    return keras.Model(image, layers.Conv2D(classes, 1)(x))


def mean_iou(model: Any, images: Any, masks: Any, classes: int) -> float:
    """Return the mean IoU over the classes that occur."""
    found = np.concatenate(
        [np.argmax(model.predict_on_batch(images[i : i + 8]), -1) for i in range(0, len(images), 8)]
    )
    known = masks != IGNORED
    pairs = masks[known].astype(int) * classes + found[known]
    matrix = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    total = matrix.sum(0) + matrix.sum(1) - np.diag(matrix)
    return float((np.diag(matrix)[total > 0] / total[total > 0]).mean())


def main() -> None:
    """Train for a time, by the CPU time of all cores, and print the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="folder with train/ and val/")
    parser.add_argument("--minutes", type=float, default=20, help="CPU time over number of cores")
    parser.add_argument("--size", type=int, nargs=2, default=[256, 192], help="width, height")
    parser.add_argument("--ignore", type=int, nargs="*", default=[], help="values without a class")
    args = parser.parse_args()
    import keras

    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    (x, y), val = (load(args.data / split, args.size, args.ignore) for split in ("train", "val"))
    classes = int(y[y != IGNORED].max()) + 1
    model = build(args.size, classes)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=IGNORED)
    model.compile(keras.optimizers.AdamW(RATE, weight_decay=1e-4), loss)
    budget = args.minutes * 60 * len(os.sched_getaffinity(0))
    best, steps, checks = 0.0, 0, 0
    order: list[int] = []
    start = time.process_time()
    while (done := (time.process_time() - start) / budget) < 1:
        model.optimizer.learning_rate = RATE * min(
            done / 0.05, 0.5 + 0.5 * math.cos(math.pi * done)
        )
        order = order if len(order) >= BATCH else rng.permutation(len(x)).tolist()
        batch = [augment(x[i], y[i], rng) for i in (order.pop() for _ in range(BATCH))]
        model.train_on_batch(*map(np.stack, zip(*batch, strict=True)))
        steps += 1
        if done > (checks + 1) / 11:
            checks += 1
            pause = time.process_time()
            best = max(best, mean_iou(model, *val, classes))
            start += time.process_time() - pause
    best = max(best, mean_iou(model, *val, classes))
    print(json.dumps({"mean_iou": best, "steps": steps, "epochs": steps * BATCH // len(x)}))


if __name__ == "__main__":
    main()
