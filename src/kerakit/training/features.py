"""Features of the frozen layers of a model, computed once per image and stored on disk."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
import math
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit.architecture import flatten_layers
from kerakit.console import progress
from kerakit.data import memory
from kerakit.data.generator import BatchGenerator, EpochCallback
from kerakit.data.identity import code_identity
from kerakit.data.order import permutation
from kerakit.data.store import (
    ENTRY_BYTES,
    ArrayStore,
    default_limit,
    digest,
    remove_oldest,
    remove_store,
    size_and_times,
    used_bytes,
)
from kerakit.errors import JobError, UserError, list_names
from kerakit.inference import PredictFn, keras_predict_fn
from kerakit.machine import available_cores, has_accelerator
from kerakit.training.split_model import find_training_layers

Features = NDArray[np.float32]

CHECKED_SAMPLES = 4
"""Number of stored samples per view that are compared with what the generator returns now."""

_FINGERPRINT_BYTES = 16


class StoredFeatures:
    """Features and targets of one epoch of a generator, in its order, read from disk on access.

    A record also holds a fingerprint of the image and target that it was computed from.

    Args:
        folder: folder of the array store.
        generator: generator of the images.
        epoch: the epoch of ``generator``.
        backbone: features of a model.

    Attributes:
        num_found: number of samples that were stored before.

    Raises:
        UserError: an image is unreadable, or targets are not one array per image.
    """

    def __init__(
        self, folder: Path, generator: BatchGenerator, epoch: int, backbone: Backbone
    ) -> None:
        self._folder, self._generator, self._epoch = folder, generator, epoch
        self._backbone = backbone
        generator.epoch = epoch
        self._keys = _sample_keys(generator)
        _, target = _load_sample(generator, epoch, 0)
        if not isinstance(target, np.ndarray):
            raise UserError(f"features cannot be cached: {_SEVERAL_TARGETS}.")
        self._arrays = (
            np.empty((0, *backbone.shape), np.float32),
            np.empty((0, *target.shape), target.dtype),
            np.empty((0, _FINGERPRINT_BYTES), np.uint8),
        )
        sizes = (math.prod(array.shape[1:]) * array.itemsize for array in self._arrays)
        self._record_bytes = sum(sizes)
        self._store = ArrayStore(folder, self._record_bytes)
        if not self._is_current():
            remove_store(folder)
            self._store = ArrayStore(folder, self._record_bytes)
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
                image, targets[row] = _load_sample(self._generator, self._epoch, i)
                features[row] = self._backbone.predict(image[None])[0]
                with contextlib.suppress(OSError):
                    self._write(i, image, features[part], targets[part])
        return features, targets

    def find_missing(self) -> list[int]:
        """Return the sample indices without a record."""
        return [i for i, key in enumerate(self._keys) if key not in self._store]

    def fill(self) -> None:
        """Compute and write what is missing.

        Raises:
            OSError: the disk is full, or the folder cannot be written. What was written is removed.
        """
        missing = self.find_missing()
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
        except OSError:
            self._store.discard()
            raise
        finally:
            generator.close()

    def _write(self, i: int, image: Any, features: Features, targets: NDArray[Any]) -> None:
        key = self._keys[i]
        if key not in self._store:
            mark = np.frombuffer(_fingerprint(image, targets[0]), np.uint8)[None]
            self._store.write(key, features, np.ascontiguousarray(targets), mark)

    def _empty(self, count: int) -> list[NDArray[Any]]:
        return [np.empty((count, *array.shape[1:]), array.dtype) for array in self._arrays]

    def _is_current(self) -> bool:
        """Whether a few stored samples, drawn at random, are what the generator returns now."""
        stored = [i for i, key in enumerate(self._keys) if key in self._store]
        count = 1 if _is_mixed(self._generator) else CHECKED_SAMPLES
        for i in np.random.default_rng().permutation(stored)[:count].tolist():
            features, targets, mark = self._empty(1)
            if self._store.read(self._keys[i], features, targets, mark):
                sample = _load_sample(self._generator, self._epoch, i)
                if mark.tobytes() != _fingerprint(*sample):
                    return False
        return True


class Backbone:
    """The frozen part of a model: features of images, and an identity.

    Args:
        model: model from uint8 images to features, (batch, ...).

    Attributes:
        model: as given.
        shape: shape of the features of one image.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model = model
        self.shape: tuple[int, ...] = tuple(model.output_shape[1:])

    @cached_property
    def predict(self) -> PredictFn:
        """Function from images to features."""
        return _fastest_predict_fn(self.model)

    @cached_property
    def identity(self) -> bytes:
        """Digest of layers, weights, and the libraries that compute."""
        identity = hashlib.sha256(self.model.to_json().encode())
        for weight in self.model.get_weights():
            identity.update(np.ascontiguousarray(weight).tobytes())
        backend = keras.backend.backend()
        versions = (
            *(backend, keras.version(), _version("ai-edge-litert"), has_accelerator()),
            getattr(importlib.import_module(backend), "__version__", ""),
            keras.config.dtype_policy().name,
        )
        identity.update(repr(versions).encode())
        return identity.digest()


