"""Keras callbacks that write whole files and keep what was best."""

from __future__ import annotations

import math
from typing import Any

import keras

from kerakit.errors import JobError
from kerakit.run import Run


class Checkpoints(keras.callbacks.Callback):
    """Save the weights after each epoch, written whole, ranked by one metric.

    Args:
        run: where to.
        monitor: the name of a metric, as in the logs of ``fit``.
        higher_is_better: whether the largest value of it is the best one.
        limit: how many of the best to keep; None keeps every one.

    Raises:
        JobError: at the end of an epoch whose logs lack ``monitor``.
    """

    def __init__(self, run: Run, monitor: str = "val_loss", higher_is_better: bool = False, limit: int | None = 3) -> None:
        super().__init__()
        self._run, self._monitor, self._higher_is_better, self._limit = run, monitor, higher_is_better, limit

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, rank, and remove the worst."""
        value = _value(self._monitor, logs)
        self._run.add_checkpoint(self.model, epoch + 1, value)
        self._run.keep_best(self._limit or epoch + 1, self._higher_is_better)


class History(keras.callbacks.Callback):
    """Write every epoch's metrics to the run's history, one row an epoch."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._rows: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the history anew, with this epoch in it."""
        self._rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        self._run.write_history(self._rows)


class StopOnNaN(keras.callbacks.Callback):
    """Stop as soon as the loss is no number: nothing that is learnt afterwards would be worth keeping."""

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Raise JobError where the loss is NaN or infinite."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            raise JobError(
                f"the loss became {loss} at batch {batch + 1} of an epoch. Try a smaller --learning_rate; "
                "if the loss is your own, look for a division or a logarithm of zero."
            )


def _value(monitor: str, logs: Any) -> float:
    if monitor not in (logs or {}):
        raise JobError(f"there is no metric {monitor!r} to rank checkpoints by; the epoch has {', '.join(logs or {})}.")
    return float(logs[monitor])
