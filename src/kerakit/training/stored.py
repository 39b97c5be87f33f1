"""Features and targets of one epoch of a generator, stored on disk or in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit import nested, world
from kerakit.console import progress
from kerakit.data.generator import BatchGenerator
from kerakit.data.store import ENTRY_BYTES, ArrayStore
from kerakit.training.backbone import Backbone, Features
from kerakit.training.samples import (
    fingerprint,
    is_mixed,
    load_sample,
    sample_keys,
)

CHECKED_SAMPLES = 4
"""Number of stored samples that are compared with what the generator returns now."""

_FINGERPRINT_BYTES = 16


class StoredFeatures:
    """Features and targets of one epoch of a generator, in its order, read from disk on access.

    A record also holds a fingerprint of the image and target that it was computed from.

    Args:
        folder: folder of the array store.
        generator: generator of the images.
        epoch: the epoch of ``generator``.
        backbone: features of a model.
        replace_disk: called with the error where the folder cannot be written during access.

    Attributes:
        folder: as given.
        num_found: number of samples that were stored before.

    Raises:
        UserError: an image is unreadable.
    """

    def __init__(
        self,
        folder: Path,
        generator: BatchGenerator,
        epoch: int,
        backbone: Backbone,
        replace_disk: Callable[[StoredFeatures, OSError], None],
    ) -> None:
        self.folder = folder
        self._generator, self._epoch = generator, epoch
        self._backbone, self._replace_disk = backbone, replace_disk
        generator.epoch = epoch
        self._keys = sample_keys(generator)
        _, target = load_sample(generator, epoch, 0)
        self._target = nested.map_arrays(np.asarray, target)
        # Of a record: one array per output of the backbone, one per target, the fingerprint.
        self._layout = [
            *((shape, np.dtype(np.float32)) for shape in backbone.shapes),
            *((array.shape, array.dtype) for array in nested.arrays(self._target)),
            ((_FINGERPRINT_BYTES,), np.dtype(np.uint8)),
        ]
        self._record_bytes: int = sum(
            math.prod(shape) * dtype.itemsize for shape, dtype in self._layout
        )
        self._store = ArrayStore(folder, self._record_bytes)
        self._is_in_memory = False
        if not self._is_current():
            self.clear()
        self.num_found = len(self) - len(self.find_missing())

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._keys)

    def __getitem__(self, samples: NDArray[np.int64]) -> tuple[Any, Any]:
        """Return features, float32 (k, ...), and targets, (k, ...), of k sample indices.

        Features are a tuple of arrays where the backbone has several outputs. What cannot be read
        is computed again.
        """
        arrays = self._empty(len(samples))
        for row, i in enumerate(samples.tolist()):
            record = [array[row : row + 1] for array in arrays]
            if not self._store.read(self._keys[i], *record):
                image, target = load_sample(self._generator, self._epoch, i)
                computed = self._record(image, self._backbone.predict(image[None]), target)
                for array, values in zip(record, computed, strict=True):
                    array[:] = values
                try:
                    self._write(i, computed)
                except OSError as error:
                    self._replace_disk(self, error)
        several = len(self._backbone.shapes)
        features = tuple(arrays[:several])
        targets = nested.fill(self._target, iter(arrays[several:-1]))
        return features if several > 1 else features[0], targets

    def find_missing(self) -> list[int]:
        """Return the sample indices without a record."""
        return [i for i, key in enumerate(self._keys) if key not in self._store]

    def size_bytes(self, samples: int) -> int:
        """Return the size of so many samples in bytes."""
        return samples * (self._record_bytes + ENTRY_BYTES)

    def fill(self, is_part: bool = False) -> None:
        """Compute and write what is missing.

        Args:
            is_part: of the batches of this process only, where several train together.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        missing = self.find_missing()
        generator = self._generator
        first, stop = 0, len(generator)
        if is_part:
            own = world.current.batches(stop)
            first, stop = own.start, own.stop
        limit = stop * generator.batch_size
        missing = [i for i in missing if first * generator.batch_size <= i < limit]
        if not missing:
            return
        generator.epoch = self._epoch
        begin = missing[0] // generator.batch_size
        try:
            with progress(f"computing features ({generator.mode})", len(self)) as update:
                batches = generator.whole_batches(begin, stop)
                for batch, (images, targets) in enumerate(batches, begin):
                    features = self._backbone.predict(images)
                    start = batch * generator.batch_size
                    for row, image in enumerate(images):
                        one = [each[row : row + 1] for each in features]
                        target = nested.take(targets, row)
                        self._write(start + row, self._record(image, one, target))
                    update(start + len(images))
        finally:
            generator.close()

    def reopen(self) -> None:
        """Find the records that other processes have written."""
        if not self._is_in_memory:
            self._store = ArrayStore(self.folder, self._record_bytes)

    def clear(self) -> None:
        """Remove all records, those of other runs, too."""
        self._store.clear()

    def discard(self) -> None:
        """Remove the records that this process has written."""
        self._store.discard()

    def move_to_memory(self) -> None:
        """Move the records that this process has written to memory, and write there."""
        self._store.move_to_memory()
        self._is_in_memory = True

    def _record(self, image: Any, features: list[Features], target: Any) -> list[NDArray[Any]]:
        """Return the arrays of a record, (1, ...) each."""
        mark = np.frombuffer(fingerprint(image, target), np.uint8)
        targets = (np.asarray(array)[None] for array in nested.arrays(target))
        arrays = [*features, *targets, mark[None]]
        return [
            np.ascontiguousarray(array, dtype)
            for array, (_, dtype) in zip(arrays, self._layout, strict=True)
        ]

    def _write(self, i: int, record: list[NDArray[Any]]) -> None:
        if self._keys[i] not in self._store:
            self._store.write(self._keys[i], *record)

    def _empty(self, count: int) -> list[NDArray[Any]]:
        return [np.empty((count, *shape), dtype) for shape, dtype in self._layout]

    def _is_current(self) -> bool:
        """Whether a few stored samples, drawn at random, are what the generator returns now."""
        stored = [i for i, key in enumerate(self._keys) if key in self._store]
        count = 1 if is_mixed(self._generator) else CHECKED_SAMPLES
        for i in np.random.default_rng().permutation(stored)[:count].tolist():
            record = self._empty(1)
            if self._store.read(self._keys[i], *record):
                sample = load_sample(self._generator, self._epoch, i)
                if record[-1].tobytes() != fingerprint(*sample):
                    return False
        return True
