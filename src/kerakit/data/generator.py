"""Batches on the fly: a ``keras.utils.Sequence`` that prefetches a few batches."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit import nested, world
from kerakit.console import quiet_logs
from kerakit.data import memory
from kerakit.data.augment import Augmenter, derive_seed
from kerakit.data.decode import Pixels, checked_pixels, read_image
from kerakit.data.mix import Mix
from kerakit.data.mosaic import Mosaic
from kerakit.data.order import class_balanced_order, permutation
from kerakit.data.placement import Placement
from kerakit.data.read_timer import ReadTimer
from kerakit.data.reader import Reader
from kerakit.data.shards.member import Member
from kerakit.data.split import Mode
from kerakit.device.preprocessing import STRETCH, Preprocessing
from kerakit.errors import ImageError, UserError, first_line
from kerakit.machine import available_cores
from kerakit.threads import Watch

if TYPE_CHECKING:
    from kerakit.tasks.base import Task

MAX_UNREADABLE = 0.01
"""Largest fraction of unreadable images that ``skip_unreadable`` allows."""

BATCHES_AHEAD = 4
"""Number of batches read ahead beyond one per thread. Memory: (threads + BATCHES_AHEAD) batches."""

REMOTE_AHEAD = 16
"""Largest number of further threads, and so of batches, for images at a remote address."""


_RANGE_IMAGES = 4
"""Fewest images of a batch whose range is checked: augmentation may make a single image black."""


class BatchGenerator(keras.utils.PyDataset):
    r"""Batches of one split: a pure function of (seed, epoch, index), for any number of threads.

    Subclasses override ``get_aug_pipeline`` and ``preprocess``. An image is read, augmented, and
    passed to ``preprocess`` and ``task.encode``.

    Args:
        data_reader: the dataset.
        mode: "train" (shuffled every epoch), "val" or "test" (in the reader's order).
        batch_size: images per batch; the last batch of an epoch may be smaller (see ``drop_last``).
        input_size: (width, height) in pixels.
        jitter: augment the images, only in mode "train"; a number is the ``strength``, True is 1.
        seed: seed of shuffling and augmentation, in [0, 2**32).
        threads: number of batches prepared in parallel; default: one per core.
        read: function from a path to an image at the input size, such as a cache; default: decode
            the file.
        skip_unreadable: replace each unreadable image with a fixed other image, and list it in
            ``unreadable``.
        mix: MixUp and CutMix, in mode "train"; targets become soft labels, float32 (batch,
            classes), in all modes.
        drop_last: drop the last batch if it is incomplete, only in mode "train".
        preprocessing: crop, resize policy and color of decoded files, also on devices.
        task: encodes annotations as targets, and selects the entries of a dict annotation that are
            augmented with the image; default: annotations are the targets, and all entries of a
            dict annotation are augmented.
        mosaic: mosaics of four images, in mode "train", for tasks with boxes.

    Attributes:
        index: int64 (n,), dataset indices of this split.
        is_cached: whether decoded images are cached.
        epoch: counted from 0; set by ``epoch_callback()``.
        strength: strength of the augmentation; 0: off.
        error: the exception that stopped prefetching, if any.
        timer: time spent reading and waiting for batches.
        unreadable: error messages of unreadable images, by key.

    Raises:
        UserError: the split has no images. While reading: more than 1 % of the images, and more
            than one, are unreadable; augmentation or ``preprocess`` returned anything but images,
            uint8 (height, width, 3), of the input size.
        ImageError: while reading: an image is unreadable.

    >>> from tempfile import TemporaryDirectory
    >>> from kerakit.data import DataReader
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     rows = ["path,label,split", "a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,dog,val"]
    ...     _ = table.write_text("\n".join(rows))
    ...     reader = DataReader(table)
    >>> black = np.zeros((224, 224, 3), np.uint8)
    >>> generator = BatchGenerator(reader, batch_size=2, read=lambda path: black)
    >>> images, targets = generator[0]
    >>> images.shape, sorted(targets.tolist())
    ((2, 224, 224, 3), [0, 1])
    >>> generator.close()
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
        read: Callable[[Any], Pixels] | None = None,
        skip_unreadable: bool = False,
        mix: Mix | None = None,
        drop_last: bool = False,
        task: Task | None = None,
        preprocessing: Preprocessing | None = None,
        mosaic: Mosaic | None = None,
    ) -> None:
        # Keras's own workers repeat and lose samples on JAX; grain reads ahead instead.
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
                f"the dataset has no images for mode {mode!r} ({len(data_reader)} images in "
                f"total). Add images, change TRAIN_RATIO_DEFAULT, or add a folder {mode}/."
            )
        self.preprocessing = preprocessing or STRETCH
        decode = partial(read_image, input_size=input_size, preprocessing=self.preprocessing)
        self.read = decode if read is None else read  # an empty cache is false
        self.is_cached = read is not None
        self.skip_unreadable = skip_unreadable
        self.unreadable: dict[str, str] = {}
        self.mix = mix
        self.task = task
        self.mosaic = mosaic if mosaic and mosaic.probability and mode == "train" else None
        if self.mosaic and not (task and task.supports_mosaic):
            raise UserError(
                f"--mosaic combines images with boxes, which the task "
                f"{task.name if task else 'of this project'} does not have. Omit --mosaic."
            )
        self.drop_last = drop_last and mode == "train"
        if self.drop_last and len(self.index) < batch_size:
            raise UserError(
                f"the batch size {batch_size} is larger than the {len(self.index)} images of mode "
                f"{mode!r}: with drop_last no batch remains. Choose a smaller --batch_size, or "
                "omit --drop_last."
            )
        self.epoch = 0
        self.error: Exception | None = None
        self.timer = ReadTimer()
        self.strength = float(jitter) if mode == "train" else 0.0
        options = {} if task is None else task.compose_options()
        self._augmenter = Augmenter(self.get_aug_pipeline, seed, options) if self.strength else None
        self._iterator: Any = None  # grain's, over the batches from `_next` on, counted over epochs
        self._next = 0
        self._lock = threading.Lock()
        self._watch = Watch(self._describe)
        # More threads than cores fetch batches from a remote address; as many as before decode.
        self._slots = threading.BoundedSemaphore(self.threads)
        self._is_remote = getattr(data_reader, "is_remote", False)
        self._readers = self.threads + self._is_remote * min(3 * self.threads, REMOTE_AHEAD)

    # ---------------------------------------------------------------- for subclasses to override

    def get_aug_pipeline(self) -> Any:
        """Return a new ``albumentations.Compose`` of ``self.strength``. Called once per thread."""
        raise UserError(
            f"{type(self).__name__} has no get_aug_pipeline(), which jitter=True requires."
        )

    def preprocess(self, image: Pixels, annot: Any) -> tuple[Any, Any]:
        """Return an augmented image, uint8 (height, width, 3), and its annotation, preprocessed.

        The image that is returned has to be uint8 and of the input size.
        The annotation is None where images are predicted. An exported model is used without this
        method: ``export_model`` checks that it does not change pixels.
        """
        return image, annot

    # ----------------------------------------------------------------------------- sequence

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        if self.drop_last:
            return len(self.index) // self.batch_size
        return -(-len(self.index) // self.batch_size)

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        """Return batch ``i`` of the current epoch.

        Returns:
            Images, uint8 (batch, height, width, 3), and targets, (batch, ...). Where several
            processes train together: arrays on their devices, of which each has read its rows.

        Raises:
            UserError: an image is unreadable.
        """
        batch: tuple[Any, Any] = world.current.assemble(self.local_batch(i), self.batch_count(i))
        return batch

    def batch_count(self, i: int) -> int:
        """Return the number of samples of batch ``i``."""
        return len(self._sample_indices(0, i))

    def local_batch(self, i: int) -> tuple[Any, Any]:
        """Return the rows of batch ``i`` of the current epoch that this process reads."""
        if not 0 <= i < len(self):
            raise IndexError(f"batch {i} of {len(self)}")
        try:
            with self._lock:
                batch = self._next if self._is_next(i) else self.epoch * len(self) + i
                if self._iterator is None or batch != self._next:
                    if self._iterator is not None:
                        self._iterator.close()
                    self._iterator = self._read_ahead(batch)
                with self.timer.wait():
                    images, targets = self._watch.wait(self._iterator)
                self._next = batch + 1
        except Exception as error:
            # TensorFlow wraps what is raised here in an error of its own; the user needs this one.
            self.error = error
            raise
        return images, targets

    def whole_batches(self, first: int, stop: int) -> Iterator[tuple[Any, Any]]:
        """Yield whole batches of the current epoch, which are read ahead.

        Several processes divide an epoch by it, whatever its number of batches.
        """
        start = self.epoch * len(self)
        iterator = self._read_ahead(start + first, start + stop, is_whole=True)
        try:
            for _ in range(first, stop):
                with self.timer.wait():
                    batch = self._watch.wait(iterator)
                yield batch
        except Exception as error:
            self.error = error
            raise
        finally:
            iterator.close()

    def load_batch(self, i: int) -> tuple[Any, Any]:
        """Return batch ``i`` of the current epoch, like ``self[i]``, without prefetching."""
        return self._load(self.epoch * len(self) + i)

    def _load_sample(self, dataset_index: int) -> tuple[Pixels, Any]:
        """Return an image and its annotation at the input size, before augmentation."""
        dataset_index, image = self._read_image(dataset_index)
        annot: Any = self.data_reader.target(dataset_index)
        if self.task is not None:
            annot = self.task.resize(annot, self.place(self.data_reader.image_path(dataset_index)))
        return image, annot

    def load_samples(self, samples: Sequence[int] | NDArray[np.int64]) -> tuple[Any, Any]:
        """Return images and targets of samples, counted from the start of epoch 0, as a batch."""
        self._fetch(map(int, samples))
        images, targets = nested.stack([self.sample(int(i)) for i in samples])
        return images, targets

    def draw(self, images: Any, targets: Any) -> tuple[list[Any], list[str]]:
        """Return the images of a batch with their targets drawn, and their captions.

        Without a task, the images stay as they are, with empty captions.
        """
        if self.task is None:
            return list(images), [""] * len(images)
        each = [nested.take(targets, i) for i in range(len(images))]
        drawn = [
            self.task.overlay(image, target=target)
            for image, target in zip(images, each, strict=True)
        ]
        return drawn, [self.task.format_annotation(target) for target in each]

    def sample(self, i: int) -> tuple[Pixels, Any]:
        """Return image and target of sample ``i``, counted from the start of epoch 0."""
        epoch, dataset_index = i // len(self.index), self._dataset_index(i)
        key = self.data_reader.key(dataset_index)
        if self.mosaic is not None and self.mosaic.is_active(epoch):
            seed = self._mosaic_seed(epoch, key)
            image, annot = self.mosaic(self._load_sample, dataset_index, self.index, seed)
        else:
            image, annot = self._load_sample(dataset_index)
        if self._augmenter is not None:
            followers = self._followers(annot)
            augmented = self._augmenter(epoch, key, image=image, **followers)
            image = checked_pixels(augmented.pop("image"), self._name("get_aug_pipeline"))
            if followers:
                merge = self.task.follow if self.task else lambda old, new: {**old, **new}
                annot = merge(annot, augmented)
        image, annot = self._preprocessed(image, annot)
        return image, annot if self.task is None else self.task.encode(annot, self.input_size)

    def place(self, path: Path | Member) -> Placement:
        """Return the position of the image of a file in the model's input."""
        return Placement(path, self.preprocessing, self.input_size)

    def of_mode(self, mode: Mode) -> Self:
        """Return a generator of another split with the same settings, without augmentation.

        Raises:
            UserError: the split has no images.
        """
        return type(self)(
            self.data_reader,
            mode,
            batch_size=self.batch_size,
            input_size=self.input_size,
            task=self.task,
            preprocessing=self.preprocessing,
            skip_unreadable=self.skip_unreadable,
            read=self.read if self.is_cached else None,
        )

    def read_input(self, path: Path) -> Pixels:
        """Return an image file as the model sees it, uint8 (height, width, 3).

        Raises:
            ImageError: the image is unreadable.
            UserError: ``preprocess`` failed.
        """
        image = self.read(path)
        try:
            return self._preprocessed(image, None)[0]
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"preprocess() of {type(self).__name__} failed for {path} without an annotation: "
                f"{type(error).__name__}: {first_line(error)}. Return the image unchanged if the "
                "annotation is None."
            ) from error

    def epoch_callback(self) -> keras.callbacks.Callback:
        """Return the callback that sets ``epoch``, for ``fit(callbacks=[...])``.

        On JAX, Keras calls the hooks of a Sequence once too often, so they cannot count epochs.
        """
        return EpochCallback(self)

    def batch_keys(self, i: int) -> list[str]:
        """Return the keys of the images of batch ``i`` of the current epoch."""
        return [
            self.data_reader.key(self._dataset_index(sample))
            for sample in self._sample_indices(self.epoch, i)
        ]

    def sample_key(self, epoch: int, i: int) -> str:
        """Return the key of the image of sample ``i`` of ``epoch``."""
        return self.data_reader.key(self._dataset_index(epoch * len(self.index) + i))

    def epoch_order(self, epoch: int) -> NDArray[np.int64]:
        """Return the dataset indices of all samples of ``epoch`` in their order, int64 (n,)."""
        if self.mode != "train":
            return self.index
        return self.index[permutation(len(self.index), self.seed, epoch)]

    def sample_weights(self, epoch: int) -> NDArray[np.float32] | None:
        """Return the factor of each training sample of ``epoch`` in the loss, float32 (n,).

        Those of mixed images are weighted means, like their labels. None: all are 1.

        Raises:
            UserError: ``sample_weights`` of the reader are not one number per image, 0 or more.
        """
        weights = getattr(self.data_reader, "sample_weights", None)
        if weights is None or self.mode != "train":
            return None
        weights = np.asarray(weights, np.float32)
        if weights.shape != (len(self.data_reader),) or not (weights >= 0).all():
            raise UserError(
                f"sample_weights of the reader have the shape {weights.shape}; expected one number "
                f"per image, 0 or more: ({len(self.data_reader)},)."
            )
        weights = weights[self.epoch_order(epoch)]
        if not weights.any():
            raise UserError("the sample weights of all training images are 0.")
        if self.mix is None:
            return weights
        size, shape = self.batch_size, (self.input_size[1], self.input_size[0])
        parts = (weights[i * size : (i + 1) * size] for i in range(len(self)))
        blended: list[NDArray[np.float32]] = [
            self.mix.blend(part, shape, derive_seed(self.seed, epoch, f"batch {i}"))
            for i, part in enumerate(parts)
        ]
        return np.concatenate(blended)

    def class_balanced_order(self) -> NDArray[np.int64]:
        """Return the sample indices of epoch 0 in class-balanced (round-robin) order, (n,)."""
        # The text of an annotation is hashable, also that of arrays and dictionaries.
        targets = map(self.data_reader.target, self.epoch_order(0).tolist())
        return class_balanced_order(map(repr, targets))

    def close(self) -> None:
        """Stop prefetching. The generator can still be used afterwards."""
        with self._lock:
            if self._iterator is not None:
                self._iterator.close()
                self._iterator = None
            self._watch.close()

    # ---------------------------------------------------------------------------- internals

    def _is_next(self, i: int) -> bool:
        """Whether batch ``i`` is read next; validation continues over epochs, which are equal."""
        return self.mode != "train" and self._iterator is not None and self._next % len(self) == i

    def _dataset_index(self, sample: int) -> int:
        """Return the dataset index of a sample, which is counted over epochs."""
        epoch, i = divmod(sample, len(self.index))
        if self.mode == "train":
            i = permutation(len(self.index), self.seed, epoch)[i]
        return int(self.index[i])

    def _sample_indices(self, epoch: int, i: int) -> range:
        """Return the samples of batch ``i`` of ``epoch``, counted over epochs."""
        first, n = epoch * len(self.index), len(self.index)
        return range(first + i * self.batch_size, first + min((i + 1) * self.batch_size, n))

    def _read_image(self, dataset_index: int) -> tuple[int, Pixels]:
        """Return dataset index and image, or those of its substitute, a function of (seed, key)."""
        key = self.data_reader.key(dataset_index)
        for attempt in itertools.count():
            try:
                return dataset_index, self.read(self.data_reader.image_path(dataset_index))
            except ImageError as error:
                if not self.skip_unreadable:
                    raise
                self.unreadable[self.data_reader.key(dataset_index)] = str(error)
                if len(self.unreadable) > max(1, MAX_UNREADABLE * len(self.index)):
                    raise UserError(
                        f"{len(self.unreadable)} of {len(self.index)} images are unreadable, more "
                        f"than {MAX_UNREADABLE:.0%}, the limit of --skip_unreadable. The last "
                        f"one: {error}"
                    ) from None
            dataset_index = int(self.index[derive_seed(self.seed, attempt, key) % len(self.index)])
        raise AssertionError("unreachable")

    def _preprocessed(self, image: Pixels, annot: Any) -> tuple[Pixels, Any]:
        """Return what ``preprocess`` returns, checked."""
        name, result = self._name("preprocess"), self.preprocess(image, annot)
        if not isinstance(result, tuple | list) or len(result) != 2:
            raise UserError(
                f"{name} returned a value of type {type(result).__name__}. Expected a tuple: the "
                "image and its annotation."
            )
        if result[0] is image and self._augmenter is not None:
            name = self._name("get_aug_pipeline")  # what has another size
        return checked_pixels(result[0], name, self.input_size), result[1]

    def _check_range(self, images: Any, samples: range) -> None:
        """Raise UserError if all pixels of a batch are 0 or 1, and those of its files are not."""
        if len(images) < _RANGE_IMAGES or images.max() > 1:
            return
        files = [self._read_image(self._dataset_index(sample))[1] for sample in samples]
        if min(int(image.max()) for image in files) > 1:
            raise UserError(
                f"{self._name('get_aug_pipeline')} or {self._name('preprocess')} returned images "
                f"whose pixels are 0 or 1: {len(images)} of {len(images)} images of a batch. "
                "Expected pixels of 0 to 255, uint8: omit a division by 255."
            )

    def _name(self, method: str) -> str:
        return f"{type(self).__name__}.{method}()"

    def _followers(self, annot: Any) -> dict[str, Any]:
        """Return the entries of an annotation that are augmented with the image."""
        if self.task is not None:
            return self.task.followers(annot)
        return annot if isinstance(annot, dict) else {}

    def _load(self, batch: int, rows: slice | None = None) -> tuple[Any, Any]:
        """Return rows of a batch, which is counted over epochs; default: all."""
        epoch, i = divmod(batch, len(self))
        whole = self._sample_indices(epoch, i)
        samples = whole if rows is None else whole[rows]
        if self.mix is not None and self.mode == "train":
            return self._load_mixed(batch, whole, samples)
        images, targets = self._read_samples(samples)
        self._check_range(images, samples)
        return images, targets if self.mix is None else self.mix.soft_labels(targets)

    def _load_mixed(self, batch: int, whole: range, samples: range) -> tuple[Any, Any]:
        """Return mixed samples of a batch; their partners may be others of the whole batch."""
        assert self.mix is not None  # noqa: S101 - by the caller
        seed = derive_seed(self.seed, batch // len(self), f"batch {batch % len(self)}")
        shape = self.input_size[1], self.input_size[0]
        first = samples.start - whole.start
        own = np.arange(first, first + len(samples))
        partners = self.mix.partners(len(whole), shape, seed)[own]
        needed = np.unique(np.concatenate([own, partners]))
        images, targets = self._read_samples([whole[int(row)] for row in needed])
        mine, others = (np.searchsorted(needed, rows) for rows in (own, partners))
        self._check_range(images[mine], samples)
        return self.mix.mix_rows(images, targets, mine, others, len(whole), seed)

    def _read_samples(self, samples: Sequence[int]) -> tuple[Any, Any]:
        """Return images and targets of samples, counted over epochs; they are watched."""
        self._fetch(samples)
        with self._slots:
            # A list: within map(), a StopIteration of the owner's code would end the batch.
            pairs = [self._watched_sample(sample) for sample in samples]
        images, targets = (nested.stack(part) for part in zip(*pairs, strict=True))
        return images, targets

    def _fetch(self, samples: Iterable[int]) -> None:
        """Fetch the images of a batch from a remote dataset, those of mosaics too, all at once."""
        if not self._is_remote:
            return
        reader: Any = self.data_reader
        indices = []
        for sample in samples:
            indices.append(self._dataset_index(sample))
            epoch = sample // len(self.index)
            if self.mosaic is not None and self.mosaic.is_active(epoch):
                seed = self._mosaic_seed(epoch, reader.key(indices[-1]))
                indices += self.mosaic.partners(self.index, seed)
        cached: Any = self.read if hasattr(self.read, "__contains__") else ()
        reader.fetch([i for i in indices if reader.image_path(i) not in cached])

    def _mosaic_seed(self, epoch: int, key: str) -> int:
        return derive_seed(self.seed, epoch, f"mosaic {key}")

    def _timed_load(self, batch: int, is_whole: bool = False) -> tuple[Any, Any]:
        count = self.batch_count(batch % len(self))
        rows = slice(0, count) if is_whole else world.current.rows(count)
        with self.timer.read(rows.stop - rows.start):
            try:
                return self._load(batch, rows)
            except (StopIteration, GeneratorExit, KeyboardInterrupt, SystemExit) as error:
                # In a thread, these are no requests to end: grain or Keras would end an epoch.
                name = type(error).__name__
                raise RuntimeError(f"{name} in a thread that reads batch {batch}") from error

    def _watched_sample(self, i: int) -> tuple[Pixels, Any]:
        self._watch.begin(i)
        sample = self.sample(i)
        self._watch.end()  # not after an error: a thread that died is recognized by it
        return sample

    def _describe(self, sample: int) -> str:
        """Return the path of the image of a sample, for messages."""
        return str(self.data_reader.image_path(self._dataset_index(sample)))

    def _read_ahead(self, batch: int, stop: int = sys.maxsize, is_whole: bool = False) -> Any:
        """Return an iterator from ``batch`` on, over the ends of epochs."""
        # Not before: it imports JAX where that is installed, and a training on stored features does
        # not read ahead. It logs a warning where there is no JAX profiler.
        with quiet_logs():
            import grain

        memory.retain_freed_memory()
        options = grain.ReadOptions(
            num_threads=self._readers, prefetch_buffer_size=self._readers + BATCHES_AHEAD
        )
        dataset = grain.MapDataset.range(batch, stop)
        load = partial(self._timed_load, is_whole=is_whole)
        return iter(dataset.map(load).to_iter_dataset(options))


class EpochCallback(keras.callbacks.Callback):
    """Sets ``epoch`` of a generator at the start of each epoch."""

    def __init__(self, generator: Any) -> None:
        super().__init__()
        self._generator = generator

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        """Set it."""
        self._generator.epoch = epoch
