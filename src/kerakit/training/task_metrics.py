"""Metrics of the task after each epoch, for tasks whose metrics Keras lacks."""

from __future__ import annotations

from typing import Any

import keras

from kerakit.inference import keras_predict_fn, predict_batches
from kerakit.tasks.base import Task


class TaskMetrics(keras.callbacks.Callback):
    """Adds the metrics of ``task.score`` for the validation data to the logs of each epoch.

    Their names begin with "val_". Callbacks after this one see them. Nothing is computed where
    Keras has measured ``task.monitor`` and the main metric already. With ``fit`` on the part of a
    model above frozen layers, the inputs are features.

    Args:
        task: the task.
        val: batches of (inputs, targets) that ``fit`` validates with.

    >>> from kerakit.tasks import Classification
    >>> metrics = TaskMetrics(Classification(["cat", "dog"]), val=[])
    >>> metrics.on_epoch_end(0, {"val_loss": 0.5, "val_accuracy": 0.9})
    """

    def __init__(self, task: Task, val: Any) -> None:
        super().__init__()
        self._task, self._val = task, val
        self._predict: Any = None

    def set_model(self, model: keras.Model) -> None:
        """Forget the function that runs the model of another ``fit``."""
        super().set_model(model)
        self._predict = None

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002 - Keras's signature
        """Add the metrics to ``logs``."""
        logs = {} if logs is None else logs
        if {self._task.monitor, f"val_{self._task.main_metric}"} <= logs.keys():
            return
        if isinstance(self.model.output, list) and len(self.model.outputs) > 1:
            return  # of a task of the owner's own, for which Keras has metrics per output
        # Not once per epoch: Keras traces the graph of each new model.
        if self._predict is None:
            self._predict = keras_predict_fn(self._task.inference_model(self.model))
        outputs, targets = predict_batches(self._predict, self._val)
        scores = self._task.score(self._task.decode(outputs), targets)
        logs.update({f"val_{name}": value for name, value in scores.items()})
