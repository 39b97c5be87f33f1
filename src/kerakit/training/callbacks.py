"""Keras callbacks: checkpoints, history, progress, and termination on a NaN loss."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras

from kerakit.checkpoint import sort_key
from kerakit.errors import JobError, list_names
from kerakit.report import charts
from kerakit.run import Run
from kerakit.training.outputs import Output

SECONDS_BETWEEN_LINES = 1
"""Smallest interval between two lines of ``EpochLogger``."""

SECONDS_BETWEEN_SAVES = 10
"""Smallest interval between two checkpoints of a part: the work that a crash may cost."""


class Checkpoints(keras.callbacks.Callback):
    """Saves the weights after each epoch, and ranks them by one metric.

    If ``fit`` trains only a part of ``model`` (a head on features), an epoch may be shorter than
    writing a checkpoint. Then the best weights of the part are kept in memory, written at most
    every SECONDS_BETWEEN_SAVES, and restored at the end.

    If a checkpoint cannot be written, training continues with a warning; the best weights that are
    not written stay in memory until a later checkpoint is written.

    Args:
        run: the run folder.
        monitor: name of a metric in the logs of ``fit``.
        higher_is_better: whether larger values of ``monitor`` are better.
        limit: number of best checkpoints to keep; None: all.
        model: the model whose weights are saved; default: the fitted model.

    Attributes:
        monitor: as given.

    Raises:
        JobError: at the end of an epoch whose logs lack ``monitor``.

    >>> Checkpoints(Run("progress/test"), monitor="val_accuracy", higher_is_better=True).monitor
    'val_accuracy'
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
        self._last_save = -math.inf
        self._unwritten: tuple[float, int, float, Any] | None = None
        self.outputs = [Output("checkpoint")]

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Forget the part of the phase before."""
        self._best, self._last_save = None, -math.inf  # the first epoch is saved at once

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Save, rank, and remove the worst."""
        value = _read_metric(self.monitor, logs)
        if self._whole is None or self.model is self._whole:
            self._save(self.model, epoch + 1, value)
            return
        rank = sort_key(value, self._higher_is_better)
        if self._best is None or rank <= self._best[0]:
            self._best = rank, epoch + 1, value, self.model.get_weights()
            if time.monotonic() - self._last_save > SECONDS_BETWEEN_SAVES:
                self._save(self._whole, epoch + 1, value)
                self._last_save = time.monotonic()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Restore and save the best weights; also after an error or Ctrl-C."""
        if self._best is not None and self._whole is not None:
            _, epoch, value, weights = self._best
            self._best = None
            self.model.set_weights(weights)
            if epoch not in (saved.epoch for saved in self._run.list_checkpoints()):
                self._save(self._whole, epoch, value)
        if self._unwritten is not None:
            self._write_unwritten(self._whole or self.model)

    def get_state(self) -> dict[str, Any]:
        """Return the best weights of the part, and those that are not written, for a resume."""
        state: dict[str, Any] = {} if self._best is None else _to_state(self._best)
        if self._unwritten is not None:
            state["unwritten"] = _to_state(self._unwritten)
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._best = self._from_state(state) if "weights" in state else None
        unwritten = state.get("unwritten")
        self._unwritten = self._from_state(unwritten) if unwritten else None

    def _from_state(self, state: dict[str, Any]) -> tuple[float, int, float, Any]:
        value = state["value"]
        return sort_key(value, self._higher_is_better), state["epoch"], value, state["weights"]

    def _save(self, model: keras.Model, epoch: int, value: float) -> None:
        """Save; where that fails, hold the weights if they are the best of those not written."""
        self._write(model, epoch, value)
        if self.outputs[0].failure:
            rank = sort_key(value, self._higher_is_better)
            if self._unwritten is None or rank <= self._unwritten[0]:
                self._unwritten = rank, epoch, value, model.get_weights()
        elif self._unwritten is not None:
            self._write_unwritten(model)

    def _write_unwritten(self, model: keras.Model) -> None:
        """Write the weights that could not be written before."""
        assert self._unwritten is not None  # noqa: S101 - by the callers
        _, epoch, value, weights = self._unwritten
        current = model.get_weights()
        model.set_weights(weights)
        try:
            self._write(model, epoch, value)
        finally:
            model.set_weights(current)
        if not self.outputs[0].failure:
            self._unwritten = None

    def _write(self, model: keras.Model, epoch: int, value: float) -> None:
        """Write, unless an earlier attempt at this epoch, before a resume, was as good."""
        rank = sort_key(value, self._higher_is_better)
        with self.outputs[0].writing(f"checkpoint of epoch {epoch}"):
            for saved in self._run.list_checkpoints():
                is_as_good = sort_key(saved.value, self._higher_is_better) <= rank
                if saved.epoch == epoch and is_as_good and self._run.is_intact(saved):
                    return
            self._run.add_checkpoint(model, epoch, value, self._limit, self._higher_is_better)


def _to_state(best: tuple[float, int, float, Any]) -> dict[str, Any]:
    _, epoch, value, weights = best
    return {"epoch": epoch, "value": value, "weights": list(weights)}


class HistoryWriter(keras.callbacks.Callback):
    """Writes metrics and learning rate to history.csv, one row per epoch; plots them at the end.

    The learning rate is that of the last step of an epoch. It is added to the logs, where later
    callbacks such as trackers find it.

    Attributes:
        phase_starts: the first epoch of each ``fit``, counted from 1.

    >>> HistoryWriter(Run("progress/test")).phase_starts
    []
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._rows: list[dict[str, float]] = []
        self.phase_starts: list[int] = []
        self.outputs = [Output("history.csv"), Output("plots/curves.png")]

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Record the start of a phase."""
        self.phase_starts.append(len(self._rows) + 1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Write the history up to this epoch."""
        logs = {} if logs is None else logs
        # Keras's own schedulers add it, too, but may come later.
        logs.setdefault("learning_rate", float(self.model.optimizer.learning_rate))
        metrics = {name: float(value) for name, value in logs.items()}
        self._rows.append({"epoch": epoch + 1, **metrics})
        with self.outputs[0].writing():
            self._run.write_history(self._rows)

    def get_state(self) -> dict[str, Any]:
        """Return the rows, for a resume."""
        return {"rows": self._rows, "phase_starts": self.phase_starts}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state; later rows of the file are removed."""
        self._rows, self.phase_starts = state["rows"], state["phase_starts"]
        if self._rows:
            self._run.write_history(self._rows)

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Plot the curves."""
        if not self._rows:
            return
        if self.outputs[0].failure:
            with self.outputs[0].writing():
                self._run.write_history(self._rows)
        with self.outputs[1].writing():
            self._run.check_intact()
            charts.save_png(charts.plot_curves(self._rows), self._run.plots / "curves.png")