class FeatureStore:
    """Features of images, computed once by the frozen part of a model, and reused by later runs.

    On a CPU under TensorFlow, LiteRT computes them, one interpreter per core; elsewhere Keras does.
    Records are keyed by everything that determines them: layers and weights of the backbone, each
    image (path, size, times of modification and change) and annotation, settings of the generator,
    its task, the augmentation, the imported modules of the project, and versions. A few samples are
    compared with what the generator returns now. When disk space is short, the least recently used
    features are removed.

    Args:
        backbone: model from uint8 images to features, (batch, ...).
        folder: folder of the store.

    >>> image = keras.Input((8, 8, 3))
    >>> backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    >>> store = FeatureStore(backbone, Path(".cache/features"))
    """

    def __init__(self, backbone: keras.Model, folder: Path) -> None:
        self._backbone = Backbone(backbone)
        self.folder = folder

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
        if reason is None and not self.has_room_for(train, views):
            reason = f"the features do not fit into half of the free disk space of {self.folder}"
        if reason is None:
            try:
                return FeatureDataset(self, train, views), FeatureDataset(self, val, batch_size=256)
            except OSError as error:
                reason = f"the cache {self.folder} cannot be written ({error.strerror or error})"
        print(f"training on images instead of cached features: {reason}", flush=True)
        return None

    def find_obstacle(self, generator: BatchGenerator) -> str | None:
        """Return why features that are computed once differ from training on images, or None.

        Dropout in frozen layers is off on features, and is printed.
        """
        layers = find_training_layers(self._backbone.model)
        if layers.others:
            return f"frozen layers act in training only: {list_names(layers.others)}"
        generator.epoch = 0
        first, again = (_load_sample(generator, 0, 0) for _ in range(2))
        if not isinstance(first[1], np.ndarray):
            return _SEVERAL_TARGETS
        if _fingerprint(*first) != _fingerprint(*again):
            return "the generator returns the same sample differently each time (preprocess?)"
        if layers.dropout:
            print(f"Dropout in frozen layers is off: {list_names(layers.dropout)}", flush=True)
        return None

    def has_room_for(self, generator: BatchGenerator, views: int = 1) -> bool:
        """Whether features of ``views`` epochs of ``generator`` fit into half of the disk space."""
        return views * self._estimate_bytes(generator) <= default_limit(self.folder)

    def compute(self, generator: BatchGenerator, epoch: int = 0) -> StoredFeatures:
        """Return the features and targets of one epoch of ``generator``, in its order.

        Raises:
            UserError: an image is unreadable, or targets are not one array per image.
            OSError: the disk is full, or the folder cannot be written.
        """
        folder = self.folder / self._folder_name(generator, epoch)
        stored = StoredFeatures(folder, generator, epoch, self._backbone)
        if stored.find_missing():
            needed, limit = self._estimate_bytes(generator), default_limit(self.folder)
            remove_oldest(self.folder, "*/*.index", needed, limit, keep=folder)
            if used_bytes(self.folder) + needed > limit:
                remove_store(folder)
                stored = StoredFeatures(folder, generator, epoch, self._backbone)
            stored.fill()
        with contextlib.suppress(OSError):  # another process may have removed the folder
            os.utime(folder)
        return stored

    def _estimate_bytes(self, generator: BatchGenerator) -> int:
        record = 4 * math.prod(self._backbone.shape) + _FINGERPRINT_BYTES + ENTRY_BYTES
        return len(generator.index) * record

    def _folder_name(self, generator: BatchGenerator, epoch: int) -> str:
        """Return the digest of everything that determines features, except the images."""
        identity = hashlib.sha256(self._backbone.identity)
        mix, task = generator.mix, generator.task
        is_random = generator.strength or _is_mixed(generator)
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
            identity.update(b"".join(_image_keys(generator, generator.index)))
        return identity.hexdigest()[:32]


