"""Two albumentations transforms for common augmentations, each one pass over the pixels.

Use them in an ``albumentations.Compose`` together with its own transforms. Flip, scale, rotation
and shift are one matrix, and so are brightness, contrast, saturation and hue: one call of OpenCV
each, which releases the GIL.
"""

from __future__ import annotations

import math
from typing import Any

import albumentations as A  # noqa: N812 - its documentation calls it A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray

from kerakit.device.segmentation import IGNORED

Matrix = NDArray[np.float64]

# The gray of the border where objects follow: about the mean of photos.
_GRAY = 114

# Luma of R, G, B in ITU-R BT.601, which saturation and hue do not change.
_LUMA = np.array([0.299, 0.587, 0.114])
# R, G, B to Y, I, Q of NTSC (FCC, 1953): a hue is an angle in the plane of I and Q.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)
# A rotation of the hue by an angle is fixed + cos(angle) * cos + sin(angle) * sin.
_HUE_FIXED = np.outer(_RGB[:, 0], _YIQ[0])
_HUE_COS = _RGB[:, 1:] @ _YIQ[1:]
_HUE_SIN = np.outer(_RGB[:, 2], _YIQ[1]) - np.outer(_RGB[:, 1], _YIQ[2])


class Warp(A.DualTransform):
    """Flip, scale, rotate and shift in one step, together with masks, boxes and keypoints.

    Outside the image, masks are 255: without a class. The image is reflected at its border; if
    boxes or keypoints follow, it is gray there, because reflected objects would have no labels.
    A box becomes the box around its moved inscribed ellipse: exact without a rotation, and
    closer to most objects than the box around its moved corners, which grows (Kalra et al.,
    "Towards Rotation Invariance in Object Detection", 2021).

    Args:
        flip: probability of a horizontal flip.
        scale: range of the scale factor; above 1 zooms in.
        translate: largest shift along each side, as a fraction of it.
        rotate: largest angle in degrees, in either direction.
        p: probability of the transform.

    >>> image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    >>> A.Compose([Warp(flip=1)])(image=image)["image"][0].tolist()
    [[3, 4, 5], [0, 1, 2]]
    """

    _targets = (Targets.IMAGE, Targets.MASK, Targets.BBOXES, Targets.KEYPOINTS)

    def __init__(
        self,
        flip: float = 0.5,
        scale: tuple[float, float] = (1, 1),
        translate: float = 0,
        rotate: float = 0,
        p: float = 1,
    ) -> None:
        super().__init__(p=p)
        self.flip = flip
        self.scale = scale
        self.translate = translate
        self.rotate = rotate

    def get_params_dependent_on_data(
        self,
        params: dict[str, Any],
        data: dict[str, Any],
    ) -> dict[str, Any]:
        """Return the ``matrix``, (2, 3), from input to output pixels, and the ``border`` mode."""
        height, width = params["shape"][:2]
        rng = self.py_random
        mirror = -1.0 if rng.random() < self.flip else 1.0
        factor = rng.uniform(*self.scale)
        angle = math.radians(rng.uniform(-self.rotate, self.rotate))
        shift_x = rng.uniform(-self.translate, self.translate) * width
        shift_y = rng.uniform(-self.translate, self.translate) * height
        # Floats instead of small arrays, whose operations take 10 times as long.
        cos, sin = factor * math.cos(angle), factor * math.sin(angle)
        # Coordinates are those of pixel centers, so the center of the image is half a pixel before
        # width / 2.
        x, y = (width - 1) / 2, (height - 1) / 2
        rows = (
            (mirror * cos, -sin, x + shift_x - (mirror * cos * x - sin * y)),
            (mirror * sin, cos, y + shift_y - (mirror * sin * x + cos * y)),
        )
        has_objects = "bboxes" in data or "keypoints" in data
        border = cv2.BORDER_CONSTANT if has_objects else cv2.BORDER_REFLECT_101
        return {"matrix": np.array(rows), "border": border}

    def apply(self, img: NDArray[Any], matrix: Matrix, border: int, **_: Any) -> NDArray[Any]:
        """Warp an image, (height, width, channels), with bilinear interpolation."""
        if img.ndim == 3 and img.shape[2] == 3 and img.dtype == np.uint8:
            # OpenCV 5 warps four channels in 93 µs, three in 163 µs (224 by 224; see the decisions
            # page).
            rgba = cv2.cvtColor(img, cv2.COLOR_RGB2RGBA)
            warped = _warp(rgba, matrix, cv2.INTER_LINEAR, border, _GRAY)
            return np.asarray(cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB))
        gray = _GRAY if img.dtype == np.uint8 else _GRAY / 255
        return _warp(img, matrix, cv2.INTER_LINEAR, border, gray)

    def apply_to_mask(self, mask: NDArray[Any], matrix: Matrix, **_: Any) -> NDArray[Any]:
        """Warp a mask, (height, width, ...), with nearest-neighbor interpolation."""
        return _warp(mask, matrix, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, IGNORED)

    def apply_to_bboxes(self, bboxes: NDArray[Any], matrix: Matrix, **params: Any) -> NDArray[Any]:
        """Return the boxes around the moved ellipses, (n, 4 or more), as fractions of the sides."""
        height, width = params["shape"][:2]
        (a, b, x), (c, d, y) = matrix.tolist()
        # From fractions to fractions. Edges of boxes are half a pixel from pixel centers.
        linear = np.array(((a, c * width / height), (b * height / width, d)))
        offset = (x + (1 - a - b) / 2) / width, (y + (1 - c - d) / 2) / height
        low, high = bboxes[:, :2], bboxes[:, 2:4]
        centers = (low + high) @ (linear / 2) + np.array(offset)
        halves = np.sqrt(((high - low) / 2) ** 2 @ linear**2)
        moved = bboxes.copy()
        np.subtract(centers, halves, out=moved[:, :2])
        np.add(centers, halves, out=moved[:, 2:4])
        return moved

    def apply_to_keypoints(self, keypoints: NDArray[Any], matrix: Matrix, **_: Any) -> NDArray[Any]:
        """Return the keypoints, (n, 5 or more): x, y in pixels, z, angle in radians, scale."""
        linear = matrix[:, :2]
        moved = keypoints.copy()
        moved[:, :2] = keypoints[:, :2] @ linear.T + matrix[:, 2]
        axis = np.column_stack([np.cos(keypoints[:, 3]), np.sin(keypoints[:, 3])]) @ linear.T
        moved[:, 3] = np.arctan2(axis[:, 1], axis[:, 0]) % (2 * math.pi)
        moved[:, 4] = keypoints[:, 4] * math.sqrt(abs(np.linalg.det(linear)))
        return moved


