"""Which pictures are nearly the same: re-encoded, resized, a little brighter, cut by a few rows; not: mirrored."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit.data.decode import Pixels

THUMBNAIL = (32, 32)
"""(width, height) that ``fingerprint`` takes."""

# The largest numbers of differing bits; docs/decisions.md has what they find and what they don't.
MOST_BITS_P, MOST_BITS_D = 6, 48

# A band that this many pictures share tells nothing of them: 2,000 of them would make two million pairs.
_MOST_IN_BAND = 2000

_BANDS, _BITS_A_BAND = 4, 16
_COSINES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)


def fingerprint(thumbnail: Pixels) -> NDArray[np.uint64]:
    """Return 320 bits of a picture, uint64 (5,): first the 64 of a pHash, then the 256 of a dHash.

    pHash: which of the 63 lowest coefficients of a discrete cosine transform, without the mean, are above their median (Zauner,
    "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010). dHash: which of 16 by 16 pixels are brighter
    than their left neighbours.

    Args:
        thumbnail: uint8 (32, 32, 3).
    """
    grey = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    coefficients = (_COSINES @ grey @ _COSINES.T).ravel()[1:]
    low = np.append(coefficients > np.median(coefficients), False)
    small = cv2.resize(grey, (17, 16), interpolation=cv2.INTER_AREA)
    return np.packbits(np.concatenate([low, (small[:, 1:] > small[:, :-1]).ravel()])).view(
        np.uint64
    )


def near_duplicates(prints: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each picture the first one that it is nearly the same as: itself where there is none, int64 (n,).

    Two pictures are compared if one of the four 16-bit bands of their pHash is equal or differs by one bit: all pairs within
    seven bits. Bands that more than 2,000 pictures share are passed over.

    Args:
        prints: uint64 (n, 5), as ``fingerprint`` gives them.
    """
    unique, first, inverse = np.unique(prints, axis=0, return_index=True, return_inverse=True)
    # Each unique fingerprint's earliest picture; then the earliest of those that lie near it.
    earliest = first.astype(np.int64)
    nearest = earliest.copy()
    for a, b in _candidates(unique[:, 0]):
        bits_p = np.bitwise_count(unique[a, 0] ^ unique[b, 0])
        c, d = a[bits_p <= MOST_BITS_P], b[bits_p <= MOST_BITS_P]
        bits_d = np.bitwise_count(unique[c, 1:] ^ unique[d, 1:]).sum(axis=1)
        c, d = c[bits_d <= MOST_BITS_D], d[bits_d <= MOST_BITS_D]
        np.minimum.at(nearest, c, earliest[d])
        np.minimum.at(nearest, d, earliest[c])
    return nearest[inverse.ravel()]


def _candidates(
    hashes: NDArray[np.uint64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield pairs of rows, two arrays of one length, whose hashes share a band but for at most one bit."""
    for band in range(_BANDS):
        values = (hashes >> np.uint64(band * _BITS_A_BAND) & np.uint64(2**_BITS_A_BAND - 1)).astype(
            np.int64
        )
        rows = np.argsort(values, kind="stable")
        starts = np.searchsorted(values[rows], np.arange(2**_BITS_A_BAND + 1))
        present = np.flatnonzero(np.diff(starts))
        for value in present:
            mine = rows[starts[value] : starts[value + 1]]
            neighbours = value ^ np.append(0, 1 << np.arange(_BITS_A_BAND))
            # Each pair of bands once.
            others = [
                rows[starts[other] : starts[other + 1]] for other in neighbours if other >= value
            ]
            theirs = np.concatenate(others)
            if len(theirs) > 1 and len(theirs) <= _MOST_IN_BAND:
                yield np.repeat(mine, len(theirs)), np.tile(theirs, len(mine))
