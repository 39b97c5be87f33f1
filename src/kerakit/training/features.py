"""Features of the frozen layers of a model, computed once per image and stored on disk."""

from __future__ import annotations

import hashlib
import inspect
import math
import os
import secrets
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

import kerakit
from kerakit.console import progress
from kerakit.data import memory
from kerakit.data.decode import DECODER_VERSION
from kerakit.data.generator import BatchGenerator, EpochCallback
from kerakit.data.order import permutation
from kerakit.data.store import (
    ENTRY_BYTES,
    ArrayStore,
    default_limit,
    digest,
    remove_store,
    used_bytes,
)
from kerakit.errors import JobError, UserError
from kerakit.inference import PredictFn, keras_predict_fn
from kerakit.machine import available_cores, has_accelerator

Features = NDArray[np.float32]


class StoredFeatures:
    """Features and targets of one epoch of a generator, in its order, read from disk on access.

    Args:
        folder: folder of the array store.
        keys: keys of its records, one per sample.
        feature_shape: shape of the features of one sample.
        targets: a batch of targets: the dtype and shape of one sample.
    """

    def __init__(
        self, folder: Path, keys: list[bytes], feature_shape: tuple[int, ...], targets: NDArray[Any]
    ) -> None:
        self._keys = keys
        self._arrays = (np.empty((0, *feature_shape), np.float32), targets[:0])
        sizes = (math.prod(array.shape[1:]) * array.itemsize for array in self._arrays)
        self._store = ArrayStore(folder, sum(sizes))

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self._keys)

    def __getitem__(self, samples: NDArray[np.int64]) -> tuple[Features, NDArray[Any]]:
        """Return features, float32 (k, ...), and targets, (k, ...), of k sample indices.

        Raises:
            JobError: a record cannot be read.
        """
        features, targets = (np.empty((len(samples), *a.shape[1:]), a.dtype) for a in self._arrays)
        for row, i in enumerate(samples):
            if not self._store.read(self._keys[i], features[row : row + 1], targets[row : row + 1]):
                raise JobError("stored features are damaged or were removed. Start again.")
        return features, targets

    def find_missing(self) -> list[int]:
        """Return the sample indices whose records are missing or damaged."""
        scratch = [np.empty((1, *array.shape[1:]), array.dtype) for array in self._arrays]
        return [i for i, key in enumerate(self._keys) if not self._store.read(key, *scratch)]

    def write(self, start: int, features: Features, targets: NDArray[Any]) -> None:
        """Write what is missing of a batch, whose first sample index is ``start``."""
        for row, key in enumerate(self._keys[start : start + len(features)]):
            if key not in self._store:
                self._store.write(key, features[row : row + 1], targets[row : row + 1])


