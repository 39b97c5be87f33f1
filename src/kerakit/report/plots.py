"""Grids of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from kerakit.files import atomic_write

_CELL = 160
_CAPTION = 18
ROW_HEIGHT = _CELL + _CAPTION
"""Height of a row of ``image_grid`` in pixels."""


def image_grid(images: Sequence[Any], titles: Sequence[str], columns: int = 8) -> Image.Image:
    """Draw images in a grid, each with its title below.

    Args:
        images: each (height, width, 3), values from 0 to 255.
        titles: one per image.
        columns: images per row.

    >>> image_grid([np.zeros((8, 8, 3), np.uint8)] * 3, ["a", "b", "c"], columns=2).size
    (320, 356)
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    grid = Image.new("RGB", (columns * _CELL, rows * ROW_HEIGHT), "white")
    draw = ImageDraw.Draw(grid)
    for n, (pixels, title) in enumerate(zip(images, titles, strict=True)):
        left, top = n % columns * _CELL, n // columns * ROW_HEIGHT
        image = Image.fromarray(np.asarray(pixels).astype(np.uint8))
        grid.paste(ImageOps.pad(image, (_CELL - 4, _CELL - 4), color="white"), (left + 2, top + 2))
        draw.text((left + _CELL / 2, top + _CELL), title[:24], fill="black", anchor="ma")
    return grid


def save_image(image: Image.Image, path: Path | str) -> None:
    """Save an image; the file is complete or absent, whatever ends the process.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     save_image(Image.new("RGB", (4, 3)), f"{folder}/batch.png")
    ...     with Image.open(f"{folder}/batch.png") as image:
    ...         image.size
    (4, 3)
    """
    with atomic_write(Path(path)) as temporary:
        image.save(temporary)
