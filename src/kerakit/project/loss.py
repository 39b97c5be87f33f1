"""Losses, their weights, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

import config
import kerakit

# CHANGE: your own losses, by the name that --loss takes: functions of (targets, predictions), both (batch, ...), that return
# (batch,). Keras's own need no entry.
LOSSES: dict[str, Callable[[Any, Any], Any]] = {}

# CHANGE: what is printed and logged beside the loss. One list for each output; the last holds for all that follow.
METRICS: list[list[str]] = [["accuracy"]]


def get(name: str) -> Callable[[Any, Any], Any]:
    """Return the loss named ``name``: one of ``LOSSES``, or one of Keras's."""
    if name in LOSSES:
        return LOSSES[name]
    of_keras = {n for n in dir(keras.losses) if n[0].islower()} - {
        "deserialize",
        "serialize",
        "get",
    }
    try:
        loss: Callable[[Any, Any], Any] = keras.losses.get(
            config.known("loss", name, [*LOSSES, *sorted(of_keras)])
        )
    except ValueError as error:
        raise kerakit.UserError(f"--loss: {error}.") from None
    return loss


def options(model: keras.Model, args: config.TrainConfig) -> dict[str, Any]:
    """Return what ``model.compile`` takes beside the optimizer, as ``args`` say."""
    return compile_options(
        model, args.loss, args.loss_weights, bool(args.mixup or args.cutmix), args.label_smoothing
    )


def compile_options(
    model: keras.Model,
    names: Sequence[str],
    weights: Sequence[float] | None = None,
    shares: bool = False,
    smoothing: float = 0,
) -> dict[str, Any]:
    """Return ``loss``, ``loss_weights`` and ``metrics`` for ``model.compile``, one for each output of ``model``.

    Args:
        model: with one output or several.
        names: one loss for all outputs, or one for each.
        weights: one for each output, or None for 1 each.
        shares: targets are shares of the classes (MixUp, CutMix), not class numbers: for ``sparse_categorical_crossentropy``
            comes ``categorical_crossentropy``.
        smoothing: share of each target that goes to all classes alike; only of the cross-entropies of classes.

    Raises:
        UserError: the numbers don't fit the outputs, or a loss is unknown.
    """
    count = len(model.outputs)
    names = list(names) * count if len(names) == 1 else list(names)
    for flag, given in (("--loss", names), ("--loss_weights", weights)):
        if given is not None and len(given) != count:
            raise kerakit.UserError(
                f"{flag} has {len(given)} value(s); the model has {count} output(s). Give one for each."
            )
    losses = [get(name.removeprefix("sparse_") if shares else name) for name in names]
    if smoothing:
        losses = [
            _smoothed(loss, smoothing) if name.endswith("categorical_crossentropy") else loss
            for loss, name in zip(losses, names, strict=True)
        ]
    metrics = [METRICS[min(i, len(METRICS) - 1)] for i in range(count)]
    if count == 1:
        return {
            "loss": losses[0],
            "loss_weights": list(weights) if weights else None,
            "metrics": metrics[0],
        }
    return {"loss": losses, "loss_weights": list(weights) if weights else None, "metrics": metrics}


def _smoothed(loss: Callable[[Any, Any], Any], smoothing: float) -> Callable[[Any, Any], Any]:
    """Return the cross-entropy of classes against smoothed targets (Szegedy et al. 2016, section 7)."""

    def cross_entropy(targets: Any, predictions: Any) -> Any:
        if loss is keras.losses.sparse_categorical_crossentropy:
            if len(targets.shape) == len(
                predictions.shape
            ):  # a last axis of 1, as Keras's own takes it, too
                targets = keras.ops.squeeze(targets, -1)
            targets = keras.ops.one_hot(targets, predictions.shape[-1])
        return keras.losses.categorical_crossentropy(
            targets, predictions, label_smoothing=smoothing
        )

    return cross_entropy
