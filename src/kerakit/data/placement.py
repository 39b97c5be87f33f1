"""The position of an image in the model's input, for annotations that follow it."""

from __future__ import annotations

from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kerakit.data.decode import read_upright_size
from kerakit.data.shards.member import Member
from kerakit.device.preprocessing import Layout, Preprocessing
from kerakit.device.segmentation import IGNORED
from kerakit.errors import ImageError


class Placement:
    """The position of the image of a file in the model's input.

    The header of the file is read where the result depends on the size of the image.

    Args:
        path: the image file, or a member of a shard.
        preprocessing: crop and resize policy.
        input_size: (width, height) in pixels.

    Raises:
        ImageError: when used: the file is unreadable.

    >>> placement = Placement(Path("photo.jpg"), Preprocessing(), (200, 100))
    >>> placement.points([[0.5, 0.5]]).tolist()
    [[100.0, 50.0]]
    """

    def __init__(
        self, path: Path | Member, preprocessing: Preprocessing, input_size: tuple[int, int]
    ) -> None:
        self._path, self._preprocessing, self.input_size = path, preprocessing, input_size

    @cached_property
    def image_size(self) -> tuple[int, int]:
        """(width, height) of the upright image in pixels."""
        return read_upright_size(self._path)

    @cached_property
    def layout(self) -> Layout:
        """Positions of the pixels of the image in the input."""
        size = (1, 1) if self._preprocessing.resize == "stretch" else self.image_size
        try:
            return _find_layout(self._preprocessing, size, self.input_size)
        except ValueError as error:
            raise ImageError(self._path, str(error)) from None

    def points(self, fractions: ArrayLike) -> NDArray[np.float32]:
        """Return positions in pixels of the input, float32 (n, 2).

        Args:
            fractions: (x, y) as fractions of the width and height of the upright image, (n, 2).
        """
        return np.asarray(self.layout.to_input(fractions), np.float32)

    def boxes(self, fractions: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return boxes x1, y1, x2, y2 in pixels of the input, float32 (n, 4); see ``points``."""
        return self.points(np.reshape(fractions, (-1, 2))).reshape(-1, 4)

    def mask(self, mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a mask of the upright image, uint8 (rows, columns), at the input size.

        It has the value of the nearest pixel, and IGNORED outside the image.
        """
        return np.asarray(self.layout.mask_to_input(mask, IGNORED), np.uint8)


@lru_cache(256)
def _find_layout(
    preprocessing: Preprocessing, size: tuple[int, int], input_size: tuple[int, int]
) -> Layout:
    return preprocessing.layout(*size, input_size)
