"""Features of the frozen layers of a model, computed once per image and stored on disk."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit import world
from kerakit.architecture import flatten_layers
from kerakit.data import memory
from kerakit.data.generator import BatchGenerator, EpochCallback
from kerakit.data.identity import code_identity
from kerakit.data.order import permutation
from kerakit.data.store import default_limit, remove_oldest, used_bytes
from kerakit.errors import list_names
from kerakit.machine import available_memory
from kerakit.training.backbone import Backbone
from kerakit.training.samples import (
    fingerprint,
    image_keys,
    is_mixed,
    load_sample,
)
from kerakit.training.split_model import find_training_layers
from kerakit.training.stored import StoredFeatures

_MAX_BATCH_BYTES = 2**25
"""Size of a batch of features for validation."""


class FeatureStore:
    """Features of images, computed once by the frozen part of a model, and reused by later runs.

    On a CPU under TensorFlow, LiteRT computes them, one interpreter per core; elsewhere Keras does.
    Records are keyed by everything that determines them: layers and weights of the backbone, each
    image (path, size, times of modification and change) and annotation, settings of the generator,
    its task, the augmentation, the imported modules of the project, and versions. A few samples are
    compared with what the generator returns now. When disk space is short, the least recently used
    features are removed. What cannot be written to disk is held in memory: the features are the
    same.

    Args:
        backbone: model from uint8 images to features, (batch, ...).
        folder: folder of the store.

    Attributes:
        shapes: shapes of the features of one image, one per output of the backbone.

    >>> image = keras.Input((8, 8, 3))
    >>> backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    >>> store = FeatureStore(backbone, Path(".cache/features"))
    """

    def __init__(self, backbone: keras.Model, folder: Path) -> None:
        self._backbone = Backbone(backbone)
        self.shapes = self._backbone.shapes
        self.folder = folder
        self._is_in_memory = False

    def datasets(
        self, train: BatchGenerator, val: BatchGenerator, views: int = 1
    ) -> tuple[FeatureDataset, FeatureDataset] | None:
        """Return training and validation features for ``fit``; None: train on images instead.

        Features replace images where they are exact (see ``find_obstacle``) and can be stored.
        Otherwise the reason is printed.

        Args:
            train: training images.
            val: validation images.
            views: number of augmented or mixed versions of each training image.

        Raises:
            UserError: an image is unreadable.
        """
        reason = self.find_obstacle(train)
        if reason is None:
            try:
                features = FeatureDataset(self, train, views)
                size = sum(4 * math.prod(shape) for shape in self._backbone.shapes)
                batch_size = max(1, min(256, _MAX_BATCH_BYTES // size))
                return features, FeatureDataset(self, val, batch_size=batch_size)
            except _NoRoomError as error:
                reason = str(error)
        print(f"training on images instead of cached features: {reason}", flush=True)
        return None

    def find_obstacle(self, generator: BatchGenerator) -> str | None:
        """Return why features that are computed once differ from training on images, or None.

        Dropout in frozen layers is off on features, and is printed.
        """
        if generator.mosaic is not None:
            return "mosaics are made of other images in each epoch"
        layers = find_training_layers(self._backbone.model)
        if layers.others:
            return f"frozen layers act in training only: {list_names(layers.others)}"
        generator.epoch = 0
        first, again = (load_sample(generator, 0, 0) for _ in range(2))
        if fingerprint(*first) != fingerprint(*again):
            return "the generator returns the same sample differently each time (preprocess?)"
        if layers.dropout:
            print(f"Dropout in frozen layers is off: {list_names(layers.dropout)}", flush=True)
        return None

    def compute(
        self, generator: BatchGenerator, epochs: Iterable[int] = (0,)
    ) -> list[StoredFeatures]:
        """Return features and targets of epochs of ``generator``, each in its order.

        Raises:
            UserError: an image is unreadable.
            MemoryError: neither the disk nor the memory has room.
        """
        stored = [
            StoredFeatures(
                self.folder / self._folder_name(generator, epoch),
                *(generator, epoch, self._backbone, self._replace_disk),
            )
            for epoch in epochs
        ]
        # Each process computes its part. On a disk that they share, the rest is there then.
        self._fill(stored, world.current.size > 1)
        if world.current.size > 1:
            for one in stored:
                one.reopen()
            self._fill(stored, False)
        for one in stored:
            with contextlib.suppress(OSError):  # another process may have removed the folder
                os.utime(one.folder)
        return stored

    def _fill(self, stored: Sequence[StoredFeatures], is_part: bool) -> None:
        """Compute what is missing, or the part of it of this process."""
        failure: Exception | None = None
        try:
            self._fill_here(stored, is_part)
        except _NoRoomError as error:
            failure = error
        if world.current.any(failure is not None):
            raise failure or _NoRoomError("another process has no room for them")

    def _fill_here(self, stored: Sequence[StoredFeatures], is_part: bool) -> None:
        missing = sum(one.size_bytes(len(one.find_missing())) for one in stored)
        if missing:
            reason = self._make_room(stored, missing)
            try:
                for one in stored if reason is None else ():
                    one.fill(is_part)
            except OSError as error:
                if error.filename not in {str(one.folder) for one in stored}:
                    raise  # of the generator
                reason = self._describe(error)
            if reason is not None:
                self._use_memory(stored, missing, reason)
                for one in stored:
                    one.fill(is_part)

    def _make_room(self, stored: Sequence[StoredFeatures], missing: int) -> str | None:
        """Remove the least recently used features of others; return why that is not enough."""
        limit = default_limit(self.folder)
        if sum(one.size_bytes(len(one)) for one in stored) > limit:
            return f"the features do not fit into half of the free disk space of {self.folder}"
        remove_oldest(self.folder, "*/*.index", missing, limit, keep=[one.folder for one in stored])
        if used_bytes(self.folder) + missing > limit:
            for one in stored:  # they hold features of other images, too
                one.clear()
        return None

    def _use_memory(self, stored: Sequence[StoredFeatures], needed: int, reason: str) -> None:
        if needed > available_memory() // 2:
            for one in stored:
                one.discard()
            raise _NoRoomError(f"{reason}; half of the available memory is too small, too")
        for one in stored:
            one.move_to_memory()
        if not self._is_in_memory:
            self._is_in_memory = True
            print(f"features are held in memory: {reason}", flush=True)

    def _replace_disk(self, stored: StoredFeatures, error: OSError) -> None:
        """Hold features in memory that cannot be written during training."""
        with contextlib.suppress(_NoRoomError):
            self._use_memory([stored], stored.size_bytes(len(stored)), self._describe(error))

    def _describe(self, error: OSError) -> str:
        return f"the cache {self.folder} cannot be written ({error.strerror or error})"

    def _folder_name(self, generator: BatchGenerator, epoch: int) -> str:
        """Return the digest of everything that determines features, except the images."""
        identity = hashlib.sha256(self._backbone.identity)
        mix, task = generator.mix, generator.task
        is_random = generator.strength or is_mixed(generator)
        settings = (
            generator.mode,
            generator.input_size,
            generator.preprocessing,
            generator.seed,
            generator.strength,
            epoch if is_random else None,
            mix and (mix.mixup, mix.cutmix),
            task and task.spec(),
        )
        identity.update(repr(settings).encode())
        parts = (generator, generator.read, generator.data_reader, task)
        model = self._backbone.model
        pipeline = generator.get_aug_pipeline() if generator.strength else None
        identity.update(code_identity((*parts, model, *flatten_layers(model)), pipeline))
        if generator.skip_unreadable:  # the substitutes depend on all images
            identity.update(b"".join(image_keys(generator, generator.index)))
        return identity.hexdigest()[:32]


class _NoRoomError(MemoryError):
    """Features fit neither on disk nor into memory."""


class FeatureDataset(keras.utils.PyDataset):
    r"""Stored features of one or several epochs of a generator, as a Sequence for ``fit``.

    In mode "train" the features are shuffled every epoch; otherwise they keep the generator's
    order.

    Args:
        store: feature store; computes missing features.
        generator: generator of the images.
        views: number of epochs of ``generator`` that are stored: augmented versions of each image.
        batch_size: default: that of ``generator``.

    Attributes:
        batch_size: samples per batch.
        epoch: counted from 0; set by ``epoch_callback()``.

    >>> from tempfile import TemporaryDirectory
    >>> from kerakit.data import BatchGenerator, DataReader
    >>> image = keras.Input((8, 8, 3))
    >>> backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    >>> gray = np.full((8, 8, 3), 128, np.uint8)
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     _ = table.write_text("path,label,split\na.jpg,cat,train\nb.jpg,dog,train\n")
    ...     images = BatchGenerator(DataReader(table), input_size=(8, 8), read=lambda path: gray)
    ...     features, targets = FeatureDataset(FeatureStore(backbone, Path(folder)), images)[0]
    features (train): 2 computed, 0 from the cache (0 MB)
    >>> features.tolist()
    [[128.0, 128.0, 128.0], [128.0, 128.0, 128.0]]
    """

    def __init__(
        self,
        store: FeatureStore,
        generator: BatchGenerator,
        views: int = 1,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(workers=1)
        self._views = store.compute(generator, range(views))
        found = sum(view.num_found for view in self._views)
        print(
            f"features ({generator.mode}): {sum(map(len, self._views)) - found:,} computed, "
            f"{found:,} from the cache ({used_bytes(store.folder) / 1e6:,.0f} MB)",
            flush=True,
        )
        self._generator = generator
        self.batch_size = batch_size or generator.batch_size
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-len(self._views[0]) // self.batch_size)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        """Return batch ``i`` of the current epoch: features, float32 (batch, ...), and targets.

        Features are a tuple where the backbone has several outputs. Where several processes train
        together, these are arrays on their devices.
        """
        batch: tuple[Any, Any] = world.current.assemble(self.local_batch(i), self.batch_count(i))
        return batch

    def local_batch(self, i: int) -> tuple[Any, Any]:
        """Return the rows of batch ``i`` of the current epoch that this process reads."""
        if i == 0:
            memory.retain_freed_memory()
        rows = world.current.rows(self.batch_count(i))
        return self._views[self.epoch % len(self._views)][self._sample_indices(i)[rows]]

    def whole_batches(self, first: int, stop: int) -> Iterator[tuple[Any, Any]]:
        """Yield whole batches of the current epoch, whatever the number of processes."""
        view = self._views[self.epoch % len(self._views)]
        return (view[self._sample_indices(i)] for i in range(first, stop))

    def batch_count(self, i: int) -> int:
        """Return the number of samples of batch ``i``."""
        return min(self.batch_size, len(self._views[0]) - i * self.batch_size)

    def sample_weights(self, epoch: int) -> NDArray[np.float32] | None:
        """Return the factor of each training sample of ``epoch`` in the loss, float32 (n,).

        None: all are 1.
        """
        weights = self._generator.sample_weights(epoch % len(self._views))
        if weights is None:
            return None
        return weights[permutation(len(self._views[0]), self._generator.seed, epoch)]

    def batch_keys(self, i: int) -> list[str]:
        """Return the keys of the images of batch ``i`` of the current epoch."""
        view = self.epoch % len(self._views)
        return [self._generator.sample_key(view, int(n)) for n in self._sample_indices(i)]

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Return the callback that sets ``epoch``, for ``fit(callbacks=[...])``."""
        return EpochCallback(self)

    def _sample_indices(self, i: int) -> NDArray[np.int64]:
        count = len(self._views[0])
        part = slice(i * self.batch_size, (i + 1) * self.batch_size)
        if self._generator.mode != "train":
            return np.arange(count)[part]
        return permutation(count, self._generator.seed, self.epoch)[part]
