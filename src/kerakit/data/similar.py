"""Near-duplicate images: re-encoded, resized, a little brighter, or cropped; not mirrored."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit.data.decode import Pixels

THUMBNAIL = (32, 32)
"""(width, height) of the input of ``fingerprint``."""

MAX_PHASH_DISTANCE, MAX_DHASH_DISTANCE = 6, 48
"""Largest Hamming distances of near duplicates; the decisions page has the evidence."""

# A band that more images share is not distinctive: 2,000 images make two million pairs.
_MAX_PER_BAND = 2000

_BANDS, _BITS_PER_BAND = 4, 16
_COSINES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)


def fingerprint(thumbnail: Pixels) -> NDArray[np.uint64]:
    """Return 320 bits of an image, uint64 (5,): 64 bits of a pHash, then 256 bits of a dHash.

    pHash: which of the 63 lowest coefficients of a discrete cosine transform, without the mean,
    exceed their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 2010). dHash: which of 16 by 16 pixels are brighter than their left neighbors.

    Args:
        thumbnail: uint8 (32, 32, 3).
    """
    gray = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    coefficients = (_COSINES @ gray @ _COSINES.T).ravel()[1:]
    phash = np.append(coefficients > np.median(coefficients), False)
    small = cv2.resize(gray, (17, 16), interpolation=cv2.INTER_AREA)
    dhash = (small[:, 1:] > small[:, :-1]).ravel()
    return np.packbits(np.concatenate([phash, dhash])).view(np.uint64)


def find_near_duplicates(fingerprints: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return for each image the index of the first image that it nearly equals, int64 (n,).

    An image without near duplicates has its own index. Two images are compared if one of the four
    16-bit bands of their pHash differs by at most one bit: this covers all pairs within a distance
    of seven. Bands shared by more than 2,000 images are skipped.

    Args:
        fingerprints: uint64 (n, 5), from ``fingerprint``.
    """
    unique, first, inverse = np.unique(fingerprints, axis=0, return_index=True, return_inverse=True)
    # The earliest image of each unique fingerprint; then the earliest of its near duplicates.
    earliest = first.astype(np.int64)
    nearest = earliest.copy()
    for a, b in _candidates(unique[:, 0]):
        near = np.bitwise_count(unique[a, 0] ^ unique[b, 0]) <= MAX_PHASH_DISTANCE
        a, b = a[near], b[near]
        distance = np.bitwise_count(unique[a, 1:] ^ unique[b, 1:]).sum(axis=1)
        a, b = a[distance <= MAX_DHASH_DISTANCE], b[distance <= MAX_DHASH_DISTANCE]
        np.minimum.at(nearest, a, earliest[b])
        np.minimum.at(nearest, b, earliest[a])
    return nearest[inverse.ravel()]


def _candidates(
    hashes: NDArray[np.uint64],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield index pairs, two arrays, of hashes with a band that differs by at most one bit."""
    for band in range(_BANDS):
        shifted = hashes >> np.uint64(band * _BITS_PER_BAND)
        values = (shifted & np.uint64(2**_BITS_PER_BAND - 1)).astype(np.int64)
        order = np.argsort(values, kind="stable")
        starts = np.searchsorted(values[order], np.arange(2**_BITS_PER_BAND + 1))
        for value in np.flatnonzero(np.diff(starts)):
            of_value = order[starts[value] : starts[value + 1]]
            neighbors = value ^ np.append(0, 1 << np.arange(_BITS_PER_BAND))
            # Each pair of bands once.
            others = np.concatenate(
                [order[starts[n] : starts[n + 1]] for n in neighbors if n >= value]
            )
            if 1 < len(others) <= _MAX_PER_BAND:
                yield np.repeat(of_value, len(others)), np.tile(others, len(of_value))
