"""Losses by name, and label smoothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.config import check_choice
from kerakit.errors import UserError

LossFn = Callable[[Any, Any], Any]
"""Targets and predictions, both (batch, ...), to losses (batch,)."""


def find_loss(name: str, losses: Mapping[str, LossFn]) -> LossFn:
    """Return the loss named ``name`` of ``losses`` or of ``keras.losses``.

    Raises:
        UserError: there is no such loss.
    """
    import keras

    if name in losses:
        return losses[name]
    excluded = {"deserialize", "serialize", "get"}
    of_keras = sorted(n for n in dir(keras.losses) if n[0].islower() and n not in excluded)
    try:
        loss: LossFn = keras.losses.get(check_choice("loss", name, [*losses, *of_keras]))
    except ValueError as error:
        raise UserError(f"--loss: {error}.") from None
    return loss


def smooth_labels(loss: LossFn, smoothing: float) -> LossFn:
    """Return the cross-entropy against smoothed targets (Szegedy et al. 2016, section 7).

    Args:
        loss: ``keras.losses.sparse_categorical_crossentropy`` or its dense counterpart.
        smoothing: the probability mass that is spread evenly over all classes, in [0, 1).
    """
    import keras

    def cross_entropy(targets: Any, predictions: Any) -> Any:
        if loss is keras.losses.sparse_categorical_crossentropy:
            # Keras's own loss accepts a last axis of 1, too.
            if len(targets.shape) == len(predictions.shape):
                targets = keras.ops.squeeze(targets, -1)
            targets = keras.ops.one_hot(targets, predictions.shape[-1])
        return keras.losses.categorical_crossentropy(
            targets, predictions, label_smoothing=smoothing
        )

    cross_entropy.__name__ = loss.__name__  # for messages
    return cross_entropy


def take_rows(values: Any, indices: Any) -> Any:
    """Return rows of each sample: a gather whose indices are 32-bit.

    ``keras.ops.take_along_axis`` makes them 64-bit, which oneDNN reports as an error on CPUs
    without AVX-512.

    Args:
        values: (batch, rows, channels).
        indices: of rows, int32 (batch, n).

    Returns:
        (batch, n, channels).

    >>> import numpy as np
    >>> values = np.array([[[1.0], [2.0]], [[3.0], [4.0]]])
    >>> np.array(take_rows(values, np.array([[1], [0]]))).tolist()
    [[[2.0]], [[3.0]]]
    """
    from keras import ops

    batch, (rows, channels) = ops.shape(values)[0], values.shape[1:]
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * rows, 1)
    flat = ops.reshape(values, (-1, channels))
    return ops.take(flat, ops.cast(indices, "int32") + first, axis=0)


def inverse_frequencies(counts: NDArray[np.int64]) -> list[float]:
    """Return a weight per class that makes all classes count the same, 1 on average over samples.

    Args:
        counts: number of training samples of each class, (classes,).

    >>> inverse_frequencies(np.array([30, 10]))
    [0.6666666666666666, 2.0]
    """
    weights: list[float] = (counts.sum() / (len(counts) * np.maximum(counts, 1))).tolist()
    return weights


def weigh_classes(loss: LossFn, weights: Sequence[float]) -> LossFn:
    """Return the loss of class probabilities, times the weight of the true class.

    Args:
        loss: of class indices (batch, ...) or soft labels (batch, ..., classes); the weight of a
            soft label is the weighted mean of those of its classes.
        weights: one per class.

    >>> import keras
    >>> loss = weigh_classes(keras.losses.sparse_categorical_crossentropy, [1.0, 3.0])
    >>> values = loss(np.array([0, 1]), np.full((2, 2), 0.5, np.float32))
    >>> keras.ops.convert_to_numpy(values).round(2)
    array([0.69, 2.08], dtype=float32)
    """
    from keras import ops

    def weighted(targets: Any, predictions: Any) -> Any:
        values = loss(targets, predictions)
        factors = ops.convert_to_tensor(weights, "float32")
        is_vector = len(targets.shape) == len(predictions.shape)
        if is_vector and targets.shape[-1] == len(weights):
            factor = ops.matmul(ops.cast(targets, "float32"), factors)
        else:
            # Keras's own losses accept a last axis of 1, too.
            index = ops.squeeze(targets, -1) if is_vector else targets
            factor = ops.take(factors, ops.cast(index, "int32"))
        return values * ops.cast(factor, values.dtype)

    weighted.__name__ = getattr(loss, "__name__", type(loss).__name__)  # for messages
    return weighted


def weigh_positives(loss: LossFn, weights: Sequence[float]) -> LossFn:
    """Return the binary cross-entropy in which positive labels count by the weight of their class.

    Args:
        loss: of labels and scores, both (batch, 1), such as smoothed binary cross-entropy.
        weights: one per class.

    >>> import keras
    >>> loss = weigh_positives(keras.losses.binary_crossentropy, [3.0, 1.0])
    >>> values = loss(np.array([[1, 0], [0, 0]]), np.full((2, 2), 0.5, np.float32))
    >>> keras.ops.convert_to_numpy(values).round(2)
    array([1.39, 0.69], dtype=float32)
    """
    from keras import ops

    def weighted(targets: Any, predictions: Any) -> Any:
        targets = ops.cast(targets, predictions.dtype)
        factors = 1 + targets * (ops.convert_to_tensor(weights, predictions.dtype) - 1)
        # Keras averages over the last axis: one axis more gives the values per class.
        return ops.mean(factors * loss(targets[..., None], predictions[..., None]), axis=-1)

    weighted.__name__ = "binary_crossentropy"  # for messages
    return weighted
