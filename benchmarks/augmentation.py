"""CPU time of an image in one thread: ``python benchmarks/augmentation.py PHOTOS``.

PHOTOS has one folder of JPEG files per class. Each row is the time to read, augment and batch one
photo at 224 by 224 pixels, in microseconds of this thread (so that other processes matter little);
the least of five rounds over 320 photos. "decoded" reads files, "cached" arrays in memory. The
last rows are the default with labels that follow the image, instead of classes.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS, BATCH, BATCHES, SIZE = 5, 32, 10, (224, 224)


def cost(generator: Any) -> float:
    """Return the least CPU time per image, in microseconds."""
    batches = range(min(BATCHES, len(generator)))
    times = []
    for _ in range(ROUNDS + 1):
        start = time.thread_time()
        images = sum(len(generator.load_batch(i)[0]) for i in batches)
        times.append((time.thread_time() - start) / images)
    return min(times[1:]) * 1e6


class Labeled:
    """A reader with the same annotation for each image."""

    def __init__(self, reader: Any, annotation: Any) -> None:
        self._reader, self._annotation = reader, annotation

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the reader."""
        return getattr(self._reader, name)

    def target(self, i: int) -> Any:  # noqa: ARG002 - the protocol's signature
        """Return the annotation."""
        return self._annotation


def labels() -> dict[str, tuple[Any, Any]]:
    """Return tasks and annotations by the names of rows."""
    from kerakit.tasks import Detection, Keypoints, Segmentation

    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 0.8, (15, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(0.05, 0.2, (15, 2))], axis=1)
    points = np.concatenate([rng.uniform(0, 1, (17, 2)), np.full((17, 1), 2)], axis=1)
    mask = rng.integers(0, 2, SIZE[::-1]).astype(np.uint8)
    objects = {
        "boxes": boxes.astype(np.float32),
        "classes": np.zeros(15, np.int32),
        "crowd": np.zeros(15, bool),
    }
    return {
        "15 boxes": (Detection(["object"]), objects),
        "17 keypoints": (
            Keypoints([f"point {i}" for i in range(17)]),
            {"keypoints": points.astype(np.float32)},
        ),
        "a mask": (Segmentation(["a", "b"]), {"mask": mask}),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, help="folder with one folder of JPEG files per class")
    photos = parser.parse_args().photos
    from loaders import common_augmentation

    import kerakit
    from kerakit.data import BatchGenerator, DataReader, memory
    from kerakit.data.cache import RamCache

    reader = DataReader(photos, train_ratio=0.999999)
    # The template's pipeline, as a new project has it.
    sys.path.insert(0, str(Path(kerakit.__file__).parent / "project"))
    from datagen import BatchGenerator as Default  # type: ignore[import-not-found]

    class Common(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            return common_augmentation()

    memory.retain_freed_memory()
    cache = RamCache(SIZE)
    kinds: dict[str, tuple[Callable[..., Any], bool]] = {
        "no augmentation": (Common, False),
        "flip, rotation, brightness, contrast": (Common, True),
        "default of a new project": (Default, True),
    }
    print("| µs of CPU time per image | decoded | cached |\n|---|---|---|")
    for name, (kind, jitter) in kinds.items():
        decoded, cached = (
            cost(kind(reader, "train", BATCH, SIZE, jitter, read=read)) for read in (None, cache)
        )
        print(f"| {name} | {decoded:,.0f} | {cached:,.0f} |", flush=True)
    for name, (task, annotation) in labels().items():
        labeled = Labeled(reader, annotation)
        decoded, cached = (
            cost(Default(labeled, "train", BATCH, SIZE, True, read=read, task=task))
            for read in (None, cache)
        )
        print(f"| {name} | {decoded:,.0f} | {cached:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
