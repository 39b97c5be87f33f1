"""Hyperparameter search (train.py --trials N). CHANGE: the search space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import config
from kerakit.training import Search
from task import TASK

if TYPE_CHECKING:
    import optuna

# Column of history.csv that ranks the trials, each at its best checkpoint: the main metric of
# task.py on the validation images. Losses are not comparable, because MixUp and label smoothing
# change their scale.
SCORE = f"val_{TASK.main_metric}"
HIGHER_IS_BETTER = True

# Architectures that are designed for int8 devices.
SEARCHED_MODELS = (
    "efficientnet_lite0",
    "efficientnet_lite1",
    "mobilenet_v2",
    "mobilenet_v3_minimalistic",
)


def suggest(trial: optuna.trial.BaseTrial, args: config.TrainConfig) -> dict[str, Any]:
    """Return the flags of one trial, by name, except those of the command line.

    Args:
        trial: Optuna trial; see its methods ``suggest_float``, ``suggest_int`` and
            ``suggest_categorical``.
        args: flags; ``args.model_fields_set`` contains the names of those on the command line.
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
    if "mixup" not in given and "mixup" in TASK.mix_methods:
        flags["mixup"] = trial.suggest_categorical("mixup", (0.0, 0.2))
    return flags


def run(args: config.TrainConfig) -> None:
    """Run ``args.trials`` trials and report the best."""
    Search(args, suggest, SCORE, HIGHER_IS_BETTER).run()
