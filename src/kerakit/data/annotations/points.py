"""Keypoints of annotation files: valid ones, and the faults of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kerakit.data.annotations.objects import TOLERANCE

POINT_FAULTS = ("point with NaN", "point outside the image", "visibility", "duplicate point")
"""Kinds of faulty points."""


@dataclass(frozen=True)
class Points:
    """Valid keypoints of n images.

    Attributes:
        points: x and y as fractions, and visibility 0, 1 or 2, float32 (n, points, 3).
        read: the points as in the file, x and y as fractions.
        faults: (image, point) of the faulty points by kind, int64 (m, 2).
    """

    points: NDArray[np.float32]
    read: NDArray[np.float32]
    faults: dict[str, NDArray[np.int64]]

    def warnings(self) -> list[str]:
        """Return one line per kind of points that are absent because of a fault."""
        return [
            f"{kind}, which counts as absent: {len(self.faults[kind]):,}."
            for kind in POINT_FAULTS[:2]
            if len(self.faults[kind])
        ]

    def name_faults(self, names: Sequence[str]) -> Iterator[tuple[int, str, str]]:
        """Yield image, kind and detail of each faulty point."""
        for kind, places in self.faults.items():
            for row, i in places.tolist():
                x, y, visibility = self.read[row, i].tolist()
                where = f"{x:.6g}, {y:.6g}, visibility {visibility:g}"
                yield row, kind, f"{names[i]} at {where}"


def clean_points(read: NDArray[np.float32]) -> Points:
    """Return valid points; those with NaN, outside or of a visibility below 0 are absent.

    Args:
        read: x and y as fractions of the image, and visibility, float32 (n, points, 3); NaN in all
            of x and y: an absent point.

    >>> found = clean_points(np.array([[[0.5, 0.5, 7], [1.5, 0.5, 2]]], np.float32))
    >>> found.points.tolist(), found.faults["point outside the image"].tolist()
    ([[[0.5, 0.5, 2.0], [0.0, 0.0, 0.0]]], [[0, 1]])
    """
    places, visibility = read[..., :2], read[..., 2]
    is_number = np.isfinite(places)
    with np.errstate(invalid="ignore"):
        is_odd = ~np.isin(visibility, (0, 1, 2))
        # A point that is marked absent may have any place.
        labeled = ~(visibility <= 0) & is_number.any(axis=-1)
        finite = labeled & is_number.all(axis=-1) & np.isfinite(visibility)
        outside = ((places < -TOLERANCE) | (places > 1 + TOLERANCE)).any(axis=-1) & finite
    inside = finite & ~outside
    cleaned = np.where(inside[..., None], read, np.float32(0))
    cleaned[..., :2] = cleaned[..., :2].clip(0, 1)
    cleaned[..., 2] = np.minimum(np.ceil(cleaned[..., 2]), 2)
    masks = {
        "point with NaN": labeled & ~finite,
        "point outside the image": outside,
        "visibility": is_odd & np.isfinite(visibility),
        "duplicate point": _find_copies(cleaned),
    }
    return Points(cleaned, read, {kind: np.argwhere(mask) for kind, mask in masks.items()})


def _find_copies(points: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the points at the place of an earlier one of their image, bool (n, points)."""
    copies = np.zeros(points.shape[:2], np.bool_)
    present = points[..., 2] > 0
    for i in range(1, points.shape[1]):
        same = (points[:, :i, :2] == points[:, i : i + 1, :2]).all(axis=-1) & present[:, :i]
        copies[:, i] = same.any(axis=1) & present[:, i]
    return copies
