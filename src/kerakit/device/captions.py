"""Lines of text below an image, for the engine and for devices.

Needs Python 3.7, NumPy and Pillow only: it is copied into device bundles.
"""

from __future__ import annotations

from typing import Any, Sequence  # noqa: UP035 - Python 3.7

import numpy as np
from PIL import Image, ImageDraw

LINE = 14
"""Height of a line in pixels, of small images."""

SIDE = 800
"""Longest side, in pixels, per size of the text: twice as large on 1,600 pixels."""

_BICUBIC = 3  # in every version of Pillow; its names have changed


class Labels:
    """Base of the decoders of labels that have no coordinates in the image."""

    has_coordinates = False

    def to_image(self, prediction: Any, layout: Any) -> Any:
        """Return the prediction."""
        return prediction

    def caption(self, prediction: Any) -> str:
        """Return the prediction as one line of text."""
        raise NotImplementedError

    def draw(self, image: Any, prediction: Any) -> Image.Image:
        """Return the image, uint8 (height, width, 3), with the prediction below it."""
        return add_captions(image, [self.caption(prediction)])


def text_scale(width: int, height: int) -> int:
    """Return the factor of the size of text on an image."""
    return max(1, round(max(width, height) / SIDE))


def text_box(text: str, scale: int = 1) -> tuple[int, ...]:
    """Return left, upper, right and lower side of text at (0, 0), in pixels."""
    pen = ImageDraw.Draw(Image.new("L", (1, 1)))
    return tuple(int(side) * scale for side in pen.textbbox((0, 0), text))


def write_text(
    canvas: Image.Image, x: float, y: float, text: str, fill: str, scale: int = 1
) -> None:
    """Write text on an image, its upper left corner at (x, y)."""
    if scale == 1:
        ImageDraw.Draw(canvas).text((x, y), text, fill=fill)
        return
    # The font of Pillow has one size before 10.1.
    right, lower = text_box(text)[2:]
    if not right or not lower:
        return
    mask = Image.new("L", (right, lower))
    ImageDraw.Draw(mask).text((0, 0), text, fill=255)
    mask = mask.resize((right * scale, lower * scale), _BICUBIC)
    canvas.paste(Image.new("RGB", mask.size, fill), (round(x), round(y)), mask)


def add_captions(image: Any, lines: Sequence[str]) -> Image.Image:
    """Return the image, uint8 (height, width, 3), with lines of text below it."""
    photo = Image.fromarray(np.asarray(image).astype(np.uint8))
    scale = text_scale(*photo.size)
    line_height = LINE * scale
    size = (max(photo.width, 160), photo.height + line_height * len(lines))
    canvas = Image.new("RGB", size, "white")
    canvas.paste(photo, ((canvas.width - photo.width) // 2, 0))
    for row, line in enumerate(lines):
        write_text(canvas, 2, photo.height + line_height * row, line, "black", scale)
    return canvas
