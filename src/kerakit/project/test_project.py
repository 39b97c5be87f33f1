"""Tests of this project: `python -m pytest`. CHANGE them along with the project."""

import numpy as np
import pytest

import config
from datagen import BatchGenerator, ImageGenerator
from kerakit.models import build_model
from reader import DataReader
from task import get_task

SIZE = (32, 24)


@pytest.fixture(scope="module")
def reader() -> DataReader:
    return DataReader()


def test_every_image_is_in_exactly_one_split(reader: DataReader) -> None:
    splits = np.concatenate([reader.indices(mode) for mode in ("train", "val", "test")])
    assert sorted(splits) == list(range(len(reader)))


def test_a_batch_has_images_and_targets(reader: DataReader) -> None:
    batches = BatchGenerator(reader, "train", batch_size=4, input_size=SIZE, jitter=True)
    images, targets = batches[0]
    assert images.shape == (4, SIZE[1], SIZE[0], 3)
    assert images.dtype == np.uint8
    assert set(targets) <= set(range(len(reader.class_names)))


def test_calibration_images_are_class_balanced_and_not_augmented(reader: DataReader) -> None:
    images = ImageGenerator(reader, SIZE)
    count = len(reader.class_names)
    labels = {reader.key(i): reader.target(i) for i in reader.indices("train")}
    assert sorted(labels[key] for key in images.keys(count)) == list(range(count))
    plain = BatchGenerator(reader, "train", batch_size=1, input_size=SIZE)
    np.testing.assert_array_equal(next(iter(images)), plain[0][0][0])


@pytest.mark.parametrize("name", config.MODELS)
def test_every_model_returns_a_probability_per_class(name: str) -> None:
    model, _ = build_model(config.MODELS[name], (48, 32), get_task(("a", "b", "c")))
    scores = np.asarray(model(np.zeros((2, 32, 48, 3), np.uint8)))
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
