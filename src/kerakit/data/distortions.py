"""Keypoints under the distortions of albumentations: elastic, grid, optical, thin-plate spline."""

from __future__ import annotations

from typing import Any

import numpy as np
from albumentations.augmentations.geometric.distortion import BaseDistortion
from numpy.typing import NDArray

_MIN_SCALE = 0.2
"""Smallest width of a pixel of the output, in pixels of the input, where the slope is used: below,
the map folds, and its inverse would move a point by many pixels."""


def follow_distortions(transforms: list[Any]) -> None:
    """Let distortions move keypoints as they move pixels, and keep those that leave the image.

    Those of albumentations are 1 to 2 pixels off in an image of 80 by 60, and lose points.
    """
    for transform in transforms:
        if isinstance(transform, BaseDistortion):
            transform.apply_to_keypoints = _apply
            transform._key2func["keypoints"] = _apply


def _apply(
    keypoints: NDArray[Any], map_x: NDArray[Any], map_y: NDArray[Any], **_: Any
) -> NDArray[Any]:
    moved = keypoints.copy()
    moved[:, :2] = move_points(keypoints[:, :2], map_x, map_y)
    return moved


def move_points(
    points: NDArray[Any], map_x: NDArray[Any], map_y: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the positions in the output of ``cv2.remap``, float64 (n, 2), by inverting its maps.

    Args:
        points: positions (x, y) in the input, (n, 2); 0 is the center of the first pixel.
        map_x: x in the input of each pixel of the output, (height, width).
        map_y: y, likewise.

    >>> y, x = np.mgrid[:40, :60].astype(np.float32)
    >>> move_points(np.array([[10.0, 5.0], [70.0, 5.0]]), x / 2, y).tolist()
    [[20.0, 5.0], [140.0, 5.0]]
    """
    height, width = map_x.shape
    maps = np.stack([map_x, map_y], axis=-1).astype(np.float64)
    moved = np.array(points, np.float64)
    for i, point in enumerate(moved):
        if not np.isfinite(point).all():
            continue
        distance = np.square(maps - point).sum(axis=-1)
        row, column = divmod(int(distance.argmin()), width)
        left, right = max(column - 1, 0), min(column + 1, width - 1)
        top, bottom = max(row - 1, 0), min(row + 1, height - 1)
        slope = np.stack(
            [
                (maps[row, right] - maps[row, left]) / max(right - left, 1),
                (maps[bottom, column] - maps[top, column]) / max(bottom - top, 1),
            ],
            axis=1,
        )
        rest = point - maps[row, column]
        is_visible = distance[row, column] <= 1
        if np.linalg.svd(slope, compute_uv=False)[-1] > _MIN_SCALE:
            rest = np.linalg.solve(slope, rest)
        # The nearest pixel shows a visible point: it is not further away than the next one.
        moved[i] = np.array([column, row]) + (np.clip(rest, -1, 1) if is_visible else rest)
    return moved
