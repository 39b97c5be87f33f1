"""The split into training, validation and test: a pure function of (seed, key)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Mode = Literal["train", "val", "test"]
MODES: tuple[Mode, ...] = get_args(Mode)

SPLIT_NAMES: dict[str, Mode] = {
    "train": "train",
    "validation": "val",
    "val": "val",
    "valid": "val",
    "test": "test",
}
"""Names of splits in folders and tables."""


def assign(keys: Iterable[bytes], seed: int, train_ratio: float) -> NDArray[np.int8]:
    """Return the split of each image as an index into MODES, int8 (n,).

    Images outside training are divided equally into validation and test. Adding or removing images
    does not move others; changing ``train_ratio`` only moves those between the old and the new
    threshold.

    Args:
        keys: paths of the images relative to the data folder, with ``/``, in the file system's
            encoding.
        seed: any integer.
        train_ratio: fraction of the images for training, in (0, 1).
    """
    prefix = b"%d:" % seed
    digests = b"".join(sha256(prefix + key).digest()[:8] for key in keys)
    # 53 bits, which a float64 represents exactly, so that the draw is uniform in [0, 1).
    draws = (np.frombuffer(digests, ">u8") >> 11) / 2**53
    bounds = np.array([train_ratio, (1 + train_ratio) / 2])
    return np.searchsorted(bounds, draws, side="right").astype(np.int8)
