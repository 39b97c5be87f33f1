"""A trained run, opened again: its data and its model, as deploy.py, evaluate.py and predict.py need them."""

from __future__ import annotations

from pathlib import Path

import keras

import config
from datagen import BatchGenerator
from kerakit.data.reader import check_class_names, held_out_mode
from kerakit.models import build
from kerakit.run import load_weights
from reader import DataReader


def reader(trained: config.TrainConfig, data_dir: Path | None) -> DataReader:
    """Return the reader of ``data_dir``, or of what the run was trained on, split as it was then.

    Raises:
        UserError: it has other classes than the model.
    """
    found = DataReader(data_dir or trained.data_dir, seed=trained.seed)
    check_class_names(found, trained.class_names)
    return found


def held_out(trained: config.TrainConfig, data: DataReader) -> BatchGenerator:
    """Return the test images, or the validation images where there are none, as the model takes them."""
    return BatchGenerator(data, held_out_mode(data), input_size=trained.input_size)


def model(trained: config.TrainConfig, weights: Path) -> keras.Model:
    """Return the model that config.py and models/ describe, with the weights of a checkpoint."""
    built, _ = build(config.MODELS[trained.model], trained.input_size, len(trained.class_names))
    load_weights(built, weights)
    return built
