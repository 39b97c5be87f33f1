"""Losses and metrics."""

from __future__ import annotations

from collections.abc import Callable

import keras

# CHANGE: your own losses, by the name that --loss takes: functions of (targets, predictions), both
# (batch, ...), that return (batch,). Keras's own need no entry.
LOSSES: dict[str, Callable[[keras.KerasTensor, keras.KerasTensor], keras.KerasTensor]] = {}

# CHANGE: metrics, printed and logged beside the loss. One list per output; the last holds for all
# following outputs.
METRICS: list[list[str]] = [["accuracy"]]