class FeatureStore:
    """Features of images, computed once by the frozen part of a model, and reused by later runs.

    On a CPU under TensorFlow, LiteRT computes them, one interpreter per core; elsewhere Keras does.
    Records are keyed by everything that determines them: layers and weights of the backbone, each
    image (path, size, time of modification) and annotation, settings and source file of the
    generator, and its task. When disk space is short, the least recently used features are removed.

    Args:
        backbone: model from uint8 images to features, (batch, ...).
        folder: folder of the store.

    >>> image = keras.Input((8, 8, 3))
    >>> backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    >>> store = FeatureStore(backbone, Path(".cache/features"))
    """

    def __init__(self, backbone: keras.Model, folder: Path) -> None:
        self._backbone = backbone
        self._folder = folder
        self._shape: tuple[int, ...] = tuple(backbone.output_shape[1:])
        self._identity = hashlib.sha256(backbone.to_json().encode())
        for weight in backbone.get_weights():
            self._identity.update(np.ascontiguousarray(weight).tobytes())

    @cached_property
    def _predict(self) -> PredictFn:
        return _fastest_predict_fn(self._backbone)

    def has_room_for(self, generator: BatchGenerator, views: int = 1) -> bool:
        """Whether features of ``views`` epochs of ``generator`` fit into half of the disk space."""
        return views * self._estimate_bytes(generator) <= default_limit(self._folder)

    def compute(self, generator: BatchGenerator, epoch: int = 0) -> StoredFeatures:
        """Return the features and targets of one epoch of ``generator``, in its order.

        Raises:
            UserError: an image is unreadable, or targets are not one array per image.
            OSError: the disk is full.
        """
        generator.epoch = epoch
        _, targets = generator.load_batch(0)
        if not isinstance(targets, np.ndarray):
            raise UserError(
                "training on cached features needs one array of targets, and this task returns "
                "several. Use --strategy scratch."
            )
        folder = self._folder / self._folder_name(generator, epoch)
        open_folder = partial(StoredFeatures, folder, _sample_keys(generator), self._shape, targets)
        stored = open_folder()
        if missing := stored.find_missing():
            self._make_room(folder, self._estimate_bytes(generator))
            if not folder.exists():
                stored, missing = open_folder(), [0]
            self._fill(stored, generator, missing[0])
        os.utime(folder)
        return stored

    def _fill(self, stored: StoredFeatures, generator: BatchGenerator, first: int) -> None:
        """Compute and write what is missing, from the batch of sample index ``first`` on."""
        with progress(f"computing features ({generator.mode})", len(stored)) as update:
            for i in range(first // generator.batch_size, len(generator)):
                images, targets = generator[i]
                start = i * generator.batch_size
                stored.write(start, self._predict(images), targets)
                update(start + len(images))
        generator.close()

    def _estimate_bytes(self, generator: BatchGenerator) -> int:
        return len(generator.index) * (4 * math.prod(self._shape) + ENTRY_BYTES)

    def _make_room(self, folder: Path, needed: int) -> None:
        """Remove the least recently used features until ``needed`` more bytes fit into the limit.

        Features in ``folder`` go last.
        """
        limit = default_limit(self._folder)
        paths = list({path.parent for path in self._folder.glob("*/*.index")})
        paths.sort(key=lambda path: (path == folder, path.stat().st_mtime))
        sizes = [used_bytes(path) for path in paths]
        while paths and sum(sizes) + needed > limit:
            remove_store(paths.pop(0))
            sizes.pop(0)

    def _folder_name(self, generator: BatchGenerator, epoch: int) -> str:
        """Return the digest of everything that determines features, except the images."""
        identity = self._identity.copy()
        mix, task = generator.mix, generator.task
        is_random = generator.strength or _is_mixed(generator)
        settings = (
            kerakit.__version__,
            keras.backend.backend(),
            DECODER_VERSION,
            generator.mode,
            generator.input_size,
            generator.seed,
            generator.strength,
            epoch if is_random else None,
            mix and (mix.num_classes, mix.mixup, mix.cutmix),
            task and (task.name, task.class_names),
        )
        identity.update(repr(settings).encode())
        for part in (generator, generator.read, task):
            identity.update(_source(part))
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
        digest(reader.key(i), *_size_and_time(reader.image_path(i)), *_leaves(reader.target(i)))
        for i in index.tolist()
    ]


def _leaves(annotation: object) -> list[tuple[str, tuple[int, ...], bytes]]:
    arrays = map(np.asarray, keras.tree.flatten(annotation))
    return [(array.dtype.str, array.shape, array.tobytes()) for array in arrays]


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return size and time of modification of a file; zeros if it does not exist."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _source(part: object) -> bytes:
    """Return the source file of a function or of an object's class; Kerakit's own has a version."""
    owner: Any = part if inspect.isroutine(part) else type(part)
    if owner.__module__.startswith("kerakit."):
        return b""
    try:
        return Path(inspect.getfile(owner)).read_bytes()
    except (OSError, TypeError):
        # Code of a notebook has no file: its features are not reused.
        return b"" if part is None else secrets.token_bytes(16)


def _fastest_predict_fn(backbone: keras.Model) -> PredictFn:
    if keras.backend.backend() != "tensorflow" or has_accelerator():
        return keras_predict_fn(backbone)
    from kerakit.tflite.convert import convert_float
    from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn

    cores = available_cores()
    content = convert_float(backbone)
    workers = [tflite_predict_fn(start_interpreter(content, "backbone")) for _ in range(cores)]
    pool = ThreadPoolExecutor(cores)

    def predict(images: NDArray[Any]) -> Features:
        parts = np.array_split(images, min(cores, len(images)))
        return np.concatenate(list(pool.map(lambda work, part: work(part), workers, parts)))

    return predict
