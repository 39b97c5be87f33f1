"""Losses by name, and label smoothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

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
