"""CPU time of an image in one thread: ``python benchmarks/augmentation.py PHOTOS``.

PHOTOS has one folder of JPEG files per class. Each row is the time to read, augment and batch one
photo at 224 by 224 pixels, in microseconds of this thread (so that other processes matter little);
the least of five rounds over 320 photos. "decoded" reads files, "cached" arrays in memory.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


if __name__ == "__main__":
    main()
