"""The callback that saves and restores the state of a training, and batches from a position on."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit import __version__, world
from kerakit.inference import compiled_call
from kerakit.signals import shielded
from kerakit.state_folder import SavedState
from kerakit.training.backend_state import (
    collect_generators,
    name_optimizer,
    restore_generators,
    restore_variables,
    to_numpy,
)
from kerakit.training.callbacks import StepScheduler
from kerakit.training.outputs import Output
from kerakit.training.tensorboard_logs import measure_logs
from kerakit.training.throughput import ThroughputMonitor

if TYPE_CHECKING:
    from kerakit.training.resume import TrainingState

MAX_FRACTION = 0.02
"""Largest fraction of the time that saving takes."""

LONG_VALIDATION = 10
"""Seconds of a validation before which the state is saved: a kill would repeat the last steps."""


class StateSaver(keras.callbacks.Callback):
    """Saves and restores the state of a training; the last one of the callbacks of ``fit``.

    Args:
        state: the state of the run.
        callbacks: the other callbacks.
        remaining: the batches of the epoch in which a resumed training continues.
    """

    def __init__(
        self,
        state: TrainingState[Any],
        callbacks: Sequence[keras.callbacks.Callback],
        remaining: Remaining | None,
    ) -> None:
        super().__init__()
        self._state, self._callbacks, self._remaining = state, list(callbacks), remaining
        state.callback_states.add(callbacks)
        self._position = state.first_epoch, 0
        self._skipped = 0  # batches of the current epoch that were trained before
        self._train_function: Any = None
        self._saved: SavedState | None = None
        self._skipped_logs: dict[str, float] = {}
        self._saved_position: tuple[int, int] | None = None
        self._last_save, self._cost = 0.0, 0.0
        self._validation_start = self._validation_seconds = 0.0
        self._output = Output("saved state")

    # ------------------------------------------------------------------------ callbacks of Keras

    def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Restore the state, if there is one."""
        self._state.signals.defer(True)
        for model in (self._state.model, self.model):
            name_optimizer(getattr(model, "optimizer", None))
        saved, self._state.saved = self._state.saved, None
        self._last_save = time.monotonic()
        if saved is not None:
            self._restore(saved)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Skip the steps of the epoch that were done before."""
        self._skipped = 0
        if self._remaining is not None:
            # Keras has just reset the metrics.
            self._remaining.is_active = epoch == self._state.first_epoch
            if self._remaining.is_active:
                self._skipped = self._remaining.start
                assert self._saved is not None  # noqa: S101 - _restore() was called
                restore_variables("metrics", self.model.metrics_variables, self._saved)
                metrics = self.model.get_metrics_result()
                self._skipped_logs = {name: float(value) for name, value in metrics.items()}
                self._train_function = self.model.train_function
                self.model.train_function = self._skip_step
        self._position = epoch, self._skipped
        for callback in self._callbacks:
            if isinstance(callback, ThroughputMonitor):
                callback.is_paused = self._skipped > 0
        if self._skipped == 0:
            self._restore_function()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Train again from the first step that was not done."""
        if self._train_function is not None and batch >= self._skipped:
            self._restore_function()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Save after some minutes, on Ctrl-C and SIGTERM, and before a long validation."""
        if batch < self._skipped:
            if batch + 1 >= self._skipped and self._saved is not None:
                # Callbacks have counted the skipped steps, and set the learning rate.
                self._restore_all(self._saved, ("model", "part", "optimizer", "metrics"))
            return
        self._position = self._position[0], batch + 1
        is_last = batch + 1 >= self.params["steps"]
        minutes = self._state.args.save_minutes
        if self._is_stop_requested():
            self._save()
            self._state.signals.stop()
        elif (minutes and self._is_due(minutes * 60)) or (
            is_last and self._validation_seconds > LONG_VALIDATION and self._is_due(0)
        ):
            self._save()
        if is_last:
            self._validation_start = time.monotonic()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Stop on Ctrl-C and SIGTERM, if the steps of the epoch are saved."""
        # Several processes have not saved at the same time: they stop at the end of the epoch.
        is_saved = self._saved_position == self._position and world.current.size == 1
        if self._state.signals.requested and is_saved:
            self._state.signals.stop()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Save where that takes little time, always after the last epoch."""
        self._restore_function()
        self._position = epoch + 1, 0
        self._validation_seconds = time.monotonic() - self._validation_start
        self._state.epochs_done = epoch + 1
        requested = self._is_stop_requested()
        if requested or self._is_done() or self._is_due(0):
            self._save()
        elif self._output.failure:
            self._output.warn()
        if requested:
            self._state.signals.stop()

    def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """End the phase."""
        self._state.signals.defer(False)
        self._state.epochs_done = self._position[0]
        if self._is_stop_requested():
            self._state.signals.stop()
        if self._position[0] < self._state.last_epoch:
            print(f"stopped after epoch {self._position[0]}, before the last one", flush=True)

    # -------------------------------------------------------------------------------- internals

    def _is_due(self, seconds: float) -> bool:
        """Whether the last save is so long ago, and a save takes little of the time since."""
        elapsed = time.monotonic() - self._last_save
        return elapsed >= max(seconds, self._cost / MAX_FRACTION)

    def _is_stop_requested(self) -> bool:
        """Whether a signal was received, by any of the processes; they stop after the same step."""
        signals = self._state.signals
        if world.current.size == 1:
            return signals.requested is not None
        (number,) = world.current.maximum(signals.requested or 0)
        if number:  # one that was received meanwhile counts at the next step
            signals.requested, signals.is_agreed = number, True
        return number > 0

    def _is_done(self) -> bool:
        return self._position[0] >= self._state.last_epoch or bool(self.model.stop_training)

    def _save(self) -> None:
        """Save the state; a failure is printed, and training continues."""
        start = time.monotonic()
        if not world.current.is_main:
            self._last_save = start
            return
        with shielded():
            with self._output.writing():
                self._state.run.check_intact()
                self._state.folder.save(*self._collect())
            if not self._output.failure:
                self._saved_position = self._position
            self._last_save = time.monotonic()
            self._cost = self._last_save - start
            self._state.saves_seconds += self._cost

    def _collect(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Return the state: values for JSON, and arrays."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        state = self._state
        arrays: dict[str, NDArray[Any]] = {}
        for group, variables in self._variables().items():
            for i, variable in enumerate(variables):
                arrays[f"{group}/{i:05d}"] = to_numpy(variable)
        arrays.update(collect_generators())
        callbacks = state.callback_states.collect(self._callbacks, arrays)
        epoch, batch = self._position
        values = {
            "kerakit": __version__,
            "backend": keras.backend.backend(),
            "phase": state.phase,
            "phase_start": state.phase_start,
            "epoch": epoch,
            "batch": batch,
            "steps": self.params["steps"],
            "stopped": bool(self.model.stop_training),
            "seconds": state.seconds,
            "recalled": state.recalled,
            "callbacks": callbacks,
            "logs": measure_logs(state.run.logs, self._callbacks),
        }
        return values, arrays

    def _variables(self) -> dict[str, list[Any]]:
        """Return the variables of the training by group, each once."""
        whole = self._state.model or self.model
        model = list(whole.variables)
        known = {id(variable) for variable in model}
        part = [variable for variable in self.model.variables if id(variable) not in known]
        return {
            "model": model,
            "part": part,
            "optimizer": list(self.model.optimizer.variables),
            "metrics": list(self.model.metrics_variables),
        }

    def _restore(self, saved: SavedState) -> None:
        """Set all variables and callbacks to the saved state."""
        values = saved.values
        if values["backend"] != keras.backend.backend():
            print(
                f"WARNING: the state was saved with {values['backend']} and is continued with "
                f"{keras.backend.backend()}: the results differ in their last digits.",
                flush=True,
            )
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        if self._remaining is not None:
            self._build_metrics()
            self._saved = saved
            self._position = self._state.first_epoch, self._remaining.start
        self._restore_all(saved, ("model", "part", "optimizer"))

    def _restore_all(self, saved: SavedState, groups: Sequence[str]) -> None:
        """Set groups of variables and the state of the callbacks."""
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        variables = self._variables()
        for group in groups:
            restore_variables(group, variables[group], saved)
        restore_generators(saved.arrays)
        values, steps = saved.values, self.params["steps"]
        self._state.callback_states.restore(self._callbacks, values["callbacks"], saved.arrays)
        if values["steps"] != steps:  # with another batch size
            done = (values["epoch"] - values["phase_start"]) * steps + self._position[1]
            for callback in self._callbacks:
                if isinstance(callback, StepScheduler):
                    callback.first_step = done - int(self.model.optimizer.iterations)

    def _build_metrics(self) -> None:
        """Create the variables of metrics, as the first step does: to be restored before it."""
        assert self._remaining is not None  # noqa: S101 - by the caller
        x, y, weights = keras.utils.unpack_x_y_sample_weight(_first_samples(self._remaining[0]))
        outputs = compiled_call(self.model)(x)
        self.model.compute_loss(x, y, outputs, weights, training=False)
        self.model.compute_metrics(x, y, outputs, weights)

    def _skip_step(self, *arguments: Any) -> Any:
        """Take the place of a step that was done before; its batch is dropped."""
        *state, batches = arguments
        if hasattr(batches, "__next__"):
            for _ in range(self.model.steps_per_execution):
                next(batches, None)
        return (self._skipped_logs, *state) if state else self._skipped_logs

    def _restore_function(self) -> None:
        if self._train_function is not None:
            self.model.train_function = self._train_function
            self._train_function = None


class Remaining(keras.utils.PyDataset):
    """Batches of which those before a position are not loaded.

    While ``is_active``, a batch before ``start`` is one sample, which is skipped.

    Args:
        batches: a ``keras.utils.PyDataset``.
        start: number of batches that are skipped.

    >>> import numpy as np
    >>> batches = Remaining([(np.ones((4, 2)), np.ones(4)), (np.ones((3, 2)), np.ones(3))], start=1)
    >>> batches.is_active = True
    >>> [len(images) for images, _ in (batches[0], batches[1])]
    [1, 3]
    """

    def __init__(self, batches: Any, start: int) -> None:
        super().__init__(workers=1)
        self.start, self.is_active = start, False
        self._batches = batches
        self._next: Any = None

    def __len__(self) -> int:
        """Return the number of batches of an epoch, the skipped ones included."""
        return len(self._batches)

    def __getitem__(self, i: int) -> Any:
        """Return batch ``i``, or a sample of a later one in its place."""
        if not self.is_active or i > self.start:
            self._next = None
            return self._batches[i]
        if self._next is None:
            self._next = self._batches[min(self.start, len(self) - 1)]
        return self._next if i == self.start else _first_samples(self._next)


def _first_samples(batch: Any) -> Any:
    """Return the first sample of a batch, as a batch; of one of several processes, zeros."""

    def first(array: Any) -> Any:
        if getattr(array, "is_fully_addressable", True):
            return array[:1]
        return np.zeros((1, *array.shape[1:]), array.dtype)

    return keras.tree.map_structure(first, batch)
