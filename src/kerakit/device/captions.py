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
    scale, width = text_scale(*photo.size), max(photo.width, 160)
    line_height = LINE * scale
    lines = [part for line in lines for part in _wrap(line, width, scale)]
    canvas = Image.new("RGB", (width, photo.height + line_height * len(lines)), "white")
    canvas.paste(photo, ((canvas.width - photo.width) // 2, 0))
    for row, line in enumerate(lines):
        write_text(canvas, 2, photo.height + line_height * row, line, "black", scale)
    return canvas


def _wrap(text: str, width: int, scale: int) -> list[str]:
    """Return the lines of a text between whose words there is a break where it is too wide."""
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and text_box(longer, scale)[2] + 2 > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def add_legend(photo: Image.Image, entries: Sequence[tuple[str, tuple[int, ...]]]) -> Image.Image:
    """Return an image with colored squares and names below it, in as many rows as needed."""
    width, scale = max(photo.width, 160), text_scale(*photo.size)
    places, x, row = [], 2, 0
    for name, _ in entries:
        needed = 20 * scale + text_box(name, scale)[2]
        if x + needed > width and x > 2:
            x, row = 2, row + 1
        places.append((x, row))
        x += needed
    rows = row + 1 if entries else 0
    canvas = Image.new("RGB", (width, photo.height + 16 * scale * rows), "white")
    canvas.paste(photo, ((width - photo.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    for (name, fill), (x, row) in zip(entries, places):
        y = photo.height + (16 * row + 2) * scale
        pen.rectangle((x, y, x + 10 * scale, y + 10 * scale), fill=fill, outline="black")
        write_text(canvas, x + 14 * scale, y, name, "black", scale)
    return canvas
