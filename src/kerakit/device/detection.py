"""Decoding and drawing of detected objects, for the engine and for devices.

Needs Python 3.7, NumPy and Pillow only: it is copied into device bundles.
"""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any, Sequence  # noqa: UP035 - Python 3.7

import numpy as np
from PIL import Image, ImageDraw

if __package__ or TYPE_CHECKING:  # in Kerakit
    from kerakit.device.captions import text_box, text_scale, write_text
else:  # on a device: the files beside this one
    from captions import text_box, text_scale, write_text

MAX_CANDIDATES = 1000
"""Number of grid points, those of the highest scores, from which objects are selected."""

MAX_OBJECTS = 100
"""Number of objects per image, as in COCO's metrics."""

_BLOCK = 64
"""Number of boxes that are compared at once: few enough that later ones are removed before."""

_SIDES = ("x1", "y1", "x2", "y2")

# Distinct for most people with color vision deficiency in neighboring entries (Trubetskoy 2017).
COLORS = (
    *((230, 25, 75), (67, 99, 216), (60, 180, 75), (245, 130, 49), (145, 30, 180)),
    *((0, 130, 140), (240, 50, 230), (154, 99, 36), (0, 0, 117), (128, 0, 0)),
)


class Decoder:
    """Turns the outputs of a detector into objects.

    A prediction is an array, float32 (objects, 6), the highest score first: left, upper, right and
    lower side as fractions of the image's width and height, score, and class index.

    Args:
        spec: has "classes", the names in the order of the outputs; "strides" of the levels;
            "overlap", the highest intersection over union of two objects of a class; "threshold",
            the lowest score of an object.
        minimum: lowest score that is decoded; default: the threshold.
    """

    has_coordinates = True

    def __init__(self, spec: dict[str, Any], minimum: float | None = None) -> None:
        self.classes = [str(name) for name in spec["classes"]]
        self.strides = [int(stride) for stride in spec["strides"]]
        self.overlap = float(spec["overlap"])
        self.threshold = float(spec["threshold"])
        self.minimum = self.threshold if minimum is None else minimum

    def decode(self, outputs: dict[str, Any]) -> Any:
        """Return the objects for the outputs of one image.

        Args:
            outputs: for each stride, such as 8: "box_8", (rows, columns, 4), distances from the
                center of the cell to the four sides in strides; "object_8", (rows, columns, 1),
                logits; "class_8", (rows, columns, classes), logits.
        """
        boxes, scores, classes = [], [], []
        size = (1.0, 1.0)
        # A score is at most the sigmoid of its objectness, so most points are left out early.
        least = math.log(max(self.minimum, 1e-6) / max(1 - self.minimum, 1e-6))
        for stride in self.strides:
            objectness = np.asarray(outputs[f"object_{stride}"])
            rows, columns = objectness.shape[:2]
            size = (columns * stride, rows * stride)
            flat = objectness.reshape(-1)
            (index,) = np.nonzero(flat >= least)
            if not len(index):
                continue
            logits = np.asarray(outputs[f"class_{stride}"]).reshape(rows * columns, -1)[index]
            distances = np.asarray(outputs[f"box_{stride}"]).reshape(-1, 4)[index] * stride
            classes.append(logits.argmax(axis=1))
            scores.append(_sigmoid(flat[index]) * _sigmoid(logits.max(axis=1)))
            y, x = np.divmod(index, columns)
            centers = (np.stack([x, y], axis=1) + 0.5) * stride
            sides = [centers - distances[:, :2], centers + distances[:, 2:]]
            boxes.append(np.concatenate(sides, axis=1))
        if not scores:
            return np.zeros((0, 6), np.float32)
        found = np.concatenate(
            [
                np.concatenate(boxes).clip(0, size * 2),
                np.concatenate(scores)[:, None],
                np.concatenate(classes)[:, None],
            ],
            axis=1,
        ).astype(np.float32)
        has_area = (found[:, 2] > found[:, 0]) & (found[:, 3] > found[:, 1])
        found = found[has_area & (found[:, 4] >= self.minimum)]
        found = found[np.argsort(-found[:, 4], kind="stable")[:MAX_CANDIDATES]]
        found = found[suppress(found, self.overlap)]
        found[:, :4] /= np.array(size * 2, np.float32)
        return found

    def visible(self, prediction: Any) -> Any:
        """Return the objects whose score reaches the threshold."""
        return prediction[prediction[:, 4] >= self.threshold]

    def ties(self, outputs: dict[str, Any], step: float) -> bool:
        """Whether a difference of ``step`` in the logits may change the number of objects."""
        other, counts = copy.copy(self), []
        for sign in (1, -1):
            odds = math.log(self.threshold / (1 - self.threshold)) - 2 * sign * step
            other.minimum = 1 / (1 + math.exp(-odds))
            counts.append(len(other.decode(outputs)))
        return counts[0] != counts[1]

    def same(self, prediction: Any, other: Any) -> bool:
        """Whether two predictions have the same objects: of equal class, overlapping by 0.8."""
        one, two = self.visible(prediction), self.visible(other)
        if len(one) != len(two):
            return False
        near = (overlaps(one, two) >= 0.8) & (one[:, None, 5] == two[None, :, 5])
        return bool(near.any(axis=0).all() and near.any(axis=1).all())

    def to_image(self, prediction: Any, layout: Any) -> Any:
        """Return the objects as fractions of the upright original image, clipped to it."""
        moved = prediction.copy()
        corners = layout.to_image(prediction[:, :4].reshape(-1, 2)).reshape(-1, 4)
        moved[:, :4] = np.clip(corners, 0, 1)
        return moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]

    def describe(
        self, prediction: Any, top: int = MAX_OBJECTS, size: tuple[int, int] = (1, 1)
    ) -> list[dict[str, Any]]:
        """Return the ``top`` objects with label, confidence, and sides in pixels.

        Args:
            prediction: the objects.
            top: number of records.
            size: (width, height) of the image in pixels.
        """
        scale = np.array(size * 2, np.float64)
        return [
            {
                "label": self.classes[int(row[5])],
                "confidence": float(row[4]),
                **{name: round(float(row[i] * scale[i]), 1) for i, name in enumerate(_SIDES)},
            }
            for row in self.visible(prediction)[:top]
        ]

    def caption(self, prediction: Any, top: int = 0) -> str:
        """Return the number of objects of each class."""
        classes = self.visible(prediction)[:, 5].astype(int)
        counts = np.bincount(classes, minlength=len(self.classes)).tolist()
        named = [f"{counts[i]} {name}" for i, name in enumerate(self.classes) if counts[i]]
        return ", ".join(named) or "no object"

    def draw(self, image: Any, prediction: Any) -> Image.Image:
        """Return the image, uint8 (height, width, 3), with boxes, labels and scores."""
        return draw_boxes(image, self.visible(prediction), self.classes)


