"""Tests of this project: `python -m pytest`. CHANGE them along with the project."""

import keras
import numpy as np
import pytest

import config
from datagen import BatchGenerator, ImageGenerator
from kerakit import training
from kerakit.models import build_model
from reader import DataReader
from task import get_task

SIZE = (64, 48)


@pytest.fixture(scope="module")
def reader() -> DataReader:
    return DataReader()


def test_every_image_is_in_exactly_one_split(reader: DataReader) -> None:
    splits = np.concatenate([reader.indices(mode) for mode in ("train", "val", "test")])
    assert sorted(splits) == list(range(len(reader)))


def test_a_batch_has_images_and_targets(reader: DataReader) -> None:
    task = get_task(reader.class_names).adapt(reader)
    batches = BatchGenerator(reader, batch_size=4, input_size=SIZE, jitter=True, task=task)
    images, targets = batches[0]
    assert images.shape == (4, SIZE[1], SIZE[0], 3)
    assert images.dtype == np.uint8
    assert all(len(array) == 4 for array in keras.tree.flatten(targets))


def test_calibration_images_are_not_augmented(reader: DataReader) -> None:
    images = ImageGenerator(reader, SIZE)
    assert set(images.keys(len(images))) == {reader.key(i) for i in reader.indices("train")}
    plain = BatchGenerator(reader, batch_size=1, input_size=SIZE)
    first = [reader.key(i) for i in plain.epoch_order(0)].index(images.keys(1)[0])
    np.testing.assert_array_equal(next(iter(images)), plain.sample(first)[0])


@pytest.mark.parametrize("name", config.MODELS)
def test_every_model_fits_task_and_loss(name: str, reader: DataReader) -> None:
    task = get_task(reader.class_names).adapt(reader)
    model, _ = build_model(config.MODELS[name], SIZE, task)
    task.check_model(model)
    batch = BatchGenerator(reader, batch_size=2, input_size=SIZE, task=task).load_batch(0)
    args = config.TrainConfig.model_validate({"save_to": "progress/none"})
    model.compile("sgd", **task.compile_options(model, args))
    training.check_batch(model, task, batch)
