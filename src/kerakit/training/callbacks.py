"""Keras callbacks that write whole files and keep what was best."""

from __future__ import annotations

import math
import time
from typing import Any

import keras

from kerakit.errors import JobError
from kerakit.report.plots import draw_curves
from kerakit.run import Run

SECONDS_A_LINE = 1
"""Between two lines of ``Lines``."""

SAVE_EVERY_S = 10
"""Between two checkpoints of a part, in seconds: what a crash may cost."""


class Checkpoints(keras.callbacks.Callback):
    """Save the weights after each epoch, written whole, ranked by one metric.

    Where ``fit`` trains only a part of ``model`` (a head on features), an epoch may take less time than its checkpoint: then
    the best weights of the part are kept in memory, saved at most every SAVE_EVERY_S seconds, and put back at the end.

    Args:
        run: where to.
        monitor: the name of a metric, as in the logs of ``fit``.
        higher_is_better: whether the largest value of it is the best one.
        limit: how many of the best to keep; None keeps every one.
        model: whose weights to save; default: the model that is fitted.

    Attributes:
        monitor: as given.

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
        self.monitor = monitor
        self._run, self._higher_is_better, self._limit = run, higher_is_better, limit
        self._whole = model
        self._best: tuple[float, int, float, Any] | None = None
        self._saved = -math.inf

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Forget the part that was trained before."""
        self._best, self._saved = None, time.monotonic()

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, rank, and remove the worst."""
        value = _value(self.monitor, logs)
        if self._whole is None or self.model is self._whole:
            self._save(self.model, epoch + 1, value)
            return
        rank = math.inf if not math.isfinite(value) else -value if self._higher_is_better else value
        if self._best is None or rank <= self._best[0]:
            self._best = rank, epoch + 1, value, self.model.get_weights()
            if time.monotonic() - self._saved > SAVE_EVERY_S:
                self._save(self._whole, epoch + 1, value)
                self._saved = time.monotonic()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Put back and save what was best: at the end, and where an error or Ctrl-C ends the training."""
        if self._best is not None and self._whole is not None:
            _, epoch, value, weights = self._best
            self._best = None
            self.model.set_weights(weights)
            if epoch not in (kept.epoch for kept in self._run.list_checkpoints()):
                self._save(self._whole, epoch, value)

    def _save(self, model: keras.Model, epoch: int, value: float) -> None:
        self._run.add_checkpoint(model, epoch, value)
        self._run.prune_checkpoints(self._limit or epoch, self._higher_is_better)


class History(keras.callbacks.Callback):
    """Write every epoch's metrics to the run's history, one row an epoch, and draw them at the end.

    Attributes:
        starts: the first epoch of each ``fit``, counted from 1.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._rows: list[dict[str, float]] = []
        self.starts: list[int] = []

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Note where this phase begins."""
        self.starts.append(len(self._rows) + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the history anew, with this epoch in it."""
        self._rows.append(
            {"epoch": epoch + 1, **{name: float(value) for name, value in (logs or {}).items()}}
        )
        self._run.write_history(self._rows)

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Draw the curves."""
        if self._rows:
            draw_curves(self._rows, self._run.plots / "curves.png")


class StopOnNaN(keras.callbacks.Callback):
    """Stop as soon as the loss is no number: nothing that is learnt afterwards would be worth keeping.

    Args:
        batches: what is trained on; ``batches.keys(i)`` names the images of batch ``i``.
    """

    def __init__(self, batches: Any) -> None:
        super().__init__()
        self._batches = batches

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Note it for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Raise JobError where the loss is NaN or infinite."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            keys = self._batches.keys(batch)
            raise JobError(
                f"the loss became {loss} at batch {batch + 1} of epoch {self._epoch + 1}, with the images {', '.join(keys[:3])}"
                f"{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}. What was best until then is kept. Try a smaller "
                "--learning_rate; if the loss is your own, look for a division or a logarithm of zero."
            )


class Lines(keras.callbacks.Callback):
    """Print how the training of a part goes: a line an epoch, where epochs are short one every SECONDS_A_LINE."""

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Begin to count."""
        self._said = -math.inf

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print the epoch's metrics."""
        self._line = f"epoch {epoch + 1}/{self.params['epochs']}" + "".join(
            f" - {name}: {value:.4f}" for name, value in (logs or {}).items()
        )
        if time.monotonic() - self._said > SECONDS_A_LINE:
            print(self._line, flush=True)
            self._said, self._line = time.monotonic(), ""

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Print the last epoch."""
        if self._line:
            print(self._line, flush=True)


def _value(monitor: str, logs: Any) -> float:
    if monitor not in (logs or {}):
        raise JobError(
            f"there is no metric {monitor!r} to rank checkpoints by; the epoch has {', '.join(logs or {})}."
        )
    return float(logs[monitor])
