"""The split into training, validation and test: by hashes of (seed, key), within each class."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Mode = Literal["train", "val", "test"]
MODES: tuple[Mode, ...] = get_args(Mode)

MODE_NAMES: dict[Mode, str] = {"train": "training", "val": "validation", "test": "test"}
"""Adjectives of messages: validation images."""

CHUNK = 2**16
"""Rows that are Python objects at the same time: a million would take 300 MB."""

_WORDS: dict[str, Mode] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("validation", "validate", "valid", "val", "dev", "eval", "evaluation"), "val"),
    **dict.fromkeys(("test", "testing", "tst"), "test"),
}
"""Names of splits, in lower case. Longer names come before their beginnings."""

_NOUNS = "sets?|splits?|datasets?|data|images?|imgs?|photos?|pics?|samples?|folder"
_NAME = re.compile(rf"({'|'.join(sorted(_WORDS, key=len, reverse=True))})({_NOUNS})?")


def parse_split(name: str) -> tuple[Mode | None, tuple[str, ...]]:
    """Return the split that a folder or a value names, or None, and the other words of the name.

    >>> parse_split("Training"), parse_split("test-set"), parse_split("seg_train")
    (('train', ()), ('test', ()), ('train', ('seg',)))
    >>> parse_split("tractor")
    (None, ('tractor',))
    """
    # Numbers of years and versions, such as train2017 or test_v2, do not count.
    words = [word for word in re.findall(r"[^\W\d_]+", name.casefold()) if word != "v"]
    modes = [_WORDS[found[1]] for word in words if (found := _NAME.fullmatch(word))]
    if len(modes) != 1:
        return None, tuple(words)
    known = re.compile(rf"{_NAME.pattern}|{_NOUNS}")
    return modes[0], tuple(word for word in words if not known.fullmatch(word))


def assign(
    names: pa.Array,
    classes: NDArray[np.int32],
    seed: int,
    train_ratio: float,
    usable: NDArray[np.bool_] | None = None,
) -> NDArray[np.int8]:
    """Return the split of each image as an index into MODES, int8 (n,).

    Stratified: the images of a class are ordered by a hash of (seed, name). Of n images, the first
    ``max(1, floor(train_ratio * n))`` are for training; validation has half of the others, rounded
    up; test has the rest. So an added image moves at most one image across each of the two borders
    of its class. Images with one name, such as a group, stay together: the one at a border
    is on the side of its middle. Groups with images of several classes are a stratum of their own;
    of a class that has no training image by then, the first group moves to training.

    Args:
        names: binary (n,), name of each image, or of its group.
        classes: int32 (n,), class indices.
        seed: any integer.
        train_ratio: fraction of the images for training, in (0, 1).
        usable: bool (n,), False for excluded images: they have a split, but are no training images
            of their class. Default: all.
    """
    encoded = names.dictionary_encode()
    unit = encoded.indices.to_numpy()
    draws = _draw(encoded.dictionary, seed)
    sizes = np.bincount(unit)
    lowest = np.full(len(sizes), classes.max(initial=0))
    np.minimum.at(lowest, unit, classes)
    stratum = np.zeros_like(lowest)
    np.maximum.at(stratum, unit, classes)
    stratum[lowest != stratum] = classes.max(initial=0) + 1
    order = np.lexsort((draws, stratum))
    _, first, inverse = np.unique(stratum[order], return_index=True, return_inverse=True)
    stops = np.cumsum(sizes[order])
    starts = stops - sizes[order]
    counts = np.add.reduceat(sizes[order], first)
    # A thousandth of an image more: 0.29 * 100 is less than 29 in float64.
    train = np.maximum(1, np.floor(train_ratio * counts + 1e-3))
    val = train + np.ceil((counts - train) / 2)
    middle = (starts + stops) / 2 - starts[first][inverse]
    sides = np.empty(len(sizes), np.int8)
    sides[order] = (middle > train[inverse]).astype(np.int8) + (middle > val[inverse])
    sides[order[first]] = 0
    if usable is None:
        usable = np.ones(len(unit), np.bool_)
    trained = usable & (sides[unit] == 0)
    for missing in np.setdiff1d(classes[usable], classes[trained]):
        units = unit[usable & (classes == missing)]
        if (sides[units] > 0).all():
            sides[units[np.argmin(draws[units])]] = 0
    per_image: NDArray[np.int8] = sides[unit]
    return per_image


def _draw(names: pa.Array, seed: int) -> NDArray[np.uint64]:
    """Return the first 64 bits of the SHA-256 of (seed, name), uint64 (n,)."""
    prefix = b"%d:" % seed
    draws = np.empty(len(names), np.uint64)
    # In chunks: a million names are never Python objects at the same time.
    for start in range(0, len(names), CHUNK):
        chunk = names[start : start + CHUNK].to_pylist()
        digests = b"".join(sha256(prefix + name).digest()[:8] for name in chunk)
        draws[start : start + CHUNK] = np.frombuffer(digests, ">u8")
    return draws