class Recolor(A.ImageOnlyTransform):
    """Change brightness, contrast, saturation and hue of an RGB image by one matrix, with clipping.

    Args:
        brightness: largest shift, as a fraction of 255.
        contrast: largest relative change of the distance from mid-gray (127.5).
        saturation: largest relative change of the distance from the gray of the same luma (BT.601).
        hue: largest rotation in degrees, in the plane of I and Q of YIQ.
        p: probability of the transform.

    >>> image = np.full((2, 2, 3), 128, np.uint8)
    >>> A.Compose([Recolor(saturation=0.5, hue=90)])(image=image)["image"][0, 0].tolist()
    [128, 128, 128]
    """

    def __init__(
        self,
        brightness: float = 0,
        contrast: float = 0,
        saturation: float = 0,
        hue: float = 0,
        p: float = 1,
    ) -> None:
        super().__init__(p=p)
        self.brightness = brightness
        self.contrast = contrast
        self.saturation = saturation
        self.hue = hue

    def get_params(self) -> dict[str, Any]:
        """Return the ``matrix``, (3, 4), from (R, G, B, 1) to (R, G, B)."""
        brightness, contrast, saturation, hue = (
            self.py_random.uniform(-limit, limit)
            for limit in (self.brightness, self.contrast, self.saturation, self.hue)
        )
        angle = math.radians(hue)
        hues = _HUE_FIXED + math.cos(angle) * _HUE_COS + math.sin(angle) * _HUE_SIN
        matrix = np.empty((3, 4))
        # A rotation of the hue does not change the luma, so the gray of the same luma remains.
        matrix[:, :3] = (1 + contrast) * ((1 + saturation) * hues - saturation * _LUMA)
        matrix[:, 3] = 255 * brightness - 127.5 * contrast
        return {"matrix": matrix}

    def apply(self, img: NDArray[Any], matrix: Matrix, **_: Any) -> NDArray[Any]:
        """Recolor an image, uint8 (height, width, 3)."""
        recolored: NDArray[Any] = cv2.transform(img, matrix.astype(np.float32))
        return recolored


def _warp(
    pixels: NDArray[Any], matrix: Matrix, interpolation: int, border: int, fill: float
) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    warped: NDArray[Any] = cv2.warpAffine(
        pixels,
        matrix,
        (width, height),
        flags=interpolation,
        borderMode=border,
        borderValue=(fill,) * 4,
    )
    # OpenCV drops a last axis of length 1.
    return warped.reshape(pixels.shape)
