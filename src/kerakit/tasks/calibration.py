"""Thresholds of a task, chosen by the predictions of a model for validation images."""

from __future__ import annotations

from typing import Any

from kerakit.data.generator import BatchGenerator
from kerakit.inference import PredictFn, predict_batches
from kerakit.tasks.base import Task


def calibrate_task(task: Task, predict: PredictFn, held_out: Any) -> None:
    """Let ``task`` choose its thresholds on the validation images of the dataset of ``held_out``.

    Nothing is done for tasks that have no thresholds, or chose them at the end of the training, and
    where there are no validation images.

    Args:
        task: the task.
        predict: runs its inference model.
        held_out: generator of held-out images; arrays have no validation images.
    """
    is_due = task.has_thresholds() and not task.is_calibrated
    if not is_due or not isinstance(held_out, BatchGenerator):
        return
    if not len(held_out.data_reader.indices("val")):
        return
    batches = held_out.of_mode("val")
    try:
        outputs, targets = predict_batches(predict, batches)
    finally:
        batches.close()
    task.calibrate(task.decode(outputs), targets)
    task.is_calibrated = True
