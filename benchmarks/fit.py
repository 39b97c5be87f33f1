"""``fit`` from Kerakit's generator against arrays in memory: ``python benchmarks/fit.py PHOTOS``.

MobileNetV2 without weights, 96 by 96 pixels, batch size 32. Each measurement is a fresh process;
the kinds alternate over five rounds. The table has the median time per step in milliseconds with
minimum and maximum. Then the memory of a training with augmentation, after 2 and after 20 epochs.
KERAS_BACKEND=jax measures JAX.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
ROUNDS, SIZE, BATCH, STEPS = 5, 96, 32, 15
KINDS = ("kerakit", "cached", "arrays", "sequence")


def compiled(image: Any, features: Any) -> Any:
    """Return a compiled classifier on a backbone's features, (batch, height, width, channels)."""
    import keras

    x = keras.layers.GlobalAveragePooling2D()(features)
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax")(x))
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


def fit(model: Any, generator: Any, epochs: int, callback: Any) -> None:
    """Fit as train.py does, and stop prefetching."""
    callbacks = [generator.epoch_callback(), callback]
    model.fit(generator, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks)
    generator.close()


def one(kind: str, folder: str) -> float:
    """Return the median time per step of the second epoch, in milliseconds."""
    import keras
    import numpy as np

    from kerakit.data import BatchGenerator, DataReader, memory
    from kerakit.data.cache import RamCache

    if kind == "sequence":
        memory.retain_freed_memory = lambda: None

    class Short(BatchGenerator):
        def __len__(self) -> int:
            return min(STEPS, super().__len__())

    cache = RamCache((SIZE, SIZE)) if kind == "cached" else None
    generator = Short(
        DataReader(folder, train_ratio=0.999999), "train", BATCH, (SIZE, SIZE), read=cache
    )
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 127.5, offset=-1)(image)
    backbone = keras.applications.MobileNetV2(
        (SIZE, SIZE, 3), input_tensor=x, include_top=False, weights=None
    )
    model = compiled(image, backbone.output)
    times: list[float] = []

    class StepTimer(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
            times.append(time.perf_counter())

    if kind == "arrays":
        batches = [generator[i] for i in range(len(generator))]
        generator.close()
        images, targets = (np.concatenate(part) for part in zip(*batches, strict=True))
        model.fit(images, targets, batch_size=BATCH, epochs=2, verbose=0, callbacks=[StepTimer()])
    else:
        fit(model, generator, 2, StepTimer())
    return statistics.median(np.diff(times[STEPS:])) * 1e3


def memory(folder: str) -> tuple[float, float]:
    """Return the resident memory in MiB after 2 and after 20 epochs of a small model."""
    import keras
    from loaders import common_augmentation

    from kerakit.data import BatchGenerator, DataReader

    class Generator(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            return common_augmentation()

    generator = Generator(
        DataReader(folder, train_ratio=0.999999), "train", BATCH, (SIZE, SIZE), jitter=True
    )
    image = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(image)
    resident: list[float] = []

    class MemoryMonitor(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE") / 2**20)

    fit(compiled(image, x), generator, 20, MemoryMonitor())
    return resident[1], resident[19]


def main() -> None:
    """Alternate the kinds and print the medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder with one folder of JPEG files per class")
    parser.add_argument("--only", choices=[*KINDS, "memory"], help="one measurement of this kind")
    args = parser.parse_args()
    folder: Path = args.photos
    if args.only == "memory":
        print(*memory(str(folder)))
        return
    if args.only:
        print(one(args.only, str(folder)))
        return
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(ROUNDS):
        for kind in KINDS:
            command = [sys.executable, __file__, str(folder), "--only", kind]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[kind].append(float(done.stdout.splitlines()[-1]))
    arrays = statistics.median(found["arrays"])
    print("| ms per step, median of 5 (min to max) | | relative to arrays |\n|---|---|---|")
    for kind, values in found.items():
        middle = statistics.median(values)
        print(
            f"| {kind} | {middle:.0f} ({min(values):.0f} to {max(values):.0f}) "
            f"| {arrays / middle:.2f} |"
        )
    ratios = []
    for _ in range(ROUNDS):
        done = subprocess.run(
            [sys.executable, __file__, str(folder), "--only", "memory"],
            capture_output=True,
            text=True,
            check=True,
        )
        after_2, after_20 = map(float, done.stdout.splitlines()[-1].split())
        ratios.append(after_20 / after_2)
    print(
        f"memory after 20 epochs, relative to 2: {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
