"""One measurement in a fresh process: ``python benchmarks/loaders.py LOADER FOLDER ...``.

Every loader reads the same files in shuffled order into batches of 32 images of 224 by 224 pixels,
with bilinear interpolation. The result is printed as one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

SIZE, BATCH = (224, 224), 32
CORES = len(os.sched_getaffinity(0))
Epoch = Callable[[], Iterator[Any]]


def kerakit(folder: str, cache: str = "none", jitter: bool = False) -> Epoch:
    """Return Kerakit's generator, optionally with a cache on disk in its own folder."""
    from kerakit.data import BatchGenerator, DataReader, open_cache

    common_augmentation()  # imported before the timer starts, as in a project's datagen.py

    class Generator(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            return common_augmentation()

    store = Path(folder).parent / f".bench-cache-{Path(folder).name}"
    read = open_cache(cache, SIZE, store, 100)  # type: ignore[arg-type]
    reader = DataReader(folder, train_ratio=0.999999)
    generator = Generator(reader, "train", BATCH, SIZE, jitter, read=read)

    def epoch() -> Iterator[Any]:
        for i in range(len(generator)):
            yield generator[i]
        generator.epoch += 1

    return epoch


def thread_pool(folder: str) -> Epoch:
    """Decode and resize as Kerakit does, in a thread pool, into allocated batches."""
    from kerakit.data.decode import read_image

    paths = sorted(Path(folder).glob("*/*.jpg"))
    images = np.empty((CORES * 2, BATCH, *SIZE[::-1], 3), np.uint8)

    def fill(slot: int, start: int) -> int:
        for n, path in enumerate(paths[start : start + BATCH]):
            images[slot, n] = read_image(path, SIZE)
        return slot

    def epoch() -> Iterator[Any]:
        with ThreadPoolExecutor(CORES) as pool:
            starts = range(0, len(paths), BATCH)
            futures = [pool.submit(fill, n % len(images), start) for n, start in enumerate(starts)]
            for future in futures:
                yield images[future.result()]

    return epoch


def tfdata(folder: str, cache: str = "none", jitter: bool = False) -> Epoch:
    """``keras.utils.image_dataset_from_directory`` with prefetching; Keras layers augment."""
    import keras
    import tensorflow as tf

    data = keras.utils.image_dataset_from_directory(
        folder, image_size=SIZE[::-1], batch_size=BATCH, shuffle=True, seed=0, verbose=False
    )
    if cache == "disk":
        store = Path(folder).parent / f".bench-tf-cache-{Path(folder).name}"
        store.mkdir(exist_ok=True)
        # As uint8, as in Kerakit's cache: float32 would be four times the size.
        data = data.map(
            lambda x, y: (tf.cast(x, tf.uint8), y), num_parallel_calls=tf.data.AUTOTUNE
        ).cache(str(store / "c"))
    if jitter:
        layers = keras.Sequential(
            [
                keras.layers.RandomFlip("horizontal"),
                keras.layers.RandomRotation(15 / 360),
                keras.layers.RandomBrightness(0.2),
                keras.layers.RandomContrast(0.2),
            ]
        )
        data = data.map(
            lambda x, y: (layers(tf.cast(x, tf.float32), training=True), y),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    data = data.prefetch(tf.data.AUTOTUNE)
    return lambda: iter(data)


def torch(folder: str, workers: str = "2", jitter: bool = False) -> Epoch:
    """Return torch's DataLoader with the same decoding and augmentation, persistent workers."""
    from torch.utils.data import DataLoader, Dataset

    from kerakit.data.decode import read_image

    class Images(Dataset):
        def __init__(self) -> None:
            self.paths = sorted(Path(folder).glob("*/*.jpg"))
            self.augment = common_augmentation() if jitter else None

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, i: int) -> Any:
            image = read_image(self.paths[i], SIZE)
            return self.augment(image=image)["image"] if self.augment else image

    loader = DataLoader(
        Images(), BATCH, shuffle=True, num_workers=int(workers), persistent_workers=int(workers) > 0
    )
    return lambda: iter(loader)


def common_augmentation() -> Any:
    """Return flip, rotation, brightness and contrast, as the Keras layers in ``tfdata``."""
    import albumentations as A  # noqa: N812

    from kerakit.data.transforms import Recolor, Warp

    return A.Compose([Warp(flip=0.5, rotate=15), Recolor(brightness=0.2, contrast=0.2)])


def main() -> None:
    """Time one epoch after ``warm`` warm-up epochs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("loader", choices=["kerakit", "thread_pool", "tfdata", "torch"])
    parser.add_argument("folder", help="folder with one folder of JPEG files per class")
    parser.add_argument(
        "options", nargs="*", help="of NAME=VALUE: cache=disk, jitter=1, workers=2, warm=1"
    )
    args = parser.parse_args()
    loader, folder = args.loader, args.folder
    options = dict(word.split("=") for word in args.options)
    warm = int(options.pop("warm", 0))
    if "jitter" in options:
        options["jitter"] = options["jitter"] == "1"
    epoch = globals()[loader](folder, **options)
    for _ in range(warm):
        for _ in epoch():
            pass
    images = len(list(Path(folder).glob("*/*.jpg")))
    start = time.perf_counter()
    for _ in epoch():
        pass
    print(json.dumps({"images_per_s": images / (time.perf_counter() - start)}))


if __name__ == "__main__":
    main()
