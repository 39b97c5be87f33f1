"""Near-duplicate images: re-encoded, resized, a little brighter, or cropped; same orientation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit.data.decode import Pixels

THUMBNAIL = (32, 32)
"""(width, height) of the input of ``fingerprint``."""

MAX_PHASH_DISTANCE, MAX_DHASH_DISTANCE, MAX_COLOR_DISTANCE = 6, 48, 16
"""Largest distances of near duplicates, in bits and in steps of a* and b* of CIELAB, of which
OpenCV has 256; the decisions page has the evidence."""

MIN_CONTRAST = 4
"""Least standard deviation of the gray values, of 256: below it, noise decides the hashes."""

# A band that more images share is not distinctive: 2,000 images make two million pairs.
_MAX_PER_BAND = 2000

_BANDS, _BITS_PER_BAND = 4, 16
_COSINES = np.cos(np.pi * np.outer(np.arange(8), 2 * np.arange(32) + 1) / 64)


def fingerprint(thumbnail: Pixels) -> NDArray[np.uint64] | None:
    """Return 576 bits of an image, uint64 (9,), or None for a flat one, such as a color card.

    64 bits of a pHash: which of the 63 lowest coefficients of a discrete cosine transform, without
    the mean, exceed their median (Zauner, "Implementation and Benchmarking of Perceptual Image Hash
    Functions", 2010). 256 bits of a dHash: which of 16 by 16 pixels are brighter than their left
    neighbors. 32 bytes of color: a* and b* of CIELAB in 4 by 4 cells.

    Args:
        thumbnail: uint8 (32, 32, 3).
    """
    gray = cv2.cvtColor(thumbnail, cv2.COLOR_RGB2GRAY)
    if gray.std() < MIN_CONTRAST:
        return None
    coefficients = (_COSINES @ gray @ _COSINES.T).ravel()[1:]
    phash = np.append(coefficients > np.median(coefficients), False)
    small = cv2.resize(gray, (17, 16), interpolation=cv2.INTER_AREA)
    dhash = (small[:, 1:] > small[:, :-1]).ravel()
    cells = cv2.resize(thumbnail, (4, 4), interpolation=cv2.INTER_AREA)
    colors = cv2.cvtColor(cells, cv2.COLOR_RGB2LAB)[..., 1:].ravel()
    bits = np.packbits(np.concatenate([phash, dhash]))
    return np.concatenate([bits, colors]).astype(np.uint8).view(np.uint64)


def find_near_duplicates(
    fingerprints: NDArray[np.uint64], classes: NDArray[np.integer[Any]]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return for each image the first image before it that it nearly equals, two int64 (n,).

    An image without near duplicates has its own index. Two images are compared if one of the four
    16-bit bands of their pHash differs by at most one bit: this covers all pairs within a distance
    of seven. Bands shared by more than 2,000 images are skipped.

    Args:
        fingerprints: uint64 (n, 9), from ``fingerprint``.
        classes: (n,), class indices.

    Returns:
        The indices of images of the same class, and those of images of other classes.
    """
    rows = np.column_stack([fingerprints, classes.astype(np.uint64)])
    unique, first, inverse = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    colors = np.ascontiguousarray(unique[:, 5:9]).view(np.uint8).astype(np.int16)
    # The earliest image of each unique fingerprint; then the earliest of its near duplicates.
    earliest = first.astype(np.int64)
    same, other = earliest.copy(), np.full(len(earliest), len(rows))
    for a, b in _candidates(unique[:, 0]):
        near = np.bitwise_count(unique[a, 0] ^ unique[b, 0]) <= MAX_PHASH_DISTANCE
        a, b = a[near], b[near]
        distance = np.bitwise_count(unique[a, 1:5] ^ unique[b, 1:5]).sum(axis=1)
        a, b = a[distance <= MAX_DHASH_DISTANCE], b[distance <= MAX_DHASH_DISTANCE]
        near = np.abs(colors[a] - colors[b]).max(axis=1, initial=0) <= MAX_COLOR_DISTANCE
        a, b = a[near], b[near]
        is_same = unique[a, 9] == unique[b, 9]
        for nearest, of in ((same, is_same), (other, ~is_same)):
            np.minimum.at(nearest, a[of], earliest[b[of]])
            np.minimum.at(nearest, b[of], earliest[a[of]])
    own, inverse = np.arange(len(rows)), inverse.ravel()
    return np.minimum(same[inverse], own), np.minimum(other[inverse], own)


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
