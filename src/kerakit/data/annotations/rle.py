"""Run lengths of masks as in COCO: columns from top to bottom, background first."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray


def decode_rle(height: int, width: int, counts: bytes | Sequence[int]) -> NDArray[np.uint8]:
    """Return a mask of 0 and 1, uint8 (height, width).

    Args:
        height: rows of the mask.
        width: columns of the mask.
        counts: the run lengths, or their text as by pycocotools: groups of 5 bits, from character
            48 on, the sixth bit is set where more follow; from the fourth on, each is the
            difference to the last but one (``rleFrString`` of its maskApi.c).

    Raises:
        ValueError: the runs are not height x width pixels.

    >>> decode_rle(2, 2, [1, 2, 1]).tolist(), decode_rle(2, 2, b"121").tolist()
    ([[0, 1], [1, 0]], [[0, 1], [1, 0]])
    """
    runs = np.array(_parse(counts) if isinstance(counts, bytes) else counts, np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"run lengths of {runs.sum()} pixels; expected {height} x {width}")
    values = np.arange(len(runs), dtype=np.uint8) & 1
    mask: NDArray[np.uint8] = np.repeat(values, runs).reshape(width, height).T
    return mask


def trace_polygons(mask: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return the borders of a mask as polygons in pixels, float32 (k, 2); holes are polygons, too.

    Filling them by the even-odd rule, borders included, restores the mask.

    >>> trace_polygons(np.array([[1, 1], [1, 1]], np.uint8))[0].tolist()
    [[0.5, 0.5], [0.5, 1.5], [1.5, 1.5], [1.5, 0.5]]
    """
    contours, _ = cv2.findContours(
        np.ascontiguousarray(mask), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE
    )
    # OpenCV's pixel centers are integers.
    return [contour[:, 0].astype(np.float32) + np.float32(0.5) for contour in contours]


def _parse(text: bytes) -> list[int]:
    runs: list[int] = []
    at = 0
    while at < len(text):
        value = shift = 0
        more = True
        while more:
            if at >= len(text):
                raise ValueError("run lengths are truncated")
            code = text[at] - 48
            if not 0 <= code < 64:
                raise ValueError(f"run lengths have the character {chr(text[at])!r}")
            value |= (code & 31) << shift
            more = bool(code & 32)
            at, shift = at + 1, shift + 5
            if not more and code & 16:
                value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
