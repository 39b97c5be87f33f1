"""Input size that fits the images of a dataset."""

from __future__ import annotations

import math

import numpy as np

from kerakit.data.decode import read_upright_size
from kerakit.data.reader import Reader
from kerakit.errors import ImageError

_SAMPLE = 50
_SIDES = range(32, 1025, 32)


def choose_input_size(reader: Reader, pixels: int) -> tuple[int, int]:
    """Return (width, height), multiples of 32, of about ``pixels`` and the shape of the images.

    At most twice the pixels of the images; width is up to twice the height, and the reverse. Read
    are up to 50 images: their median.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from PIL import Image
    >>> from kerakit.data import DataReader
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("cat", "dog"):
    ...         (Path(folder) / name).mkdir()
    ...         for i in range(3):
    ...             Image.new("RGB", (640, 480)).save(Path(folder) / name / f"{i}.png")
    ...     choose_input_size(DataReader(folder), 80_000)
    (320, 256)
    """
    sizes = []
    for i in range(0, len(reader), max(1, len(reader) // _SAMPLE)):
        try:
            sizes.append(read_upright_size(reader.image_path(i)))
        except ImageError:
            continue
    area = float(pixels)
    if sizes:
        area = min(area, 2 * float(np.median(np.prod(sizes, axis=1))))
    sizes = sizes or [(1, 1)]
    shape = float(np.median([math.log(width / height) for width, height in sizes]))
    shape = min(max(shape, -math.log(2)), math.log(2))

    def distance(size: tuple[int, int]) -> float:
        width, height = size
        return abs(math.log(width * height / area)) + 2 * abs(math.log(width / height) - shape)

    return min(((width, height) for width in _SIDES for height in _SIDES), key=distance)
