"""Segmentation on devices: decoding of masks, and drawing.

Needs Python 3.7, NumPy and Pillow only: it is copied into device bundles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Sequence  # noqa: UP035 - Python 3.7

import numpy as np
from PIL import Image

if __package__ or TYPE_CHECKING:  # in Kerakit
    from kerakit.device.captions import add_legend
    from kerakit.device.colors import color
else:  # on a device: the files beside this one
    from captions import add_legend
    from colors import color

IGNORED = 255
"""The value of pixels without a class: in masks of labels, and outside of a cropped input."""

OPACITY = 0.55
"""Opacity of class colors over an image."""

STRIP = 65536
"""Pixels that are resized at a time: intermediate values stay in the processor's cache."""


class Decoder:
    """Turns scores of a grid of cells into a mask of any size.

    A prediction is a dictionary: "scores", float32 (rows, columns, classes), and "area", float32
    (4,): left, top, right and bottom edge of the grid, as fractions of the image's width and
    height.

    Args:
        spec: has "classes", the names in the order of the scores; optionally "colors", one (red,
            green, blue) per class.
    """

    has_coordinates = True

    def __init__(self, spec: dict[str, Any]) -> None:
        self.classes = list(spec["classes"])
        colors = spec.get("colors") or [color(i) for i in range(len(self.classes))]
        self.colors = np.array(colors, np.uint8)

    def decode(self, outputs: Any) -> dict[str, Any]:
        """Return the prediction for the scores of one image, (rows, columns, classes)."""
        scores = np.asarray(outputs, np.float32)
        return {"scores": scores, "area": np.array([0, 0, 1, 1], np.float32)}

    def to_image(self, prediction: dict[str, Any], layout: Any) -> dict[str, Any]:
        """Return the prediction for the original image, of which the input is a part."""
        corners = layout.to_image(prediction["area"].reshape(2, 2))
        return {**prediction, "area": np.asarray(corners, np.float32).reshape(4)}

    def mask(self, prediction: dict[str, Any], size: tuple[int, int]) -> Any:
        """Return the class index of each pixel, uint8 (height, width); IGNORED outside the input.

        Args:
            prediction: of ``decode`` or ``to_image``.
            size: (width, height) of the image that the prediction is for.
        """
        planes = np.ascontiguousarray(prediction["scores"].transpose(2, 0, 1))
        left, top, right, bottom = map(float, prediction["area"])
        x0, x1, x, used_columns = _taps(planes.shape[2], size[0], left, right)
        y0, y1, y, used_rows = _taps(planes.shape[1], size[1], top, bottom)
        # Columns first: they are gathered from the small grid.
        wide = np.take(planes, x0, 2) * (1 - x) + np.take(planes, x1, 2) * x
        y = y[:, None]
        mask = np.empty((size[1], size[0]), np.uint8)
        step = max(1, STRIP // size[0])
        for start in range(0, size[1], step):
            part = slice(start, start + step)
            before, after, weight = y0[part], y1[part], y[part]
            best, classes = None, mask[part]
            classes[:] = 0
            for index, plane in enumerate(wide):
                values = plane[before]
                values += (plane[after] - values) * weight
                if best is None:
                    best = values
                    continue
                np.copyto(classes, index, where=values > best)
                np.maximum(best, values, out=best)
        if not used_columns.all():
            mask[:, ~used_columns] = IGNORED
        if not used_rows.all():
            mask[~used_rows] = IGNORED
        return mask

    def ties(self, outputs: Any, step: float) -> bool:
        """Whether a difference of ``step`` in the scores may change 1 % of the cells."""
        best = np.sort(np.asarray(outputs, np.float32), axis=-1)
        return bool((best[..., -1] - best[..., -2] < step).mean() >= 0.01)

    def same(self, prediction: dict[str, Any], other: dict[str, Any]) -> bool:
        """Whether at least 99 % of the pixels of two predictions have the same class."""
        rows, columns, _ = prediction["scores"].shape
        size = 4 * columns, 4 * rows
        return bool((self.mask(prediction, size) == self.mask(other, size)).mean() >= 0.99)

    def describe(
        self, prediction: dict[str, Any], top: int = 100, size: tuple[int, int] = (1, 1)
    ) -> list[dict[str, Any]]:
        """Return up to ``top`` classes of the mask with most pixels.

        Each has "label", "fraction" of the pixels with a class, "pixels", and the box around them
        in pixels: "left", "top", "right", "bottom".
        """
        return describe_mask(self.mask(prediction, size), self.classes, top)

    def caption(self, prediction: dict[str, Any], top: int = 3) -> str:
        """Return the fractions of the ``top`` largest classes."""
        rows, columns, _ = prediction["scores"].shape
        return caption_mask(self.mask(prediction, (4 * columns, 4 * rows)), self.classes, top)

    def draw(self, image: Any, prediction: dict[str, Any]) -> Image.Image:
        """Return the image, uint8 (height, width, 3), in class colors, with a legend below."""
        image = np.asarray(image).astype(np.uint8)
        mask = self.mask(prediction, (image.shape[1], image.shape[0]))
        return self.draw_masks(image, [mask])

    def draw_masks(self, image: Any, masks: Sequence[Any]) -> Image.Image:
        """Return the image in the colors of each mask, side by side, with one legend below."""
        photo = Image.fromarray(combine(image, masks, self.colors))
        present = np.flatnonzero(
            np.sum([np.bincount(mask.ravel(), minlength=256)[:IGNORED] for mask in masks], axis=0)
        )
        entries = [(self.classes[i], tuple(self.colors[i].tolist())) for i in present]
        return add_legend(photo, entries)


def describe_mask(mask: Any, classes: Sequence[str], top: int) -> list[dict[str, Any]]:
    """Return records of the ``top`` classes with most pixels; see ``Decoder.describe``."""
    counts = np.bincount(mask.ravel(), minlength=256)[:IGNORED]
    total = max(1, int(counts.sum()))
    records = []
    for index in np.argsort(-counts, kind="stable")[:top].tolist():
        if not counts[index]:
            break
        inside = mask == index
        columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
        records.append(
            {
                "label": classes[index],
                "fraction": float(counts[index] / total),
                "pixels": int(counts[index]),
                "left": int(columns[0]),
                "top": int(rows[0]),
                "right": int(columns[-1]) + 1,
                "bottom": int(rows[-1]) + 1,
            }
        )
    return records


def caption_mask(mask: Any, classes: Sequence[str], top: int = 3) -> str:
    """Return the fractions of the ``top`` largest classes, as "road 40%, sky 25%, car 3%"."""
    counts = np.bincount(mask.ravel(), minlength=256)[:IGNORED]
    total = max(1, int(counts.sum()))
    order = [i for i in np.argsort(-counts, kind="stable")[:top].tolist() if counts[i]]
    return ", ".join(f"{classes[i]} {counts[i] / total:.0%}" for i in order) or "no class"


def combine(image: Any, masks: Sequence[Any], colors: Any) -> Any:
    """Return the image in the colors of each mask, side by side, uint8 (height, ..., 3)."""
    gap = np.full((len(image), 4, 3), 255, np.uint8)
    parts = [part for mask in masks for part in (_overlay(image, mask, colors), gap)]
    return np.concatenate(parts[:-1], axis=1) if masks else image


def _overlay(image: Any, mask: Any, colors: Any) -> Any:
    """Return an image in the colors of its mask, uint8 (height, width, 3)."""
    table = np.zeros((256, 3), np.float32)
    table[: len(colors)] = colors
    opacity = np.zeros((256, 1), np.float32)
    opacity[: len(colors)] = OPACITY
    weight = opacity[mask]
    mixed = np.asarray(image, np.float32) * (1 - weight) + table[mask] * weight
    return np.rint(mixed).astype(np.uint8)


def _taps(cells: int, pixels: int, start: float, end: float) -> tuple[Any, Any, Any, Any]:
    """Return, for each pixel, two cells, the second's weight, and whether it is in the grid.

    Centers of pixels and cells correspond, as in OpenCV, PIL and ``keras.ops.image.resize``.
    """
    at = ((np.arange(pixels) + 0.5) / pixels - start) / (end - start) * cells - 0.5
    inside = (at >= -0.5 - 1e-4) & (at <= cells - 0.5 + 1e-4)
    at = np.clip(at, 0, cells - 1).astype(np.float32)
    first = at.astype(np.intp)
    return first, np.minimum(first + 1, cells - 1), at - first, inside
