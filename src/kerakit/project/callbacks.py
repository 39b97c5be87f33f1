"""Callbacks: checkpoints, history, TensorBoard, early stopping, experiment trackers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

import kerakit
from kerakit import training
from task import TASK

# CHANGE: the metric that ranks checkpoints and stops the training, the number of saved checkpoints,
# and the number of epochs without improvement before early stopping.
MONITOR = TASK.monitor
HIGHER_IS_BETTER = MONITOR != "val_loss"
MAX_CHECKPOINTS = 3
PATIENCE = 10


def get(
    directory: Path | str,
    checkpoint: bool = True,
    tensorboard: bool = True,
    limit_checkpoints: bool = True,
    early_stopping: bool = True,
    overwrite: bool = False,
    resume: bool = False,
    model: keras.Model | None = None,
    track: Sequence[str] | None = None,
) -> list[keras.callbacks.Callback]:
    """Create the run folder ``directory`` and return the callbacks that fill it.

    Args:
        directory: run folder; created if it does not exist.
        checkpoint: save the weights after each epoch to ``ckpt/``.
        tensorboard: log for ``tensorboard --logdir`` to ``logs/``.
        limit_checkpoints: keep only the MAX_CHECKPOINTS best checkpoints.
        early_stopping: stop after PATIENCE epochs without improvement of MONITOR.
        overwrite: replace an existing run instead of raising an error.
        resume: continue an existing run.
        model: the model whose weights are saved; default: the model that is fitted.
        track: experiment trackers: "mlflow", "wandb".
    """
    run = kerakit.Run(directory)
    trackers = training.get_trackers(track or (), run)
    callbacks: list[keras.callbacks.Callback] = []
    if checkpoint:
        limit = MAX_CHECKPOINTS if limit_checkpoints else None
        callbacks.append(training.Checkpoints(run, MONITOR, HIGHER_IS_BETTER, limit, model))
    callbacks.append(training.HistoryWriter(run))
    if tensorboard:
        callbacks.append(training.TensorBoard(run.logs))
    if early_stopping:
        mode = "max" if HIGHER_IS_BETTER else "min"
        callbacks.append(keras.callbacks.EarlyStopping(MONITOR, patience=PATIENCE, mode=mode))
    callbacks += trackers
    # Last: an error above leaves an existing run as it is.
    training.check_callbacks(callbacks)
    run.create(overwrite, resume)
    return callbacks
