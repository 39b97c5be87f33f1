"""Batches on the fly: a ``keras.utils.Sequence`` that reads ahead and holds only a few batches in memory."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit.console import quiet_logs
from kerakit.data import memory
from kerakit.data.augment import Augmenter, seed_of
from kerakit.data.decode import Pixels, read_image
from kerakit.data.mix import Mix
from kerakit.data.order import permutation
from kerakit.data.read_timer import ReadTimer
from kerakit.data.reader import Reader
from kerakit.data.split import Mode
from kerakit.errors import ImageError, UserError
from kerakit.machine import available_cores

with quiet_logs():
    # It looks for JAX's profiler when it is imported, and says so when there is none.
    import grain

MOST_BAD = 0.01
"""The share of unreadable images at which ``skip_unreadable`` stops all the same."""

BATCHES_AHEAD = 4
"""How many batches are read ahead beyond one a thread. Memory: this plus the threads, times a batch."""


class BatchGenerator(keras.utils.Sequence):
    """Batch ``i`` of an epoch is a pure function of (seed, epoch, i): for any number of threads and any order of asking.

    A subclass says what is done to each image: ``get_aug_pipeline`` and ``preprocess``.

    Args:
        data_reader: what there is to read.
        mode: "train" (shuffled anew each epoch), "val" or "test" (in the reader's order).
        batch_size: images a batch; the last one of an epoch may be smaller (see ``drop_last``).
        input_size: (width, height) in pixels.
        jitter: augment the images (only in mode "train"); a number is the ``strength``, True is 1.
        seed: of the order and of the augmentation, in [0, 2**32).
        threads: how many batches are prepared at a time; default: one for each core.
        read: how an image is read at the input size, as a cache does; default: from its file each time.
        skip_unreadable: put another image, always the same one, in the place of one that cannot be read, and note it in ``bad``.
        mix: MixUp and CutMix, in mode "train"; in all modes the targets become shares, float32 (batch, classes).
        drop_last: leave a last batch that is smaller than the others away (only in mode "train").

    Attributes:
        index: int64 (n,), the reader's indices of this mode.
        epoch: counted from 0; set it with ``epoch_callback()``.
        strength: of the augmentation; 0 for none.
        error: what stopped the reading, if something did.
        clock: how long reading took and was waited for.
        bad: the messages of the images that could not be read, by key.

    Raises:
        UserError: the mode has no images. While reading: more than 1 % of them, and more than one, cannot be read.
        ImageError: while reading: an image cannot be read.
    """

    def __init__(
        self,
        data_reader: Reader,
        mode: Mode = "train",
        batch_size: int = 32,
        input_size: tuple[int, int] = (224, 224),
        jitter: float = False,
        seed: int = 0,
        threads: int | None = None,
        read: Callable[[Path], Pixels] | None = None,
        skip_unreadable: bool = False,
        mix: Mix | None = None,
        drop_last: bool = False,
    ) -> None:
        # Keras's own workers repeat and lose samples on JAX; the reading ahead is done here instead.
        super().__init__(workers=1)
        self.data_reader = data_reader
        self.mode = mode
        self.batch_size = batch_size
        self.input_size = input_size
        self.seed = seed
        self.threads = threads or available_cores()
        self.index = data_reader.indices(mode)
        if not len(self.index):
            raise UserError(
                f"the data has no images for mode {mode!r}: {len(data_reader)} images in all. Add images, "
                "change TRAIN_RATIO_DEFAULT, or give a folder of that name."
            )
        self._read = partial(read_image, input_size=input_size) if read is None else read
        self.skip_unreadable = skip_unreadable
        self.bad: dict[str, str] = {}
        self.mix = mix
        self.drop_last = drop_last and mode == "train"
        if self.drop_last and len(self.index) < batch_size:
            raise UserError(
                f"a batch of {batch_size} images is more than the {len(self.index)} of mode {mode!r}, so that drop_last leaves "
                "nothing. Take a smaller --batch_size, or leave --drop_last away."
            )
        self.epoch = 0
        self.error: Exception | None = None
        self.timer = ReadTimer()
        self.strength = float(jitter) if mode == "train" else 0.0
        self._augmenter = Augmenter(self.get_aug_pipeline, seed) if self.strength else None
        self._reading: Any = None  # grain's iterator over the batches from position `_next` on
        self._next = 0
        self._lock = threading.Lock()

    # -------------------------------------------------------------------------------------------- what a subclass changes

    def get_aug_pipeline(self) -> Any:
        """Return a new ``albumentations.Compose``, as strong as ``self.strength`` says. Called once a thread."""
        raise UserError(
            f"{type(self).__name__} has no get_aug_pipeline(), which jitter=True needs."
        )

    def preprocess(self, image: Pixels, annot: Any) -> tuple[Any, Any]:
        """Change one image, uint8 (height, width, 3), and its annotation, before (image, annotation) join a batch."""
        return image, annot

    # ------------------------------------------------------------------------------------------------------ the sequence

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return (
            len(self.index) // self.batch_size
            if self.drop_last
            else -(-len(self.index) // self.batch_size)
        )

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        """Return batch ``i`` of the current epoch.

        Returns:
            Images, uint8 (batch, height, width, 3), and targets, (batch, ...), both as ``preprocess`` gave them.

        Raises:
            UserError: an image cannot be read.
        """
        if not 0 <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        try:
            with self._lock:
                position = self._next if self._continues_with(i) else self.epoch * len(self) + i
                if self._reading is None or position != self._next:
                    self._reading = self._start_reading(position)
                with self.timer.wait():
                    batch = next(self._reading)
                self._next = position + 1
        except Exception as error:
            # TensorFlow wraps what is raised here in its own error; this one is what the user must read.
            self.error = error
            raise
        images, targets = batch
        return images, targets

    def peek(self, i: int) -> tuple[Any, Any]:
        """Return batch ``i`` of the current epoch, as ``self[i]`` does, without reading ahead."""
        return self._load(self.epoch * len(self) + i)

    def sample(self, position: int) -> tuple[Pixels, Any]:
        """Return the image and the annotation at ``position``, counted over epochs from the first image of epoch 0.

        Where the reader's target is a dictionary, its entries follow the image through the augmentation under the names of
        albumentations: ``mask``, ``masks``, ``bboxes``, ``keypoints`` and label fields; others pass unchanged.
        """
        row, image = self._readable(self._row(position))
        key, annot = self.data_reader.key(row), self.data_reader.target(row)
        if self._augmenter is not None:
            followers = annot if isinstance(annot, dict) else {}
            augmented = self._augmenter(position // len(self.index), key, image=image, **followers)
            image = augmented.pop("image")
            annot = augmented if followers else annot
        return self.preprocess(image, annot)

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Return the callback that tells this generator its epoch: ``fit(callbacks=[..., train_data.epoch_callback()])``.

        Keras's hooks of the sequence itself are called once too often on JAX, so they cannot count.
        """
        return EpochCallback(self)

    def keys(self, i: int) -> list[str]:
        """Return the keys of the images in batch ``i`` of the current epoch."""
        return [self.data_reader.key(self._row(p)) for p in self._positions(self.epoch, i)]

    def key(self, epoch: int, place: int) -> str:
        """Return the key of the image that comes ``place`` images after the first one of ``epoch``."""
        return self.data_reader.key(self._row(epoch * len(self.index) + place))

    def close(self) -> None:
        """Stop reading ahead. The generator can be used again afterwards."""
        with self._lock:
            if self._reading is not None:
                self._reading.close()
                self._reading = None

    # --------------------------------------------------------------------------------------------------------- internals

    def _continues_with(self, i: int) -> bool:
        """Whether batch ``i`` is what is read next; in validation every epoch is the same, so it goes on from the last."""
        return self.mode != "train" and self._reading is not None and self._next % len(self) == i

    def _readable(self, row: int) -> tuple[int, Pixels]:
        """Return ``row`` and its image; with ``skip_unreadable``, those of a stand-in that depends on seed and key alone."""
        key = self.data_reader.key(row)
        for attempt in itertools.count():
            try:
                return row, self._read(self.data_reader.image_path(row))
            except ImageError as error:
                if not self.skip_unreadable:
                    raise
                self.bad[self.data_reader.key(row)] = str(error)
                if len(self.bad) > max(1, MOST_BAD * len(self.index)):
                    raise UserError(
                        f"{len(self.bad)} of {len(self.index)} images cannot be read, more than {MOST_BAD:.0%}: too many to "
                        f"leave out. The last one: {error}"
                    ) from None
            row = int(self.index[seed_of(self.seed, attempt, key) % len(self.index)])
        raise AssertionError("unreachable")

    def _row(self, position: int) -> int:
        """Return the reader's index of the image at ``position``, counted over epochs."""
        epoch, place = divmod(position, len(self.index))
        return int(
            self.index[
                permutation(len(self.index), self.seed, epoch)[place]
                if self.mode == "train"
                else place
            ]
        )

    def _positions(self, epoch: int, i: int) -> range:
        start = epoch * len(self.index)
        return range(
            start + i * self.batch_size, start + min((i + 1) * self.batch_size, len(self.index))
        )

    def _load(self, position: int) -> tuple[Any, Any]:
        """Return the batch at ``position``, counted over epochs."""
        epoch, i = divmod(position, len(self))
        images, annots = (
            _stack(part) for part in zip(*map(self.sample, self._positions(epoch, i)), strict=True)
        )
        if self.mix is None:
            return images, annots
        if self.mode != "train":
            return images, self.mix.shares(annots)
        return self.mix(images, annots, seed_of(self.seed, epoch, f"batch {i}"))

    def _timed_load(self, position: int) -> tuple[Any, Any]:
        with self.timer.read(self.batch_size):
            return self._load(position)

    def _start_reading(self, position: int) -> Any:
        """Read ahead from ``position`` on, over the ends of epochs: while one is validated, the next is prepared."""
        if self._reading is not None:
            self._reading.close()
        memory.retain_freed_memory()
        options = grain.ReadOptions(
            num_threads=self.threads, prefetch_buffer_size=self.threads + BATCHES_AHEAD
        )
        reading = iter(
            grain.MapDataset.range(sys.maxsize).map(self._timed_load).to_iter_dataset(options)
        )
        reading.set_state({"next_index": position})
        return reading


class EpochCallback(keras.callbacks.Callback):
    """Sets ``generator.epoch`` at the beginning of each epoch."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self._generator = generator

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Set it."""
        self._generator.epoch = epoch


def _stack(values: tuple[Any, ...]) -> NDArray[Any] | tuple[Any, ...] | dict[str, Any]:
    """Stack the samples' arrays along a new first axis; tuples and dictionaries (several outputs) keep their form."""
    first = values[0]
    if isinstance(first, tuple):
        return tuple(_stack(parts) for parts in zip(*values, strict=True))
    if isinstance(first, dict):
        return {name: _stack(tuple(value[name] for value in values)) for name in first}
    return np.stack(values)
