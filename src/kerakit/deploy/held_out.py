"""Held-out images as devices see them: image files read by the program of the device bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.data.generator import BatchGenerator
from kerakit.deploy.bundle import read_as_device
from kerakit.device.preprocessing import Preprocessing
from kerakit.errors import UserError
from kerakit.machine import available_cores

Batches = Iterable[tuple[Any, Any]]
"""Batches of (uint8 images (n, height, width, 3), targets (n, ...)); iterated more than once."""

MAX_MEMORY = 2**28
"""Images that take more bytes than this are read again for each format."""

_CHECKED = 64
"""Number of images on which ``preprocess`` is compared."""

_BATCH = 32


def preprocessing_of(held_out: Batches) -> Preprocessing:
    """Return crop, resize policy and color of the images; the default for arrays."""
    return held_out.preprocessing if isinstance(held_out, BatchGenerator) else Preprocessing()


def check_preprocess(held_out: Batches) -> None:
    """Check that ``preprocess`` leaves pixels unchanged: devices don't run it.

    Raises:
        UserError: it changes the pixels of a held-out image.
    """
    if not isinstance(held_out, BatchGenerator) or held_out.strength or held_out.skip_unreadable:
        return
    order = held_out.epoch_order(0)
    for i in range(0, len(order), max(1, len(order) // _CHECKED)):
        path = held_out.data_reader.image_path(int(order[i]))
        image, pixels = held_out.read(path), np.asarray(held_out.sample(i)[0])
        if pixels.dtype == image.dtype and np.array_equal(pixels, image):
            continue
        raise UserError(
            f"preprocess() of {type(held_out).__name__} changes pixels: {path} is "
            f"{_describe(image)} before it and {_describe(pixels)} after it. A device does not run "
            "your code, so its accuracy would differ. Set crop, letterbox or gray by PREPROCESSING "
            "in config.py, or make the change a layer of the model; then train again."
        )


def _describe(pixels: NDArray[Any]) -> str:
    mean = f", mean {pixels.mean():.1f}" if pixels.dtype.kind in "uif" and pixels.size else ""
    return f"{pixels.dtype} {pixels.shape}{mean}"


def as_device(held_out: Batches) -> Batches | None:
    """Return the same samples, read by the program of the device bundle; None for arrays.

    Also None if the generator reads files by a function of its own.
    """
    if not isinstance(held_out, BatchGenerator):
        return None
    if held_out.is_cached or held_out.skip_unreadable or held_out.strength:
        return None
    return _DeviceBatches(held_out)


class _DeviceBatches:
    """Batches of (images, None): targets are those of the generator, in the same order."""

    def __init__(self, held_out: BatchGenerator) -> None:
        reader, order = held_out.data_reader, held_out.epoch_order(held_out.epoch)
        order = order[: len(held_out) * held_out.batch_size]  # fewer with drop_last
        self._indices = [int(i) for i in order]
        self._paths = [reader.image_path(i) for i in self._indices]
        self._fetch = getattr(reader, "fetch", lambda _: None)
        self._size, self._preprocessing = held_out.input_size, held_out.preprocessing
        width, height = held_out.input_size
        self._fits = len(self._paths) * width * height * 3 <= MAX_MEMORY
        self._batches: list[NDArray[np.uint8]] = []

    def __iter__(self) -> Iterator[tuple[Any, Any]]:
        """Yield the batches; the next one is read while one is used."""
        batches: Iterable[NDArray[np.uint8]] = self._batches or self._read_ahead()
        finished: list[NDArray[np.uint8]] = []
        for images in batches:
            if self._fits:
                finished.append(images)
            yield images, np.zeros(len(images))
        self._batches = finished

    def _read_ahead(self) -> Iterator[NDArray[np.uint8]]:
        with ThreadPoolExecutor(available_cores()) as pool:
            starts = iter(range(0, len(self._paths), _BATCH))

            def submit() -> list[Future[NDArray[np.uint8]]]:
                start = next(starts, len(self._paths))
                self._fetch(self._indices[start : start + _BATCH])
                return [
                    pool.submit(read_as_device, path, self._size, self._preprocessing)
                    for path in self._paths[start : start + _BATCH]
                ]

            ahead = submit()
            while ahead:
                batch, ahead = ahead, submit()
                yield np.stack([image.result() for image in batch])
