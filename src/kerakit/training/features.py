"""What the lower, frozen part of a model says of each image is computed once, and the upper part is trained on that."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import math
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit.data import memory
from kerakit.data.decode import DECODER_VERSION
from kerakit.data.generator import BatchGenerator, EpochCallback
from kerakit.data.order import permutation
from kerakit.deploy.formats.keras import predictor
from kerakit.errors import UserError
from kerakit.files import atomic_write, make_dir
from kerakit.machine import available_cores
from kerakit.training import tune

Features = NDArray[np.float32]


class FeatureStore:
    """What the lower part of a model says of images, computed the fastest exact way of this machine, and kept for later runs.

    On a CPU under TensorFlow that is LiteRT's float interpreter, one a core; elsewhere Keras's ``predict_on_batch``. Features
    are kept by a hash of the backbone's layers and weights, of the images (path, size, time of change), of the file that
    holds the generator's class, where augmentation and preprocessing are, and of what the generator was given. They are
    mapped into memory, not read into it, after their CRC-32 was checked.

    Args:
        backbone: from pixels to (batch, ...).
        folder: where they are kept. The oldest go once they take more than half of what is free on the disk.
    """

    def __init__(self, backbone: keras.Model, folder: Path) -> None:
        self._backbone = backbone
        self._folder = folder
        self._predict: Callable[[NDArray[Any]], Features] | None = None
        self._identity = hashlib.sha256(backbone.to_json().encode())
        for weight in backbone.get_weights():
            self._identity.update(np.ascontiguousarray(weight).tobytes())

    def fits(self, generator: BatchGenerator, views: int = 1) -> bool:
        """Whether half of what is free on the disk takes the features of ``views`` epochs of ``generator``."""
        return self._bytes(len(generator.index)) * views <= self._room()

    def compute(self, generator: BatchGenerator, epoch: int = 0) -> tuple[Features, NDArray[Any]]:
        """Return the features, (n, ...), and the targets, (n, ...), of one epoch of ``generator``, in its order."""
        name = self._key(generator, epoch)
        # The one with the targets is written last, so where it is, the other is.
        features, targets = self._folder / f"{name}.npy", self._folder / f"{name}.npz"
        # Whatever a kill or a disk left of it.
        damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
        with (
            contextlib.suppress(*damaged),
            targets.open("rb") as file,
            np.load(file, allow_pickle=False) as kept,
        ):
            found = np.load(features, mmap_mode="r", allow_pickle=False)
            if kept["crc32"] == _crc32(found):
                targets.touch()
                return found, kept["targets"]
        make_dir(self._folder)
        self._make_room(self._bytes(len(generator.index)))
        with atomic_write(features) as temporary:
            answers = self._compute(generator, epoch, temporary)
        found = np.load(features, mmap_mode="r", allow_pickle=False)
        with atomic_write(targets) as temporary:
            np.savez(temporary, targets=answers, crc32=_crc32(found))
        return found, answers

    def _compute(self, generator: BatchGenerator, epoch: int, path: Path) -> NDArray[Any]:
        """Write the features into ``path``; return the targets."""
        if self._predict is None:
            self._predict = _fastest(self._backbone)
        generator.epoch = epoch
        count = min(len(generator) * generator.batch_size, len(generator.index))
        shape = (count, *self._backbone.output_shape[1:])
        features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        parts = []
        for i in range(len(generator)):
            images, targets = generator[i]
            if not isinstance(targets, np.ndarray):
                raise UserError(
                    "a head is trained by itself on one target an image; these are several. Give --schedule scratch."
                )
            start = i * generator.batch_size
            features[start : start + len(images)] = self._predict(images)
            parts.append(targets)
            _say(i + 1, len(generator), generator.mode)
        features.flush()
        generator.close()
        return np.concatenate(parts)

    def _bytes(self, images: int) -> int:
        return images * int(math.prod(self._backbone.output_shape[1:])) * 4

    def _room(self) -> int:
        """Return half of what the store might take at most: of what is free and of what it holds already."""
        place = next(
            folder for folder in (self._folder, *self._folder.absolute().parents) if folder.is_dir()
        )
        return (
            shutil.disk_usage(place).free
            + sum(path.stat().st_size for path in self._folder.glob("*.npy"))
        ) // 2

    def _make_room(self, needed: int) -> None:
        """Remove what was used longest ago until ``needed`` bytes more are no more than ``_room``."""
        room = self._room()
        held = sorted(self._folder.glob("*.npz"), key=lambda path: path.stat().st_mtime)
        sizes = [path.with_suffix(".npy").stat().st_size for path in held]
        while held and sum(sizes) + needed > room:
            oldest = held.pop(0)
            sizes.pop(0)
            for path in (oldest, oldest.with_suffix(".npy")):
                path.unlink(missing_ok=True)

    def _key(self, generator: BatchGenerator, epoch: int) -> str:
        digest = self._identity.copy()
        reader = generator.data_reader
        given = (
            generator.mode,
            generator.batch_size,
            generator.input_size,
            generator.seed,
            generator.strength,
            DECODER_VERSION,
        )
        # Without augmentation, epochs differ in the order alone.
        digest.update(repr((*given, epoch, keras.backend.backend())).encode())
        digest.update(Path(inspect.getfile(type(generator))).read_bytes())
        for i in generator.index:
            digest.update(
                repr((reader.key(int(i)), *_size_and_time(reader.image_path(int(i))))).encode()
            )
            digest.update(np.asarray(reader.target(int(i))).tobytes())
        return digest.hexdigest()[:32]


class FeatureBatches(keras.utils.Sequence):
    """Features of one or several epochs of a generator as a Sequence for ``fit``.

    Training features come in a new order each epoch, others in the generator's.

    Args:
        store: computes or finds them.
        generator: of the images.
        views: how many epochs of it are computed: each shows the images augmented in another way.
        batch_size: default: that of ``generator``.
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
        """Return the number of batches in an epoch."""
        return -(-len(self._views[0][0]) // self._batch_size)

    def __getitem__(self, i: int) -> tuple[Features, NDArray[Any]]:
        """Return batch ``i`` of the current epoch: features, float32 (batch, ...), and targets, (batch, ...)."""
        if i == 0:
            memory.retain_freed_memory()
        features, targets = self._views[self.epoch % len(self._views)]
        rows = self._rows(i)
        return np.asarray(features[rows]), targets[rows]

    def keys(self, i: int) -> list[str]:
        """Return the keys of the images in batch ``i`` of the current epoch."""
        view = self.epoch % len(self._views)
        return [self._generator.key(view, int(row)) for row in self._rows(i)]

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Return the callback that tells it its epoch."""
        return EpochCallback(self)

    def _rows(self, i: int) -> NDArray[np.int64]:
        count = len(self._views[0][0])
        part = slice(i * self._batch_size, (i + 1) * self._batch_size)
        if self._generator.mode != "train":
            return np.arange(count)[part]
        return permutation(count, self._generator.seed, self.epoch)[part]


def _size_and_time(path: Path) -> tuple[int, int]:
    """Return bytes and time of change of a file; of one that is not there nothing, since reading it says so."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _say(done: int, batches: int, mode: str) -> None:
    tenth = max(1, batches // 10)
    if done % tenth == 0 or done == batches:
        end = "\r" if sys.stdout.isatty() and done < batches else "\n"
        if sys.stdout.isatty() or done == batches:
            print(
                f"features of the {mode} images: {done} of {batches} batches", end=end, flush=True
            )


def _crc32(features: Features) -> int:
    return zlib.crc32(features.reshape(-1).view(np.uint8).data)


def _fastest(backbone: keras.Model) -> Callable[[NDArray[Any]], Features]:
    if keras.backend.backend() != "tensorflow" or tune.has_accelerator():
        return predictor(backbone)
    from kerakit.deploy.formats.tflite import convert_float, load

    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.tflite"
        path.write_bytes(convert_float(backbone))
        predicts = [load(path) for _ in range(cores)]
    pool = ThreadPoolExecutor(cores)

    def predict(images: NDArray[Any]) -> Features:
        shares = np.array_split(images, cores)
        parts = pool.map(
            lambda one: one[0](one[1]),
            ((p, s) for p, s in zip(predicts, shares, strict=True) if len(s)),
        )
        return np.concatenate(list(parts))

    return predict
