"""What happens at the end of each epoch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import keras

import kerakit
from kerakit.training import trackers
from kerakit.training.callbacks import Checkpoints, History

# CHANGE: what makes a checkpoint the best one, how many are kept, and after how many epochs without a better one to stop.
MONITOR = "val_loss"
HIGHER_IS_BETTER = False
CHECKPOINTS_KEPT = 3
PATIENCE = 10


def get(
    directory: Path | str,
    checkpoint: bool = True,
    tensorboard: bool = True,
    limit_checkpoints: bool = True,
    early_stopping: bool = True,
    overwrite: bool = False,
    model: keras.Model | None = None,
    track: Sequence[str] | None = None,
) -> list[keras.callbacks.Callback]:
    """Prepare the run folder ``directory`` and return the callbacks that fill it.

    Args:
        directory: of the run; made if it does not exist.
        checkpoint: save the weights after each epoch, to ``ckpt/``.
        tensorboard: log for ``tensorboard --logdir``, to ``logs/``.
        limit_checkpoints: keep the CHECKPOINTS_KEPT best checkpoints and remove the others.
        early_stopping: stop after PATIENCE epochs without a better MONITOR.
        overwrite: replace the run that ``directory`` holds already; False makes that an error.
        model: whose weights to save; default: the model that is fitted, which in a phase of the head is only a part of it.
        track: log to these, too, while a ``session`` lasts: "mlflow", "wandb".
    """
    run = kerakit.Run(directory)
    tracked = trackers.get(track or (), run)
    run.create(overwrite)
    callbacks: list[keras.callbacks.Callback] = []
    if checkpoint:
        limit = CHECKPOINTS_KEPT if limit_checkpoints else None
        callbacks.append(Checkpoints(run, MONITOR, HIGHER_IS_BETTER, limit, model))
    callbacks.append(History(run))
    if tensorboard:
        callbacks.append(keras.callbacks.TensorBoard(run.logs, write_graph=False))
    if early_stopping:
        mode = "max" if HIGHER_IS_BETTER else "min"
        callbacks.append(
            keras.callbacks.EarlyStopping(MONITOR, patience=PATIENCE, mode=mode, verbose=1)
        )
    return [*callbacks, *tracked]
