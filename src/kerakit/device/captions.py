"""Lines of text below an image, for the engine and for devices.

Needs Python 3.7, NumPy and Pillow only: it is copied into device bundles.
"""

from __future__ import annotations

from typing import Any, Sequence  # noqa: UP035 - Python 3.7

import numpy as np
from PIL import Image, ImageDraw

LINE = 14
"""Height of a line in pixels."""


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


def add_captions(image: Any, lines: Sequence[str]) -> Image.Image:
    """Return the image, uint8 (height, width, 3), with lines of text below it."""
    photo = Image.fromarray(np.asarray(image).astype(np.uint8))
    canvas = Image.new("RGB", (max(photo.width, 160), photo.height + LINE * len(lines)), "white")
    canvas.paste(photo, ((canvas.width - photo.width) // 2, 0))
    pen = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        pen.text((2, photo.height + LINE * row), line, fill="black")
    return canvas