class FeatureDataset(keras.utils.PyDataset):
    r"""Stored features of one or several epochs of a generator, as a Sequence for ``fit``.

    In mode "train" the features are shuffled every epoch; otherwise they keep the generator's
    order.

    Args:
        store: feature store; computes missing features.
        generator: generator of the images.
        views: number of epochs of ``generator`` that are stored: augmented versions of each image.
        batch_size: default: that of ``generator``.

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
        self._views = [store.compute(generator, epoch) for epoch in range(views)]
        found = sum(view.num_found for view in self._views)
        print(
            f"features ({generator.mode}): {sum(map(len, self._views)) - found:,} computed, "
            f"{found:,} from the cache ({used_bytes(store.folder) / 1e6:,.0f} MB)",
            flush=True,
        )
        self._generator = generator
        self._batch_size = batch_size or generator.batch_size
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return -(-len(self._views[0]) // self._batch_size)

    def __getitem__(self, i: int) -> tuple[Features, NDArray[Any]]:
        """Return batch ``i`` of the current epoch: features, float32 (batch, ...), and targets."""
        if i == 0:
            memory.retain_freed_memory()
        return self._views[self.epoch % len(self._views)][self._sample_indices(i)]

    def batch_keys(self, i: int) -> list[str]:
        """Return the keys of the images of batch ``i`` of the current epoch."""
        view = self.epoch % len(self._views)
        return [self._generator.sample_key(view, int(n)) for n in self._sample_indices(i)]

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Return the callback that sets ``epoch``, for ``fit(callbacks=[...])``."""
        return EpochCallback(self)

    def _sample_indices(self, i: int) -> NDArray[np.int64]:
        count = len(self._views[0])
        part = slice(i * self._batch_size, (i + 1) * self._batch_size)
        if self._generator.mode != "train":
            return np.arange(count)[part]
        return permutation(count, self._generator.seed, self.epoch)[part]


def _is_mixed(generator: BatchGenerator) -> bool:
    return generator.mix is not None and generator.mode == "train"


def _sample_keys(generator: BatchGenerator) -> list[bytes]:
    """Return the key of each sample of the current epoch: its image, and those it is mixed with."""
    keys = _image_keys(generator, generator.epoch_order(generator.epoch))
    size = generator.batch_size
    batches = [keys[i * size : (i + 1) * size] for i in range(len(generator))]
    if _is_mixed(generator):
        mixes = [digest(i, *batch) for i, batch in enumerate(batches)]
        batches = [
            [digest(mix, n) for n in range(len(batch))]
            for mix, batch in zip(mixes, batches, strict=True)
        ]
    return [key for batch in batches for key in batch]


def _image_keys(generator: BatchGenerator, index: NDArray[np.int64]) -> list[bytes]:
    """Return the digests of images and their annotations."""
    reader = generator.data_reader
    return [
        digest(reader.key(i), *size_and_times(reader.image_path(i)), *_leaves(reader.target(i)))
        for i in index.tolist()
    ]


def _leaves(annotation: object) -> list[tuple[str, tuple[int, ...], bytes]]:
    arrays = map(np.asarray, keras.tree.flatten(annotation))
    return [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]


_SEVERAL_TARGETS = "the task has several arrays of targets per image"


def _load_sample(generator: BatchGenerator, epoch: int, i: int) -> tuple[Any, Any]:
    """Return image and target of sample ``i`` of an epoch, without prefetching."""
    if _is_mixed(generator):
        generator.epoch = epoch
        images, targets = generator.load_batch(i // generator.batch_size)
        return images[i % generator.batch_size], targets[i % generator.batch_size]
    image, target = generator.sample(epoch * len(generator.index) + i)
    if isinstance(target, (tuple, dict)):
        return image, target
    targets = np.stack([target])
    return image, (targets if generator.mix is None else generator.mix.soft_labels(targets))[0, ...]


def _fingerprint(image: Any, target: Any) -> bytes:
    arrays = [np.asarray(image), np.asarray(target)]
    return digest(*((array.dtype.str, array.shape, array.tobytes()) for array in arrays))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _fastest_predict_fn(backbone: keras.Model) -> PredictFn:
    if keras.backend.backend() != "tensorflow" or has_accelerator():
        return keras_predict_fn(backbone)
    from kerakit.tflite.convert import convert_float
    from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn

    cores = available_cores()
    try:
        # The converter's own lines are about an export, which this is not.
        with contextlib.redirect_stderr(io.StringIO()):
            content = convert_float(backbone)
        workers = [tflite_predict_fn(start_interpreter(content, "backbone")) for _ in range(cores)]
    except JobError:
        print(
            "features are computed by Keras, more slowly: TensorFlow's converter rejected the "
            "backbone. An export to TensorFlow Lite will fail.",
            flush=True,
        )
        return keras_predict_fn(backbone)
    pool = ThreadPoolExecutor(cores)

    def predict(images: NDArray[Any]) -> Features:
        parts = np.array_split(images, min(cores, len(images)))
        return np.concatenate(list(pool.map(lambda work, part: work(part), workers, parts)))

    return predict
