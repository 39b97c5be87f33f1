"""The order of training images: a pure function of (seed, epoch)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


# A few: the epoch that is trained on, the next one, which is read ahead, and those of other generators. 8 bytes an image each.
@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(count)``, int64 (count,).

    The ranks of random numbers, whose generator NumPy keeps the same in all versions (NEP 19), where it may change the
    algorithm of ``Generator.permutation``.

    Args:
        count: number of images.
        seed: in [0, 2**64).
        epoch: counted from 0.
    """
    numbers = np.random.Philox(key=[seed, epoch]).random_raw(count)
    ranks: NDArray[np.int64] = np.argsort(numbers, kind="stable")
    ranks.flags.writeable = False
    return ranks
