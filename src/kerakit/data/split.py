"""The split into training, validation and test: a pure function of (seed, key)."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Mode = Literal["train", "val", "test"]
MODES: tuple[Mode, ...] = get_args(Mode)


def assign(keys: Iterable[bytes], seed: int, train_ratio: float) -> NDArray[np.int8]:
    """Return the split of each image, as an index into MODES, int8 (n,).

    What is not for training is halved into validation and test. Since nothing but the seed and the key enters, adding or
    removing images moves no other image; a change of ``train_ratio`` moves only those between the old bound and the new.

    Args:
        keys: the images' paths below the data folder, with ``/``, in the file system's encoding.
        seed: any whole number.
        train_ratio: share of the images to train on, in (0, 1).
    """
    prefix = b"%d:" % seed
    digests = b"".join(sha256(prefix + key).digest()[:8] for key in keys)
    # 53 bits: what a float holds exactly, so that the draw is uniform in [0, 1).
    draws = (np.frombuffer(digests, ">u8") >> 11) / 2**53
    bounds = np.array([train_ratio, (1 + train_ratio) / 2])
    return np.searchsorted(bounds, draws, side="right").astype(np.int8)
