"""Keypoints on devices: decoding of heatmaps and offsets, and drawing.

Needs Python 3.7, NumPy and Pillow only: it is copied into device bundles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if __package__ or TYPE_CHECKING:  # in Kerakit
    from kerakit.device.captions import add_captions, add_legend
    from kerakit.device.colors import color
else:  # on a device: the files beside this one
    from captions import add_captions, add_legend
    from colors import color

MIN_CONFIDENCE = 0.3
"""Points below it are not drawn."""


class Decoder:
    """Decodes heatmaps and offsets of one image.

    A prediction is an array, float64 (points, 3): x and y as fractions of the width and height of
    the image, and the confidence, from 0 to 1.

    Args:
        spec: ``classes``: names of the points in the order of the outputs; optionally ``skeleton``:
            pairs of names that are connected by a line.
    """

    has_coordinates = True

    def __init__(self, spec: dict[str, Any]) -> None:
        self.names = list(spec["classes"])
        self.lines = [
            (self.names.index(start), self.names.index(end))
            for start, end in spec.get("skeleton") or ()
        ]

    def decode(self, outputs: Any) -> Any:
        """Return the points: the cell with the highest score, and its offset.

        Args:
            outputs: "heatmaps", (rows, columns, points), logits; "offsets", (rows, columns, 2 *
                points): x and y from the center of a cell to the point, in cells.
        """
        heatmaps, offsets = np.asarray(outputs["heatmaps"]), np.asarray(outputs["offsets"])
        rows, columns, count = heatmaps.shape
        cells = heatmaps.reshape(-1, count)
        best = cells.argmax(axis=0)
        each = np.arange(count)
        moved = offsets.reshape(rows * columns, count, 2)[best, each].astype(np.float64)
        x = (best % columns + 0.5 + moved[:, 0]) / columns
        y = (best // columns + 0.5 + moved[:, 1]) / rows
        logits = np.clip(cells[best, each].astype(np.float64), -50, 50)
        return np.stack([x, y, 1 / (1 + np.exp(-logits))], axis=1)

    def ties(self, outputs: Any, step: float) -> bool:
        """Whether a difference of ``step`` in the heatmaps may change the cell of a point."""
        cells = np.sort(np.asarray(outputs["heatmaps"]).reshape(-1, len(self.names)), axis=0)
        return bool((cells[-1] - cells[-2] < step).any())

    def same(self, prediction: Any, other: Any) -> bool:
        """Whether the points of two predictions differ by at most 2 % of width and height."""
        return bool((np.abs(prediction[:, :2] - other[:, :2]) <= 0.02).all())

    def to_image(self, prediction: Any, layout: Any) -> Any:
        """Return the points as fractions of the original image."""
        return np.concatenate([layout.to_image(prediction[:, :2]), prediction[:, 2:]], axis=1)

    def describe(
        self, prediction: Any, top: int = 0, size: tuple[int, int] = (1, 1)
    ) -> list[dict[str, Any]]:
        """Return one record per point, or of the ``top`` most confident ones: name and pixels."""
        order = np.arange(len(self.names))
        if 0 < top < len(order):
            order = np.sort(np.argsort(-prediction[:, 2], kind="stable")[:top])
        return [
            {
                "point": self.names[i],
                "x": float(prediction[i, 0] * size[0]),
                "y": float(prediction[i, 1] * size[1]),
                "confidence": float(prediction[i, 2]),
            }
            for i in order
        ]

    def caption(self, prediction: Any, top: int = 0) -> str:
        """Return the names of the confident points with their positions in percent of the image."""
        found = self.describe(prediction, top, (100, 100))
        shown = [_format(one) for one in found if one["confidence"] >= MIN_CONFIDENCE]
        return ", ".join(shown) or "no confident point"

    def draw(self, image: Any, prediction: Any) -> Image.Image:
        """Return the image, uint8 (height, width, 3), with the points drawn and listed."""
        drawn = self.overlay(image, prediction)
        found = enumerate(self.describe(prediction, 0, (100, 100)))
        points = [
            (_format(one), color(i)) for i, one in found if one["confidence"] >= MIN_CONFIDENCE
        ]
        if not points:
            return add_captions(drawn, [self.caption(prediction)])
        return add_legend(Image.fromarray(drawn), points)

    def overlay(self, image: Any, prediction: Any, filled: bool = True) -> Any:
        """Return the image, uint8 (height, width, 3), with dots, or with circles."""
        canvas = Image.fromarray(np.asarray(image).astype(np.uint8))
        pen = ImageDraw.Draw(canvas)
        radius = max(2, round(max(canvas.size) / 80))
        places = np.asarray(prediction)[:, :2] * canvas.size
        shown = np.asarray(prediction)[:, 2] >= MIN_CONFIDENCE
        for start, end in self.lines:
            if shown[start] and shown[end]:
                line = [*places[start].tolist(), *places[end].tolist()]
                pen.line(line, fill="white", width=max(1, radius // 2))
        for i in np.flatnonzero(shown):
            x, y = places[i].tolist()
            box = (x - radius, y - radius, x + radius, y + radius)
            if filled:
                pen.ellipse(box, fill=color(int(i)), outline="black")
            else:
                pen.ellipse(box, outline=color(int(i)), width=2)
        return np.asarray(canvas)


def _format(point: dict[str, Any]) -> str:
    """Return the name of a point and its position, given in percent."""
    return f"{point['point']} {point['x']:.0f}%|{point['y']:.0f}%"