class FailOnNaN(keras.callbacks.Callback):
    """Stops training on a NaN or infinite loss, with an error that names the images.

    Args:
        batches: the training dataset; ``batches.batch_keys(i)`` returns the keys of batch ``i``.

    >>> FailOnNaN(batches=None).on_train_batch_end(0, {"loss": 0.5})
    """

    def __init__(self, batches: Any) -> None:
        super().__init__()
        self._batches = batches
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Record the epoch for the message."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Raise JobError if the loss is NaN or infinite."""
        loss = (logs or {}).get("loss", 0.0)
        if not math.isfinite(loss):
            keys = self._batches.batch_keys(batch)
            raise JobError(
                f"the loss is {loss} at batch {batch + 1} of epoch {self._epoch + 1}, with the "
                f"images {list_names(keys)}. Earlier checkpoints are kept. Try a smaller "
                "--learning_rate; in a custom loss, look for a division by zero or a logarithm of "
                "zero."
            )


class StepScheduler(keras.callbacks.Callback):
    """Sets the learning rate before each step; ``keras.callbacks.LearningRateScheduler`` per step.

    The optimizer holds a number, so other callbacks can set it, such as ``ReduceLROnPlateau``.
    Where one does, its value stays, and the schedule ends.

    Args:
        schedule: function from the number of steps done to the learning rate, such as a
            ``keras.optimizers.schedules.LearningRateSchedule``.

    Attributes:
        first_step: step of the schedule at which the optimizer was created; not 0 where a training
            was resumed with other batches.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile(keras.optimizers.SGD(1.0), "mse")
    >>> data = keras.ops.ones((4, 2)), keras.ops.ones((4, 1))
    >>> halves = StepScheduler(lambda step: 0.5 ** (step + 1))
    >>> _ = model.fit(*data, batch_size=2, verbose=0, callbacks=[halves])
    >>> float(model.optimizer.learning_rate)
    0.25
    """

    def __init__(self, schedule: Callable[[int], Any]) -> None:
        super().__init__()
        self._schedule = schedule
        self._last: float | None = None
        self._has_ended = False
        self.first_step = 0

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Start the schedule; a callback of the start of an epoch sees its first value."""
        self._last, self._has_ended = None, False
        self._set(self.model.optimizer)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Set the learning rate, unless another callback has set it."""
        if self._has_ended:
            return
        optimizer = self.model.optimizer
        current = float(optimizer.learning_rate)
        if current != self._last:
            self._has_ended = True
            print(f"learning rate: {current:.3g}, set by a callback; the schedule ends", flush=True)
            return
        self._set(optimizer)

    def get_state(self) -> dict[str, Any]:
        """Return the position in the schedule, for a resume."""
        return {"last": self._last, "ended": self._has_ended, "first_step": self.first_step}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue from a state."""
        self._last, self._has_ended = state["last"], state["ended"]
        self.first_step = state["first_step"]

    def _set(self, optimizer: Any) -> None:
        step = self.first_step + int(optimizer.iterations)
        optimizer.learning_rate = float(self._schedule(step))
        self._last = float(optimizer.learning_rate)  # rounded to float32


class EpochLogger(keras.callbacks.Callback):
    """Prints one line per epoch; with short epochs, one line per SECONDS_BETWEEN_LINES.

    >>> logger = EpochLogger()
    >>> logger.set_params({"epochs": 2})
    >>> logger.on_train_begin(), logger.on_epoch_end(0, {"loss": 0.5})
    epoch 1/2 - loss: 0.5000
    (None, None)
    """

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Start a phase."""
        self._last_line, self._pending = -math.inf, ""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Print the metrics of the epoch."""
        metrics = "".join(f" - {name}: {_format(value)}" for name, value in (logs or {}).items())
        self._pending = f"epoch {epoch + 1}/{self.params['epochs']}{metrics}"
        if time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES:
            print(self._pending, flush=True)
            self._last_line, self._pending = time.monotonic(), ""

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Print the last epoch."""
        if self._pending:
            print(self._pending, flush=True)


def _format(value: float) -> str:
    """Return a metric in the format of the progress bar of Keras."""
    return f"{value:.4f}" if abs(value) > 1e-3 or value == 0 else f"{value:.4e}"


def _read_metric(monitor: str, logs: Any) -> float:
    if monitor not in (logs or {}):
        raise JobError(
            f"there is no metric {monitor!r} to rank checkpoints by; available: "
            f"{', '.join(logs or {})}."
        )
    return float(logs[monitor])
