"""Boxes of objects that a border cuts: one rule for crops, augmentation and mosaics."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_VISIBLE = 0.2
"""Smallest fraction of the area of a box that has to be left, as in YOLOX (Ge et al., 2021)."""

MIN_SIDE = 2
"""Shortest side of a box in pixels, as in YOLOX."""

BBOX_PARAMS = {
    "format": "pascal_voc",
    "min_visibility": MIN_VISIBLE,
    "min_width": MIN_SIDE,
    "min_height": MIN_SIDE,
}
"""``bbox_params`` of ``Task.compose_options``: boxes x1, y1, x2, y2 in pixels, and the rule."""


def clip_boxes(
    boxes: NDArray[Any], width: float, height: float
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Clip boxes to an image of (width, height).

    Args:
        boxes: x1, y1, x2, y2, and further columns, (n, 4 or more).
        width: in the unit of the boxes.
        height: in the unit of the boxes.

    Returns:
        The boxes, and the fraction of the area of each that is left, (n,); 0 of a box without area.

    >>> boxes, left = clip_boxes(np.array([[-10.0, 0, 10, 10], [0, 0, 5, 5]]), 100, 100)
    >>> boxes.tolist(), left.tolist()
    ([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 5.0, 5.0]], [0.5, 1.0])
    """
    clipped = boxes.copy()
    corners = clipped[:, :4]
    np.minimum(corners, np.array((width, height, width, height)), out=corners)
    np.maximum(corners, 0, out=corners)
    before, after = boxes[:, 2:4] - boxes[:, :2], corners[:, 2:] - corners[:, :2]
    # Sides of inverted boxes are negative.
    np.maximum(after, 0, out=after)
    np.maximum(before, 1e-9, out=before)
    after /= before
    return clipped, after[:, 0] * after[:, 1]


def visible_boxes(
    boxes: NDArray[Any],
    left: NDArray[Any],
    min_visible: float = MIN_VISIBLE,
    min_side: tuple[float, float] = (MIN_SIDE, MIN_SIDE),
) -> NDArray[np.bool_]:
    """Return which boxes remain, bool (n,): a fraction of the area, and sides of some pixels.

    Args:
        boxes: clipped boxes in pixels, (n, 4 or more).
        left: fraction of the area of each box that is left, (n,).
        min_visible: smallest fraction.
        min_side: smallest width and height in pixels.

    >>> boxes, left = clip_boxes(np.array([[-9.0, 0, 1, 10], [0, 0, 5, 5]]), 100, 100)
    >>> visible_boxes(boxes, left).tolist()
    [False, True]
    """
    # A tolerance of float32, in which boxes are stored.
    sides = boxes[:, 2:4] - boxes[:, :2]
    visible = left >= max(min_visible - 1e-6, 1e-12)
    visible &= sides[:, 0] >= min_side[0] - 1e-3
    visible &= sides[:, 1] >= min_side[1] - 1e-3
    return visible
