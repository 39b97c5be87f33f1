"""Samples of a generator: their keys and fingerprints in a store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.data.generator import BatchGenerator
from kerakit.data.shards.member import Member
from kerakit.data.store import digest, size_and_times


def is_mixed(generator: BatchGenerator) -> bool:
    """Whether MixUp or CutMix apply."""
    return generator.mix is not None and generator.mode == "train"


def sample_keys(generator: BatchGenerator) -> list[bytes]:
    """Return the key of each sample of the current epoch: its image, and those it is mixed with."""
    keys = image_keys(generator, generator.epoch_order(generator.epoch))
    size = generator.batch_size
    batches = [keys[i * size : (i + 1) * size] for i in range(len(generator))]
    if is_mixed(generator):
        mixes = [digest(i, *batch) for i, batch in enumerate(batches)]
        batches = [
            [digest(mix, n) for n in range(len(batch))]
            for mix, batch in zip(mixes, batches, strict=True)
        ]
    return [key for batch in batches for key in batch]


def image_keys(generator: BatchGenerator, index: NDArray[np.int64]) -> list[bytes]:
    """Return the digests of images and their annotations."""
    reader = generator.data_reader
    return [
        digest(reader.key(i), *size_and_times(reader.image_path(i)), *_leaves(reader.target(i)))
        for i in index.tolist()
    ]


def _leaves(annotation: object) -> list[tuple[str, tuple[int, ...], bytes]]:
    leaves = keras.tree.flatten(annotation)
    # A mask is the path of a file, or a member of a shard.
    masks = [one for one in leaves if isinstance(one, str | Member)]
    places = [Path(one) if isinstance(one, str) else one for one in masks]
    files = [str(size_and_times(one)) for one in places]
    arrays = (np.asarray(str(one) if isinstance(one, Member) else one) for one in leaves)
    return [
        *((array.dtype.str, array.shape, array.tobytes()) for array in arrays),
        *((name, (), b"") for name in files),
    ]


def load_sample(generator: BatchGenerator, epoch: int, i: int) -> tuple[Any, Any]:
    """Return image and target of sample ``i`` of an epoch, without prefetching."""
    if is_mixed(generator):
        generator.epoch = epoch
        images, targets = generator.load_batch(i // generator.batch_size)
        row = i % generator.batch_size
        return images[row], nested.take(targets, row)
    image, target = generator.sample(epoch * len(generator.index) + i)
    if generator.mix is None:
        return image, nested.map_arrays(np.asarray, target)
    return image, nested.take(generator.mix.soft_labels(nested.stack([target])), 0)


def fingerprint(image: Any, target: Any) -> bytes:
    """Return the digest of image and target, 16 bytes."""
    arrays = [np.asarray(image), *map(np.asarray, nested.arrays(target))]
    return digest(*((array.dtype.str, array.shape, array.tobytes()) for array in arrays))
