"""Keras callbacks that write whole files and keep what was best."""

from __future__ import annotations

import math
from typing import Any

import keras

from kerakit.errors import JobError
from kerakit.run import Run
from kerakit.training.plots import draw_curves


class Checkpoints(keras.callbacks.Callback):
    """Save the weights after each epoch, written whole, ranked by one metric.

    Where ``fit`` trains only a part of ``model`` (a head on features), an epoch may take less time than its checkpoint: then
    the best weights of the part are kept in memory, and at the end they are put back and saved once.

    Args:
        run: where to.
        monitor: the name of a metric, as in the logs of ``fit``.
        higher_is_better: whether the largest value of it is the best one.
        limit: how many of the best to keep; None keeps every one.
        model: whose weights to save; default: the model that is fitted.

    Raises:
        JobError: at the end of an epoch whose logs lack ``monitor``.
    """

    def __init__(
        self,
        run: Run,
        monitor: str = "val_loss",
        higher_is_better: bool = False,
        limit: int | None = 3,
        model: keras.Model | None = None,
    ) -> None:
        super().__init__()
        self._run, self._monitor, self._higher_is_better, self._limit = run, monitor, higher_is_better, limit
        self._whole = model
        self._best: tuple[float, int, float, Any] | None = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, rank, and remove the worst."""
        value = _value(self._monitor, logs)
        if self._whole is None or self.model is self._whole:
            self._save(self.model, epoch + 1, value)
            return
        rank = math.inf if not math.isfinite(value) else -value if self._higher_is_better else value
        if self._best is None or rank <= self._best[0]:
            self._best = rank, epoch + 1, value, self.model.get_weights()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Save what was kept in memory."""
        if self._best is not None and self._whole is not None:
            _, epoch, value, weights = self._best
            self._best = None
            self.model.set_weights(weights)
            self._save(self._whole, epoch, value)

    def _save(self, model: keras.Model, epoch: int, value: float) -> None:
        self._run.add_checkpoint(model, epoch, value)
        self._run.keep_best(self._limit or epoch, self._higher_is_better)


class History(keras.callbacks.Callback):
    """Write every epoch's metrics to the run's history, one row an epoch, and draw them at the end."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._rows: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the history anew, with this epoch in it."""
        self._rows.append({"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}})
        self._run.write_history(self._rows)

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Draw the curves."""
        if self._rows:
            draw_curves(self._rows, self._run.plots / "curves.png")


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
