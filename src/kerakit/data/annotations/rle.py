"""Run lengths of masks as in COCO: columns from top to bottom, background first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit.device.photo import MAX_JPEG_PIXELS
from kerakit.errors import first_line


def decode_rle(height: int, width: int, counts: bytes | Sequence[int]) -> NDArray[np.uint8]:
    """Return a mask of 0 and 1, uint8 (height, width).

    Args:
        height: rows of the mask.
        width: columns of the mask.
        counts: the run lengths, or their text as by pycocotools.

    Raises:
        ValueError: the runs are not height x width pixels.

    >>> decode_rle(2, 2, [1, 2, 1]).tolist(), decode_rle(2, 2, b"121").tolist()
    ([[0, 1], [1, 0]], [[0, 1], [1, 0]])
    """
    if min(height, width) < 0 or height * width > MAX_JPEG_PIXELS:
        raise ValueError(f"run lengths of a mask of {height} x {width} pixels")
    # It is only loaded for datasets with such masks.
    from faster_coco_eval.core import mask as coco

    rle: dict[str, Any] = {"size": [height, width], "counts": counts}
    if not isinstance(counts, bytes):
        runs = np.array(counts, np.int64)
        if (runs < 0).any() or runs.sum() != height * width:
            raise ValueError(f"run lengths of {runs.sum()} pixels; expected {height} x {width}")
        rle = coco.frPyObjects(rle, height, width)
    try:
        mask: NDArray[np.uint8] = coco.decode(rle)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"run lengths: {first_line(error)}") from None
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
