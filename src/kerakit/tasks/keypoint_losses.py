"""Loss and training metric of keypoints: heatmaps and offsets against positions of points."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kerakit.tasks.losses import LossFn, take_rows

SIGMA = 1.5
"""Standard deviation of the Gaussian around a point, in cells."""

RADIUS = 2.0
"""Distance from a point up to which cells learn their offset, in cells."""


def keypoint_loss(points: int, stride: int) -> LossFn:
    """Return the loss of packed heatmaps and offsets, (batch, rows, columns, 3 * points).

    Heatmaps, the first channels, are logits. Their loss is the focal loss with Gaussians around the
    points (Zhou et al., "Objects as Points" (CenterNet), 2019, equation 1), per point. Offsets, x
    and y of each point, lead from a cell's center to the point, in cells, and are learned by all
    cells near it (Papandreou et al., "PersonLab" (PoseNet), 2018, section 3.1) by L1 distance. The
    heatmap of an absent point is 0 everywhere.

    Args:
        points: number of points.
        stride: pixels of the input per cell.

    >>> import numpy as np
    >>> targets = np.array([[[6.0, 2.0, 2.0]]], np.float32)  # one visible point
    >>> packed = np.zeros((1, 4, 4, 3), np.float32)
    >>> packed[..., 0] = -9
    >>> packed[0, 0, 1, 0] = 9  # the cell of the point, whose center it is
    >>> float(ops.convert_to_numpy(keypoint_loss(1, stride=4)(targets, packed))[0]) < 2
    True
    """

    def loss(targets: Any, packed: Any) -> Any:
        packed = ops.cast(packed, "float32")
        rows, columns = packed.shape[1:3]
        logits = packed[..., :points]
        offsets = ops.reshape(packed[..., points:], (-1, rows, columns, points, 2))
        targets = ops.cast(targets, "float32")
        present = ops.cast(targets[:, None, None, :, 2] > 0, "float32")
        x = targets[:, None, None, :, 0] / stride - _centers(columns)[None, None, :, None]
        y = targets[:, None, None, :, 1] / stride - _centers(rows)[None, :, None, None]
        distance = ops.square(x) + ops.square(y)
        gaussian = ops.exp(-distance / (2 * SIGMA**2)) * present
        own = (x >= -0.5) & (x < 0.5) & (y >= -0.5) & (y < 0.5)
        positive = ops.cast(own, "float32") * present
        score = ops.sigmoid(logits)
        hits = positive * ops.square(1 - score) * ops.log_sigmoid(logits)
        others = (1 - positive) * (1 - gaussian) ** 4 * ops.square(score) * ops.log_sigmoid(-logits)
        focal = -ops.sum(hits + others, axis=(1, 2, 3)) / points
        near = ops.cast(distance < RADIUS**2, "float32") * present
        error = ops.abs(offsets[..., 0] - x) + ops.abs(offsets[..., 1] - y)
        cells = ops.maximum(ops.sum(near, axis=(1, 2, 3)), 1)
        return focal + ops.sum(error * near, axis=(1, 2, 3)) / cells

    loss.__name__ = "keypoint_loss"  # for messages
    return loss


def _centers(cells: int) -> Any:
    return ops.arange(cells, dtype="float32") + 0.5


@keras.saving.register_keras_serializable("kerakit")
class PCK(keras.metrics.Mean):
    """Fraction of the present points of packed outputs that are at most 10 % of their extent off.

    The extent is the longer side of the box around the present points of an image.

    >>> import numpy as np
    >>> metric = PCK(points=2, stride=4)
    >>> packed = np.zeros((1, 4, 4, 6), np.float32)
    >>> packed[0, 0, 1, 0] = packed[0, 3, 3, 1] = 9
    >>> _ = metric.update_state(np.array([[[6, 2, 2], [2, 14, 2]]], np.float32), packed)
    >>> float(metric.result())
    0.5
    """

    def __init__(self, points: int, stride: int, name: str = "pck", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.points, self.stride = points, stride

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch; weights of samples don't count."""
        targets, packed = ops.cast(y_true, "float32"), ops.cast(y_pred, "float32")
        rows, columns = packed.shape[1:3]
        cells = ops.reshape(packed[..., : self.points], (-1, rows * columns, self.points))
        offsets = ops.reshape(packed[..., self.points :], (-1, rows * columns * self.points, 2))
        best = ops.argmax(cells, axis=1)
        moved = take_rows(offsets, best * self.points + ops.arange(self.points, dtype="int32"))
        column, row = best % columns, best // columns
        cell = ops.cast(ops.stack([column, row], axis=-1), "float32")
        found = (cell + 0.5 + moved) * self.stride
        present = targets[..., 2] > 0
        shown = present[..., None]
        high = ops.max(ops.where(shown, targets[..., :2], -1e9), axis=1)
        low = ops.min(ops.where(shown, targets[..., :2], 1e9), axis=1)
        extent = ops.max(high - low, axis=-1, keepdims=True)
        side = float(max(rows, columns) * self.stride)
        extent = ops.where(extent > 0, extent, side)  # one point has no box
        distance = ops.sqrt(ops.sum(ops.square(found - targets[..., :2]), axis=-1))
        correct = ops.cast(distance <= 0.1 * extent, "float32")
        return super().update_state(correct, ops.cast(present, "float32"))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "points": self.points, "stride": self.stride}
