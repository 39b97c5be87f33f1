"""Loss and training metric of segmentation: scores of a coarse grid against masks of full size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kerakit.device.segmentation import IGNORED
from kerakit.tasks.losses import LossFn

EPSILON = 1e-6


def segmentation_loss(class_weights: Sequence[float] | None = None, dice: float = 1.0) -> LossFn:
    """Return the loss of scores (batch, rows, columns, classes).

    Targets are masks, (batch, height, width), to whose size the scores (logits) are resized
    bilinearly. Cross-entropy per pixel, plus the soft Dice loss per class (Milletari et al.,
    "V-Net", 2016, equation 3, without squares), in which rare classes count as much as frequent
    ones. Pixels of value 255 don't count.

    Args:
        class_weights: factor of the cross-entropy of each class; default: 1.
        dice: factor of the Dice loss.

    >>> import numpy as np
    >>> masks = np.array([[[0, 1], [255, 1]]], np.uint8)
    >>> scores = np.array([[[[9.0, -9.0], [-9.0, 9.0]]]], np.float32)  # a grid of 1 by 2 cells
    >>> ops.convert_to_numpy(segmentation_loss()(masks, scores)).round(2).tolist()
    [0.0]
    """

    def loss(targets: Any, scores: Any) -> Any:
        classes = scores.shape[-1]
        known, one_hot = _encode(targets, classes)
        scores = ops.cast(scores, "float32")
        scores = ops.image.resize(scores, targets.shape[1:3], interpolation="bilinear")
        logarithms = ops.log_softmax(scores, axis=-1)
        weighted = one_hot
        if class_weights is not None:
            weighted = one_hot * ops.convert_to_tensor(class_weights, "float32")
        total = ops.maximum(ops.sum(weighted, axis=(1, 2, 3)), EPSILON)
        value = -ops.sum(weighted * logarithms, axis=(1, 2, 3)) / total
        if dice:
            value = value + dice * _dice_loss(ops.exp(logarithms) * known, one_hot)
        return value

    loss.__name__ = "segmentation_loss"  # for messages
    return loss


def _dice_loss(probabilities: Any, one_hot: Any) -> Any:
    """Return the part of each image, (batch,), in 1 minus the soft Dice coefficient.

    Its mean over the images is the mean over the classes of a batch of 1 minus their coefficient.
    Over the batch: in a single image, many classes are absent or tiny. By image: sample weights.
    """
    pixels = (1, 2)
    labeled = ops.sum(one_hot, axis=pixels)  # (batch, classes)
    overlap = ops.sum(probabilities * one_hot, axis=pixels)
    both = ops.sum(probabilities, axis=pixels) + labeled
    present = ops.cast(ops.sum(labeled, axis=0) > 0, "float32")
    mean = ops.maximum(ops.mean(both, axis=0), EPSILON)
    parts = (both - 2 * overlap) / mean * present
    return ops.sum(parts, axis=1) / ops.maximum(ops.sum(present), 1)


def _encode(targets: Any, classes: int) -> tuple[Any, Any]:
    """Return whether pixels have a class, (batch, height, width, 1), and one-hot labels."""
    indices = ops.cast(targets, "int32")
    known = ops.cast(ops.not_equal(indices, IGNORED), "float32")[..., None]
    one_hot = ops.one_hot(ops.where(indices == IGNORED, 0, indices), classes, dtype="float32")
    return known, one_hot * known


@keras.saving.register_keras_serializable("kerakit")
class MeanIoU(keras.metrics.MeanIoU):
    """Mean IoU of scores (batch, rows, columns, classes) that are resized to the size of the masks.

    >>> import numpy as np
    >>> metric = MeanIoU(2)
    >>> _ = metric.update_state(np.array([[[0, 1]]]), np.array([[[[1.0, 0.0], [0.0, 1.0]]]]))
    >>> round(float(metric.result()), 3)
    1.0
    """

    def __init__(self, num_classes: int, name: str = "mean_iou", **options: Any) -> None:
        options = {"ignore_class": IGNORED, "sparse_y_pred": False, **options}
        super().__init__(num_classes, name=name, **options)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Add a batch; weights of samples don't count."""
        scores = ops.image.resize(
            ops.cast(y_pred, "float32"), y_true.shape[1:3], interpolation="bilinear"
        )
        return super().update_state(ops.cast(y_true, "int32"), scores)
