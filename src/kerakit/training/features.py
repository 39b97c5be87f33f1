"""The head first: what a frozen backbone says of each image is computed once, and the head is trained on that."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
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

from kerakit.data.decode import DECODING, available_cores
from kerakit.data.generator import BatchGenerator, FollowEpochs
from kerakit.data.order import order
from kerakit.deploy.keras import predictor
from kerakit.errors import UserError
from kerakit.files import make_folder, replacing

LAYER = "features"
"""The layer of this name ends the backbone: its output is (batch, features), what follows it is the head."""

Features = NDArray[np.float32]


def split(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Return the backbone, from pixels to features, and the head, from features to the outputs, with the same weights.

    Raises:
        UserError: ``model`` has no layer named "features", or what follows it is no single row of layers.
    """
    names = [layer.name for layer in model.layers]
    if LAYER not in names:
        raise UserError(
            f"the model {model.name} has no layer named {LAYER!r}. Name the last layer of its backbone so, "
            "or give --schedule scratch."
        )
    last = model.get_layer(LAYER)
    backbone = keras.Model(model.inputs, last.output, name="backbone")
    x = features = keras.Input(backbone.output_shape[1:], name="input_of_head")
    for layer in model.layers[names.index(LAYER) + 1 :]:
        if layer.input is not last.output:
            raise UserError(
                f"the layer {layer.name!r} of {model.name} does not follow {last.name!r} alone: a head trained by itself "
                f"is a single row of layers after {LAYER!r}. Give --schedule scratch."
            )
        x, last = layer(x), layer
    return backbone, keras.Model(features, x, name="head")


class FeatureStore:
    """Features of images, computed the fastest exact way of this machine, and kept on disk for later runs.

    On a CPU under TensorFlow that is LiteRT's float interpreter, one a core; elsewhere Keras's ``predict_on_batch``. Features
    are kept by a hash of the backbone's layers and weights, of the images (path, size, time of change), of the file that
    holds the generator's class, where augmentation and preprocessing are, and of what the generator was given.

    Args:
        backbone: from pixels to (batch, features).
        folder: where they are kept.
    """

    def __init__(self, backbone: keras.Model, folder: Path) -> None:
        self._backbone = backbone
        self._folder = folder
        self._predict: Callable[[NDArray[Any]], Features] | None = None
        self._identity = hashlib.sha256(backbone.to_json().encode())
        for weight in backbone.get_weights():
            self._identity.update(np.ascontiguousarray(weight).tobytes())

    def compute(self, generator: BatchGenerator, epoch: int = 0) -> tuple[Features, NDArray[Any]]:
        """Return the features, (n, features), and the targets, (n, ...), of one epoch of ``generator``, in its order."""
        path = self._folder / f"{self._key(generator, epoch)}.npz"
        # Whatever a kill or a disk left of it: the zip format holds checksums.
        damaged = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error)
        with contextlib.suppress(*damaged), path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
            return kept["features"], kept["targets"]
        features, targets = self._compute(generator, epoch)
        make_folder(self._folder)
        with replacing(path) as temporary:
            np.savez(temporary, features=features, targets=targets)
        return features, targets

    def _compute(self, generator: BatchGenerator, epoch: int) -> tuple[Features, NDArray[Any]]:
        if self._predict is None:
            self._predict = _fastest(self._backbone)
        generator.epoch = epoch
        parts = []
        for i in range(len(generator)):
            images, targets = generator[i]
            if not isinstance(targets, np.ndarray):
                raise UserError(
                    "a head is trained by itself on one target an image; these are several. Give --schedule scratch."
                )
            parts.append((self._predict(images), targets))
            _say(i + 1, len(generator), generator.mode)
        generator.close()
        features, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
        return features, targets

    def _key(self, generator: BatchGenerator, epoch: int) -> str:
        digest = self._identity.copy()
        reader = generator.data_reader
        given = (generator.mode, generator.batch_size, generator.input_size, generator.seed, generator.strength, DECODING)
        # Without augmentation, epochs differ in the order alone.
        digest.update(repr((*given, epoch, keras.backend.backend())).encode())
        digest.update(Path(inspect.getfile(type(generator))).read_bytes())
        for i in generator.index:
            digest.update(repr((reader.key(int(i)), *_size_and_time(reader.image_path(int(i))))).encode())
            digest.update(np.asarray(reader.target(int(i))).tobytes())
        return digest.hexdigest()[:32]


class FeatureBatches(keras.utils.Sequence):
    """Features of one or several epochs of a generator as a Sequence for ``fit``, in a new order each epoch.

    Args:
        store: computes or finds them.
        generator: of the training images.
        views: how many epochs of it are computed: each shows the images augmented in another way.
    """

    def __init__(self, store: FeatureStore, generator: BatchGenerator, views: int = 1) -> None:
        super().__init__(workers=1)
        self._views = [store.compute(generator, epoch) for epoch in range(views)]
        self._batch_size = generator.batch_size
        self._seed = generator.seed
        self.epoch = 0

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return -(-len(self._views[0][0]) // self._batch_size)

    def __getitem__(self, i: int) -> tuple[Features, NDArray[Any]]:
        """Return batch ``i`` of the current epoch: features, float32 (batch, features), and targets, (batch, ...)."""
        features, targets = self._views[self.epoch % len(self._views)]
        rows = order(len(features), self._seed, self.epoch)[i * self._batch_size : (i + 1) * self._batch_size]
        return features[rows], targets[rows]

    def follow_epochs(self) -> keras.callbacks.Callback:
        """Return the callback that tells it its epoch."""
        return FollowEpochs(self)


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
            print(f"features of the {mode} images: {done} of {batches} batches", end=end, flush=True)


def _fastest(backbone: keras.Model) -> Callable[[NDArray[Any]], Features]:
    if keras.backend.backend() != "tensorflow" or _has_gpu():
        return predictor(backbone)
    from kerakit.deploy.litert import convert_float, load

    cores = available_cores()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "backbone.tflite"
        path.write_bytes(convert_float(backbone))
        predicts = [load(path) for _ in range(cores)]
    pool = ThreadPoolExecutor(cores)

    def predict(images: NDArray[Any]) -> Features:
        shares = np.array_split(images, cores)
        parts = pool.map(lambda one: one[0](one[1]), ((p, s) for p, s in zip(predicts, shares, strict=True) if len(s)))
        return np.concatenate(list(parts))

    return predict


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