def suppress(found: Any, overlap: float, limit: int = MAX_OBJECTS) -> Any:
    """Return the indices of the boxes that remain after non-maximum suppression per class.

    A box is removed if a remaining one of its class with a higher score overlaps it by more than
    ``overlap``. Blocks of boxes are compared at once; what they remove is not compared again. The
    result is that of the usual loop over boxes.

    Args:
        found: (boxes, 6): sides, score and class, the highest score first.
        overlap: intersection over union.
        limit: number of boxes to return.
    """
    remaining: list[Any] = []
    pending: Any = np.arange(len(found))
    while len(pending) and sum(map(len, remaining)) < limit:
        block, pending = pending[:_BLOCK], pending[_BLOCK:]
        best = block[_remaining(np.triu(_rivals(found[block], found[block], overlap), 1))]
        remaining.append(best)
        if len(pending):
            pending = pending[~_rivals(found[best], found[pending], overlap).any(axis=0)]
    return np.concatenate(remaining)[:limit] if remaining else np.zeros(0, np.int64)


def _rivals(one: Any, other: Any, overlap: float) -> Any:
    """Return which pairs of boxes, (n, m), have one class and overlap by more than ``overlap``."""
    return (overlaps(one, other) > overlap) & (one[:, None, 5] == other[None, :, 5])


def _remaining(rivals: Any) -> Any:
    """Return which boxes no remaining earlier one removes, bool (n,).

    Args:
        rivals: whether box i removes box j if it remains, (n, n); false unless i is before j.
    """
    remaining = np.ones(len(rivals), bool)
    # Box j is decided once all before it are, so this ends.
    while True:
        after = ~rivals[remaining].any(axis=0)
        if (after == remaining).all():
            return remaining
        remaining = after


def overlaps(one: Any, other: Any) -> Any:
    """Return the intersection over union of all pairs of boxes, (n, m), given as x1, y1, x2, y2."""
    x1, y1, x2, y2 = (one[:, None, side] for side in range(4))
    left, upper, right, lower = (other[None, :, side] for side in range(4))
    width = np.minimum(x2, right) - np.maximum(x1, left)
    height = np.minimum(y2, lower) - np.maximum(y1, upper)
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    total = (x2 - x1) * (y2 - y1) + (right - left) * (lower - upper) - shared
    return shared / np.maximum(total, 1e-9)


def draw_boxes(
    image: Any, boxes: Any, classes: Sequence[str], color: tuple[int, int, int] | None = None
) -> Image.Image:
    """Return the image, uint8 (height, width, 3), with boxes.

    Args:
        image: the image.
        boxes: (boxes, 4 or more): sides as fractions; with score and class, labels are drawn, too.
        classes: class names.
        color: of all boxes; default: one per class.
    """
    photo = Image.fromarray(np.asarray(image).astype(np.uint8))
    pen = ImageDraw.Draw(photo)
    width = max(1, round(max(photo.size) / 320))
    size = text_scale(*photo.size)
    scale = np.array(photo.size * 2)
    # The most confident last, on top.
    for row in boxes[::-1]:
        x1, y1, x2, y2 = (row[:4] * scale).tolist()
        kind = int(row[5]) if len(row) > 5 else 0
        chosen = color or COLORS[kind % len(COLORS)]
        pen.rectangle([x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)], outline=chosen, width=width)
        if len(row) > 5 and color is None:
            score = "" if np.isnan(row[4]) else f" {row[4]:.2f}"  # true boxes have none
            text = f"{classes[kind]}{score}"
            top = y1 - 12 * size if y1 >= 12 * size else y1
            # Labels of boxes at the right border move to the left, as far as they are whole.
            left, upper, right, lower = text_box(text, size)
            start = max(2, min(x1 + 2, photo.width - right - 2))
            label = [start + left - 2, top + upper - 1, start + right + 2, top + lower + 1]
            pen.rectangle(label, fill=chosen)
            write_text(photo, start, top, text, "white", size)
    return photo


def _sigmoid(logits: Any) -> Any:
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))
