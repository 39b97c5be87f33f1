"""Pictures of what the model is fed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

_CELL = 160
_CAPTION = 18


def image_grid(images: Sequence[Any], titles: Sequence[str], columns: int = 8) -> Image.Image:
    """Draw ``images`` in a grid, each with its title below.

    Args:
        images: each (height, width, 3), values from 0 to 255.
        titles: one for each image.
        columns: images a row.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    picture = Image.new("RGB", (columns * _CELL, rows * (_CELL + _CAPTION)), "white")
    draw = ImageDraw.Draw(picture)
    for n, (pixels, title) in enumerate(zip(images, titles, strict=True)):
        left, top = n % columns * _CELL, n // columns * (_CELL + _CAPTION)
        image = Image.fromarray(np.asarray(pixels).astype(np.uint8))
        scale = (_CELL - 4) / max(image.size)
        image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
        picture.paste(image, (left + (_CELL - image.width) // 2, top + (_CELL - image.height) // 2))
        draw.text((left + _CELL / 2, top + _CELL), title[:24], fill="black", anchor="ma")
    return picture
