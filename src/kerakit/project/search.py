"""What --trials tries. CHANGE: to what may matter for your images."""

from __future__ import annotations

from typing import Any

import config
from kerakit.training.search import Search

# A column of history.csv, by which trials are compared: each by its best checkpoint. Mixing images or smoothing labels changes
# the scale of a loss, so that losses of different trials say little.
SCORE = "val_accuracy"
HIGHER_IS_BETTER = True

# Each was made for devices that calculate in int8.
SEARCHED_MODELS = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "mobilenet_v2",
    "mobilenet_v3_minimalistic",
)


def suggest(trial: Any, args: config.TrainConfig) -> dict[str, Any]:
    """Return the flags of one trial, by their names in config.py. What the command gives stays as it gives it.

    Args:
        trial: an ``optuna.Trial``: its ``suggest_float``, ``suggest_int``, ``suggest_categorical`` choose.
        args: the command's flags; ``args.model_fields_set`` names those that were given.
    """
    given = args.model_fields_set
    flags: dict[str, Any] = {}
    if "model" not in given:
        flags["model"] = trial.suggest_categorical("model", SEARCHED_MODELS)
    if "learning_rate" not in given:
        flags["learning_rate"] = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
    if "jitter" not in given:
        flags["jitter"] = trial.suggest_categorical("jitter", (False, True))
    if flags.get("jitter", args.jitter) and "jitter_strength" not in given:
        flags["jitter_strength"] = trial.suggest_float("jitter_strength", 0.5, 2)
    if "mixup" not in given:
        flags["mixup"] = trial.suggest_categorical("mixup", (0.0, 0.2))
    return flags


def run(args: config.TrainConfig) -> None:
    """Train ``args.trials`` times, and show which flags did best."""
    Search(args, suggest, SCORE, HIGHER_IS_BETTER).run()
