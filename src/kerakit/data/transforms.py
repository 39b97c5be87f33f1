"""Two albumentations transforms for what most projects need, each one pass over the pixels.

They stand in an ``albumentations.Compose`` beside any of its own. A flip, a scale, a rotation and a shift are one matrix; so
are brightness, contrast, saturation and hue: one call of OpenCV each, which lets other threads work meanwhile.
"""

from __future__ import annotations

import math
from typing import Any

import albumentations as A  # noqa: N812 - its documentation calls it A
import cv2
import numpy as np
from albumentations.core.type_definitions import Targets
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# Luma of R, G, B in ITU-R BT.601: what saturation and hue leave as it is.
_LUMA = np.array([0.299, 0.587, 0.114])
# R, G, B to the Y, I, Q of NTSC (FCC, 1953): a hue is an angle in the plane of I and Q.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
_RGB = np.linalg.inv(_YIQ)


class Warp(A.DualTransform):
    """Mirror, scale, rotate and shift in one step; masks, boxes and keypoints follow.

    What comes in from beyond the edge is the image reflected, and so with masks. Boxes and keypoints are not reflected: what
    leaves the image is cut or dropped as ``BboxParams`` and ``KeypointParams`` say.

    Args:
        flip: probability of mirroring left and right.
        scale: range of the factor by which things grow; above 1 is a crop.
        translate: largest shift along each side, as a share of it.
        rotate: largest angle in degrees, in either direction.
        p: probability of applying it at all.
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
        self, params: dict[str, Any], data: dict[str, Any]
    ) -> dict[str, Any]:  # noqa: ARG002
        """Return the ``matrix``, (2, 3), from pixels of the input to pixels of the output."""
        height, width = params["shape"][:2]
        draw = self.py_random
        mirror = -1.0 if draw.random() < self.flip else 1.0
        by = draw.uniform(*self.scale)
        angle = math.radians(draw.uniform(-self.rotate, self.rotate))
        shift = [draw.uniform(-self.translate, self.translate) * side for side in (width, height)]
        turn = by * np.array(
            [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
        )
        linear = turn @ np.diag([mirror, 1.0])
        # Pixel (0, 0) is a square's middle, so the middle of the image lies half a pixel before width / 2.
        middle = np.array([(width - 1) / 2, (height - 1) / 2])
        return {"matrix": np.column_stack([linear, middle + shift - linear @ middle])}

    def apply(self, img: NDArray[Any], matrix: Matrix, **_: Any) -> NDArray[Any]:
        """Warp pixels, (height, width, channels), bilinearly."""
        if img.ndim == 3 and img.shape[2] == 3 and img.dtype == np.uint8:
            # OpenCV 5 warps four channels in 93 µs where three take 163 µs (224 by 224; docs/decisions.md).
            four = cv2.cvtColor(img, cv2.COLOR_RGB2RGBA)
            three: NDArray[Any] = cv2.cvtColor(
                _warp(four, matrix, cv2.INTER_LINEAR), cv2.COLOR_RGBA2RGB
            )
            return three
        return _warp(img, matrix, cv2.INTER_LINEAR)

    def apply_to_mask(self, mask: NDArray[Any], matrix: Matrix, **_: Any) -> NDArray[Any]:
        """Warp a mask, (height, width) or (height, width, channels), to the nearest pixel."""
        return _warp(mask, matrix, cv2.INTER_NEAREST)

    def apply_to_bboxes(self, bboxes: NDArray[Any], matrix: Matrix, **params: Any) -> NDArray[Any]:
        """Return the boxes, (n, 4 or more), x_min, y_min, x_max, y_max as shares of the sides, around the moved corners."""
        height, width = params["shape"][:2]
        size = np.array([width, height])
        # Edges of boxes lie between pixels, half a pixel from their middles.
        corners = bboxes[:, [[0, 1], [2, 1], [2, 3], [0, 3]]] * size - 0.5
        moved = (corners @ matrix[:, :2].T + matrix[:, 2] + 0.5) / size
        return np.column_stack([moved.min(axis=1), moved.max(axis=1), bboxes[:, 4:]])

    def apply_to_keypoints(self, keypoints: NDArray[Any], matrix: Matrix, **_: Any) -> NDArray[Any]:
        """Return the keypoints, (n, 5 or more): x, y in pixels, z, angle in radians, scale."""
        linear = matrix[:, :2]
        moved = keypoints.copy()
        moved[:, :2] = keypoints[:, :2] @ linear.T + matrix[:, 2]
        along = np.column_stack([np.cos(keypoints[:, 3]), np.sin(keypoints[:, 3])]) @ linear.T
        moved[:, 3] = np.arctan2(along[:, 1], along[:, 0]) % (2 * math.pi)
        moved[:, 4] = keypoints[:, 4] * math.sqrt(abs(np.linalg.det(linear)))
        return moved


class Recolor(A.ImageOnlyTransform):
    """Change brightness, contrast, saturation and hue of an RGB image by one matrix; values are cut to 0 to 255.

    Args:
        brightness: largest shift, as a share of 255.
        contrast: largest relative change of the distance from mid grey (127.5).
        saturation: largest relative change of the distance from the grey of the same luma (BT.601).
        hue: largest turn in degrees, in the plane of I and Q of YIQ.
        p: probability of applying it at all.
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
            self.py_random.uniform(-most, most)
            for most in (self.brightness, self.contrast, self.saturation, self.hue)
        )
        angle = math.radians(hue)
        turn = np.array(
            [
                [1, 0, 0],
                [0, math.cos(angle), -math.sin(angle)],
                [0, math.sin(angle), math.cos(angle)],
            ]
        )
        saturate = (1 + saturation) * np.eye(3) - saturation * np.tile(_LUMA, (3, 1))
        linear = (1 + contrast) * saturate @ _RGB @ turn @ _YIQ
        return {
            "matrix": np.column_stack([linear, np.full(3, 255 * brightness - 127.5 * contrast)])
        }

    def apply(self, img: NDArray[Any], matrix: Matrix, **_: Any) -> NDArray[Any]:
        """Change uint8 pixels, (height, width, 3)."""
        changed: NDArray[Any] = cv2.transform(img, matrix.astype(np.float32))
        return changed


def _warp(pixels: NDArray[Any], matrix: Matrix, interpolation: int) -> NDArray[Any]:
    height, width = pixels.shape[:2]
    warped: NDArray[Any] = cv2.warpAffine(
        pixels, matrix, (width, height), flags=interpolation, borderMode=cv2.BORDER_REFLECT_101
    )
    # OpenCV drops a last axis of one.
    return warped.reshape(pixels.shape)
