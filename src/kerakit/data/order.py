"""Sample orders: a permutation that is a pure function of (seed, epoch), and round-robin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


# Four: the current epoch, the next one, which is read ahead, and those of other generators. 8 bytes
# per image each.
@lru_cache(maxsize=4)
def permutation(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """Return a permutation of ``range(count)``, int64 (count,).

    The ranks of random numbers, whose generator is the same in all versions of NumPy (NEP 19); the
    algorithm of ``Generator.permutation`` may change.

    Args:
        count: number of images.
        seed: in [0, 2**64).
        epoch: counted from 0.
    """
    numbers = np.random.Philox(key=[seed, epoch]).random_raw(count)
    ranks: NDArray[np.int64] = np.argsort(numbers, kind="stable")
    ranks.flags.writeable = False
    return ranks


def class_balanced_order(labels: Iterable[Hashable]) -> NDArray[np.int64]:
    """Return the class-balanced (round-robin) order, int64 (n,): one sample per class in turn.

    Within a class, the order is preserved.

    >>> class_balanced_order(["cat", "cat", "cat", "dog"]).tolist()
    [0, 3, 1, 2]
    """
    seen: Counter[Hashable] = Counter()
    rounds = []
    for label in labels:
        rounds.append(seen[label])
        seen[label] += 1
    return np.argsort(np.array(rounds, np.int64), kind="stable")
