"""Features and targets of one epoch of a generator, stored on disk or in memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.console import progress
from kerakit.data.generator import BatchGenerator
from kerakit.data.store import ENTRY_BYTES, ArrayStore
from kerakit.errors import UserError
from kerakit.training.backbone import Backbone, Features
from kerakit.training.samples import (
    SEVERAL_TARGETS,
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
        UserError: an image is unreadable, or targets are not one array per image.
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
        if not isinstance(target, np.ndarray):
            raise UserError(f"features cannot be cached: {SEVERAL_TARGETS}.")
        self._arrays = (
            np.empty((0, *backbone.shape), np.float32),
            np.empty((0, *target.shape), target.dtype),
            np.empty((0, _FINGERPRINT_BYTES), np.uint8),
        )
        sizes = (math.prod(array.shape[1:]) * array.itemsize for array in self._arrays)
        self._record_bytes = sum(sizes)
        self._store = ArrayStore(folder, self._record_bytes)
        if not self._is_current():
            self.clear()
        self.num_found = len(self) - len(self.find_missing())

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._keys)

    def __getitem__(self, samples: NDArray[np.int64]) -> tuple[Features, NDArray[Any]]:
        """Return features, float32 (k, ...), and targets, (k, ...), of k sample indices.

        What cannot be read is computed again.
        """
        features, targets, prints = self._empty(len(samples))
        for row, i in enumerate(samples.tolist()):
            part = slice(row, row + 1)
            if not self._store.read(self._keys[i], features[part], targets[part], prints[part]):
                image, targets[row] = load_sample(self._generator, self._epoch, i)
                features[row] = self._backbone.predict(image[None])[0]
                try:
                    self._write(i, image, features[part], targets[part])
                except OSError as error:
                    self._replace_disk(self, error)
        return features, targets

    def find_missing(self) -> list[int]:
        """Return the sample indices without a record."""
        return [i for i, key in enumerate(self._keys) if key not in self._store]

    def size_bytes(self, samples: int) -> int:
        """Return the size of so many samples in bytes."""
        return samples * (self._record_bytes + ENTRY_BYTES)

    def fill(self) -> None:
        """Compute and write what is missing.

        Raises:
            OSError: the disk is full, or the folder cannot be written.
        """
        missing = self.find_missing()
        if not missing:
            return
        generator = self._generator
        generator.epoch = self._epoch
        try:
            with progress(f"computing features ({generator.mode})", len(self)) as update:
                for batch in range(missing[0] // generator.batch_size, len(generator)):
                    images, targets = generator[batch]
                    features = np.ascontiguousarray(self._backbone.predict(images), np.float32)
                    start = batch * generator.batch_size
                    for row, image in enumerate(images):
                        one = slice(row, row + 1)
                        self._write(start + row, image, features[one], targets[one])
                    update(start + len(images))
        finally:
            generator.close()

    def clear(self) -> None:
        """Remove all records, those of other runs, too."""
        self._store.clear()

    def discard(self) -> None:
        """Remove the records that this process has written."""
        self._store.discard()

    def move_to_memory(self) -> None:
        """Move the records that this process has written to memory, and write there."""
        self._store.move_to_memory()

    def _write(self, i: int, image: Any, features: Features, targets: NDArray[Any]) -> None:
        key = self._keys[i]
        if key not in self._store:
            mark = np.frombuffer(fingerprint(image, targets[0]), np.uint8)[None]
            self._store.write(key, features, np.ascontiguousarray(targets), mark)

    def _empty(self, count: int) -> list[NDArray[Any]]:
        return [np.empty((count, *array.shape[1:]), array.dtype) for array in self._arrays]

    def _is_current(self) -> bool:
        """Whether a few stored samples, drawn at random, are what the generator returns now."""
        stored = [i for i, key in enumerate(self._keys) if key in self._store]
        count = 1 if is_mixed(self._generator) else CHECKED_SAMPLES
        for i in np.random.default_rng().permutation(stored)[:count].tolist():
            features, targets, mark = self._empty(1)
            if self._store.read(self._keys[i], features, targets, mark):
                sample = load_sample(self._generator, self._epoch, i)
                if mark.tobytes() != fingerprint(*sample):
                    return False
        return True
