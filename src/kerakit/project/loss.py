"""Losses and metrics."""

from __future__ import annotations

from collections.abc import Callable

import keras

# CHANGE: your own losses, by the name for --loss: functions of (targets, predictions), both
# (batch, ...), that return (batch,). Keras losses need no entry.
LOSSES: dict[str, Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]] = {}

# CHANGE: metrics of Keras, printed and logged with the loss. One list per output; the last list
# applies to all following outputs. Empty: those of the task.
METRICS: list[list[str]] = []
