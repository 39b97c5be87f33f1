"""Label assignment and loss of the anchor-free detector, on any backend of Keras."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from kerakit.tasks.losses import take_rows

CANDIDATES = 10
"""Number of grid points that are trained on each object."""

SCORE_POWER, OVERLAP_POWER = 0.5, 6.0
"""Exponents of score and overlap in the alignment: Ultralytics YOLOv8's; originally 1 and 6."""

BOX_WEIGHT, OBJECT_WEIGHT, CLASS_WEIGHT = 5.0, 1.0, 1.0
"""Weights of the parts of the loss; those of YOLOX."""

MIN_OVERLAP = 0.01
"""Overlap that a grid point inside an object has at least, so that none has no candidate."""

_EPSILON = 1e-9


def grid_points(
    input_size: tuple[int, int], strides: Sequence[int]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the centers of the cells of all levels, and their strides.

    Args:
        input_size: (width, height) in pixels.
        strides: of the levels.

    Returns:
        Centers (x, y) in pixels, float32 (points, 2), row by row; strides, float32 (points,).

    >>> grid_points((16, 8), (8,))[0].tolist()
    [[4.0, 4.0], [12.0, 4.0]]
    """
    width, height = input_size
    points, sizes = [], []
    for stride in strides:
        y, x = np.mgrid[: height // stride, : width // stride].reshape(2, -1)
        points.append((np.stack([x, y], axis=1) + 0.5) * stride)
        sizes.append(np.full(len(x), stride))
    return np.concatenate(points).astype(np.float32), np.concatenate(sizes).astype(np.float32)


class DetectionLoss(keras.losses.Loss):
    """Loss of a detector with task-aligned label assignment.

    Each object is assigned the grid points inside it whose predictions fit it best by score and
    overlap (task alignment learning: Feng et al. 2021, arXiv:2108.07755, section 3.2). The loss is
    the sum of 1 - GIoU (Rezatofighi et al. 2019, arXiv:1902.09630) and the cross-entropies
    of classes, both weighted by the alignment, and the cross-entropy of objectness with the
    alignment as target. Points inside crowds, and outside objects, do not count as background.

    Targets: float32 (batch, boxes, 6): class, x1, y1, x2, y2 in pixels, and 1 for an object, 0 for
    padding, -1 for a crowd. Outputs: float32 (batch, points, 4 + 1 + classes): distances from the
    point to the left, upper, right and lower side in strides, and the logits of objectness and
    classes.

    Args:
        classes: number of classes.
        input_size: (width, height) in pixels.
        strides: of the levels.
        class_weights: factor of the loss of the points of an object, by its class; default: 1.

    >>> loss = DetectionLoss(2, (32, 32), (8, 16))
    >>> targets = np.array([[[1, 2, 4, 20, 30, 1], [0, 0, 0, 0, 0, 0]]], np.float32)
    >>> bool(loss(targets, np.ones((1, 20, 7), np.float32)) > 1)
    True
    """

    def __init__(
        self,
        classes: int,
        input_size: tuple[int, int],
        strides: Sequence[int],
        class_weights: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self._class_weights = class_weights
        self._classes = classes
        self._points, self._strides = grid_points(input_size, strides)

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of each image, (batch,)."""
        y_true, y_pred = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        boxes = self._boxes(y_pred[..., :4])
        logits, classes = y_pred[..., 4], y_pred[..., 5:]
        target = self._assign(
            y_true,
            [ops.stop_gradient(side) for side in boxes],
            ops.stop_gradient(logits),
            ops.stop_gradient(classes),
        )
        is_background = target["quality"] <= 0
        objectness = _cross_entropy(target["quality"], logits)
        ignored = ops.logical_and(is_background, target["is_crowd"])
        weight = target["weight"]
        # Over the batch: an image with few objects does not weigh more per object.
        mean = ops.mean(ops.sum(weight, axis=1))
        if self._class_weights is not None:
            factor = ops.matmul(
                target["one_hot"], ops.convert_to_tensor(self._class_weights, "float32")
            )
            weight = weight * factor
            objectness = ops.where(is_background, objectness, objectness * factor)
        objectness = ops.sum(ops.where(ignored, 0.0, objectness), axis=1)
        overlap = generalized_iou(boxes, target["boxes"])
        box = ops.sum(weight * (1 - overlap), axis=1)
        entropy = ops.sum(_cross_entropy(target["one_hot"], classes), axis=2)
        label = ops.sum(weight * entropy, axis=1)
        total = BOX_WEIGHT * box + OBJECT_WEIGHT * objectness + CLASS_WEIGHT * label
        return total / ops.maximum(mean, 1.0)

    def _grid(self) -> list[Any]:
        """Return x, y and stride of the points, (points,), as tensors, which torch requires."""
        return [ops.convert_to_tensor(each) for each in (*self._points.T, self._strides)]

    def _boxes(self, distances: Any) -> list[Any]:
        """Return x1, y1, x2, y2 in pixels, (batch, points) each."""
        x, y, strides = self._grid()
        reach = distances * strides[:, None]
        return [x - reach[..., 0], y - reach[..., 1], x + reach[..., 2], y + reach[..., 3]]

    def _assign(self, truth: Any, boxes: list[Any], logits: Any, classes: Any) -> dict[str, Any]:
        """Return the target of each point: quality, boxes, one_hot, is_crowd."""
        sides = [truth[:, :, None, 1 + side] for side in range(4)]
        x1, y1, x2, y2 = sides
        x, y, strides = self._grid()
        inside = ops.minimum(
            ops.minimum(x - x1, x2 - x), ops.minimum(y - y1, y2 - y)
        )  # (batch, boxes, points)
        flag = truth[:, :, 5:6]
        is_crowd = ops.any(ops.logical_and(flag < 0, inside > 0), axis=1)
        # Objects smaller than a cell may have no center of a cell inside.
        reach = strides / 2
        near = ops.minimum(reach - ops.abs(x - (x1 + x2) / 2), reach - ops.abs(y - (y1 + y2) / 2))
        allowed = ops.logical_and(flag > 0, ops.logical_or(inside > 0, near >= 0))

        labels = ops.cast(truth[:, :, 0], "int32")
        one_hot = ops.one_hot(labels, self._classes)
        scores = ops.sigmoid(logits)[:, None] * ops.matmul(
            one_hot, ops.transpose(ops.sigmoid(classes), (0, 2, 1))
        )
        overlap = ops.maximum(_iou([side[:, None] for side in boxes], sides), MIN_OVERLAP)
        alignment = ops.power(scores + _EPSILON, SCORE_POWER) * ops.power(overlap, OVERLAP_POWER)
        alignment = ops.where(allowed, alignment, 0.0)
        count = min(CANDIDATES, len(self._points))
        least = ops.top_k(alignment, count, sorted=True)[0][..., -1:]
        candidate = ops.logical_and(allowed, alignment >= least)
        # A point belongs to one object: the one that it overlaps most.
        rivals = ops.where(candidate, overlap, 0.0)
        owner = ops.argmax(rivals, axis=1)
        is_owned = ops.logical_and(
            candidate, ops.transpose(ops.one_hot(owner, truth.shape[1]), (0, 2, 1)) > 0
        )
        owned = ops.cast(is_owned, "float32")
        alignment = alignment * owned
        best = ops.max(overlap * owned, axis=2, keepdims=True)
        highest = ops.max(alignment, axis=2, keepdims=True)
        # The best point of each object weighs 1: small ones, which overlap late, count as much
        # as large ones.
        weight = alignment / (highest + 1e-30)
        quality = weight * best
        matched = take_rows(truth, owner)
        return {
            "weight": ops.max(weight, axis=1),
            "quality": ops.max(quality, axis=1),
            "boxes": [matched[..., 1 + side] for side in range(4)],
            "one_hot": ops.one_hot(ops.cast(matched[..., 0], "int32"), self._classes),
            "is_crowd": is_crowd,
        }


def _iou(one: Sequence[Any], other: Sequence[Any]) -> Any:
    """Return the intersection over union of boxes, given as x1, y1, x2, y2."""
    shared = _area(
        ops.maximum(one[0], other[0]),
        ops.maximum(one[1], other[1]),
        ops.minimum(one[2], other[2]),
        ops.minimum(one[3], other[3]),
    )
    return shared / (_area(*one) + _area(*other) - shared + _EPSILON)


def generalized_iou(one: Sequence[Any], other: Sequence[Any]) -> Any:
    """Return the generalized intersection over union of boxes (Rezatofighi et al. 2019).

    Args:
        one: x1, y1, x2, y2 of boxes; inverted ones have no area.
        other: likewise, of shapes that broadcast.

    Returns:
        Values from -1 (far apart) to 1 (equal).

    >>> sides = [ops.array([value]) for value in (0.0, 0.0, 2.0, 2.0)]
    >>> [round(float(value), 3) for value in generalized_iou(sides, sides)]
    [1.0]
    """
    shared = _area(
        ops.maximum(one[0], other[0]),
        ops.maximum(one[1], other[1]),
        ops.minimum(one[2], other[2]),
        ops.minimum(one[3], other[3]),
    )
    union = _area(*one) + _area(*other) - shared + _EPSILON
    hull = _EPSILON + _area(
        ops.minimum(one[0], other[0]),
        ops.minimum(one[1], other[1]),
        ops.maximum(one[2], other[2]),
        ops.maximum(one[3], other[3]),
    )
    return shared / union - (hull - union) / hull


def _area(x1: Any, y1: Any, x2: Any, y2: Any) -> Any:
    return ops.maximum(x2 - x1, 0.0) * ops.maximum(y2 - y1, 0.0)


def _cross_entropy(target: Any, logits: Any) -> Any:
    """Return the binary cross-entropy of logits, elementwise."""
    return ops.softplus(logits) - target * logits
