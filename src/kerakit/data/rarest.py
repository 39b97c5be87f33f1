"""Strata of the split of images with several classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def rarest_class(presence: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Return the rarest class of each image, int32 (n,); ``classes`` for images without any.

    >>> rarest_class(np.array([[1, 1], [1, 0], [0, 0]], bool)).tolist()
    [1, 0, 2]
    """
    if not presence.shape[1]:
        return np.zeros(len(presence), np.int32)
    order = np.argsort(presence.sum(axis=0), kind="stable")
    first = presence[:, order].argmax(axis=1)
    rarest: NDArray[np.int64] = np.where(presence.any(axis=1), order[first], presence.shape[1])
    return rarest.astype(np.int32)
