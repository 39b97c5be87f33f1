"""Crop, resize policy and color of input images, for the engine and for devices.

Needs Python 3.7 and NumPy only: it is copied into device bundles.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

FILE = "preprocessing.json"
POLICIES = ("stretch", "letterbox", "center_crop")
COLORS = ("rgb", "gray")
MIN_CROP = 0.01
MAX_RESIZED = 50_000_000
"""Limit on the pixels of a resized image: a crop of a very long image would need more."""


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Crop, resize policy and color of every image, from training to the device.

    Args:
        resize: "stretch": resize to the input size without preserving the aspect ratio;
            "letterbox": preserve it and pad with black; "center_crop": preserve it and crop what
            exceeds the input size.
        crop: the part of the image that is used, as fractions (left, top, right, bottom) of its
            width and height; applied first.
        color: "rgb", or "gray": three equal channels, luma of ITU-R BT.601.

    Raises:
        ValueError: an invalid value.

    >>> Preprocessing(resize="letterbox").layout(200, 100, input_size=(50, 50)).offset
    (0, 12)
    """

    resize: str = "stretch"
    crop: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    color: str = "rgb"

    def __post_init__(self) -> None:
        """Validate the values."""
        _check("resize", self.resize, POLICIES)
        _check("color", self.color, COLORS)
        try:
            left, top, right, bottom = crop = tuple(map(float, self.crop))
        except (TypeError, ValueError, OverflowError):
            raise ValueError(_bad_crop(self.crop)) from None
        if not (0 <= left <= right - MIN_CROP <= 1 and 0 <= top <= bottom - MIN_CROP <= 1):
            raise ValueError(_bad_crop(self.crop))
        if max(crop) > 1:
            raise ValueError(_bad_crop(self.crop))
        object.__setattr__(self, "crop", crop)

    def layout(self, width: int, height: int, input_size: tuple[int, int]) -> Layout:
        """Return the positions of the pixels of an upright image in an input of (width, height).

        Raises:
            ValueError: the image is too long and narrow to be cropped.
        """
        left, top, right, bottom = self.crop
        across, down = right - left, bottom - top
        scales = input_size[0] / (across * width), input_size[1] / (down * height)
        used = input_size
        if self.resize != "stretch":
            scale = min(scales) if self.resize == "letterbox" else max(scales)
            used = (
                max(1, round(across * width * scale)),
                max(1, round(down * height * scale)),
            )
        resized = max(used[0], round(used[0] / across)), max(used[1], round(used[1] / down))
        if resized[0] * resized[1] > MAX_RESIZED:
            raise ValueError(f"{width} by {height} pixels are too long and narrow to be cropped")
        start = (
            min(round(left * resized[0]), resized[0] - used[0]),
            min(round(top * resized[1]), resized[1] - used[1]),
        )
        free = input_size[0] - used[0], input_size[1] - used[1]  # negative: it is cropped
        return Layout(
            resized,
            (start[0] + max(0, -free[0] // 2), start[1] + max(0, -free[1] // 2)),
            (min(used[0], input_size[0]), min(used[1], input_size[1])),
            (max(0, free[0]) // 2, max(0, free[1]) // 2),
            input_size,
            self.color == "gray",
        )

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Preprocessing:
        """Read it from JSON; the default if the file is missing.

        Raises:
            ValueError: the file is damaged, or was written by a newer version.
        """
        if not path.exists():
            return cls()
        if not path.is_file():
            raise ValueError(f"{path} is not a regular file")
        try:
            values = json.loads(path.read_text(encoding="utf-8-sig"))
            return cls(**values)
        except (TypeError, ValueError, RecursionError) as error:
            raise ValueError(f"{path} is damaged, or of a newer version: {error}") from None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Positions of the pixels of one image; all sizes and positions are (x, y).

    Attributes:
        resized: size of the whole upright image after resizing.
        start: position in it of the part that is used.
        used: size of that part.
        offset: its position in the input; the rest is black.
        input_size: size of the input.
        is_gray: whether colors are removed.
    """

    resized: tuple[int, int]
    start: tuple[int, int]
    used: tuple[int, int]
    offset: tuple[int, int]
    input_size: tuple[int, int]
    is_gray: bool

    def apply(self, image: Any) -> Any:
        """Return the input, uint8 (height, width, 3), for the resized image, uint8."""
        import numpy as np  # here: the project's config.py needs this module, but not NumPy

        (x, y), (width, height) = self.start, self.used
        pixels = image[y : y + height, x : x + width]
        if self.is_gray:
            # The integers of Pillow's convert("L").
            weights = np.array([19595, 38470, 7471], np.uint32)
            luma = ((pixels * weights).sum(axis=-1, keepdims=True) + 0x8000) >> 16
            pixels = np.repeat(luma.astype(np.uint8), 3, axis=-1)
        if self.used == self.input_size:
            return np.ascontiguousarray(pixels)
        canvas = np.zeros((self.input_size[1], self.input_size[0], 3), np.uint8)
        x, y = self.offset
        canvas[y : y + height, x : x + width] = pixels
        return canvas

    def to_input(self, points: Any) -> Any:
        """Return positions in the input, in its pixels, (n, 2), of points of the upright image.

        Args:
            points: (x, y) as fractions of the width and height of the image, (n, 2).
        """
        import numpy as np

        moved = np.asarray(self.offset, np.float64) - self.start
        return np.asarray(points, np.float64) * self.resized + moved

    def to_image(self, points: Any) -> Any:
        """Return fractions of the upright image, (n, 2), for fractions of the input, (n, 2)."""
        import numpy as np

        moved = np.asarray(self.offset, np.float64) - self.start
        return (np.asarray(points, np.float64) * self.input_size - moved) / self.resized

    def mask_to_input(self, mask: Any, fill: int) -> Any:
        """Return a mask of the upright image, (rows, columns), at the input size.

        Each pixel has the value of the nearest pixel of ``mask``, which may have any size;
        ``fill`` where the input shows no part of the image.
        """
        columns, rows = (
            _nearest(self.to_image, axis, self.input_size[axis], mask.shape[1 - axis])
            for axis in (0, 1)
        )
        return _take(mask, rows, columns, fill)

    def mask_to_image(self, mask: Any, size: tuple[int, int], fill: int) -> Any:
        """Return a mask of the input, (rows, columns), at the size (width, height) of the image.

        Each pixel has the value of the nearest pixel of ``mask``; ``fill`` where the input does not
        show it.
        """

        def to_input(points: Any) -> Any:
            return self.to_input(points) / self.input_size

        columns, rows = (
            _nearest(to_input, axis, size[axis], mask.shape[1 - axis]) for axis in (0, 1)
        )
        return _take(mask, rows, columns, fill)


def _nearest(move: Any, axis: int, count: int, length: int) -> Any:
    """Return the indices along an axis of ``length`` pixels for ``count`` pixel centers.

    Args:
        move: function from fractions (n, 2) to fractions (n, 2).
        axis: 0 for x, 1 for y.
        count: number of pixels to fill.
        length: number of pixels to choose from; indices outside are -1.
    """
    import numpy as np

    centers = np.repeat((np.arange(count)[:, None] + 0.5) / count, 2, axis=1)
    indices = np.floor(move(centers)[:, axis] * length).astype(np.int64)
    return np.where((indices >= 0) & (indices < length), indices, -1)


def _take(mask: Any, rows: Any, columns: Any, fill: int) -> Any:
    taken = mask[rows[:, None], columns]
    taken[rows < 0] = fill
    taken[:, columns < 0] = fill
    return taken


def _check(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


def _bad_crop(value: Any) -> str:
    return (
        "crop: expected fractions (left, top, right, bottom) from 0 to 1 with left < right and "
        f"top < bottom, got {value!r}"
    )


STRETCH = Preprocessing()
"""The whole image, resized without preserving the aspect ratio."""
