"""The first test of this project. Run it with `python -m pytest`; CHANGE it along with the project."""

import numpy as np
import pytest

import config
from datagen import BatchGenerator, ImageGenerator
from reader import DataReader

SIZE = (32, 24)


@pytest.fixture(scope="module")
def reader() -> DataReader:
    return DataReader()


def test_every_image_is_in_exactly_one_split(reader: DataReader) -> None:
    splits = np.concatenate([reader.indices(mode) for mode in ("train", "val", "test")])
    assert sorted(splits) == list(range(len(reader)))


def test_a_batch_holds_pixels_and_targets(reader: DataReader) -> None:
    images, targets = BatchGenerator(reader, "train", batch_size=4, input_size=SIZE, jitter=True)[0]
    assert images.shape == (4, SIZE[1], SIZE[0], 3)
    assert images.dtype == np.uint8
    assert set(targets) <= set(range(len(reader.class_names)))


def test_images_for_calibration_are_training_images_of_each_class_as_they_are(
    reader: DataReader,
) -> None:
    generator = ImageGenerator(reader, SIZE)
    as_they_are = BatchGenerator(reader, "train", batch_size=1, input_size=SIZE)
    np.testing.assert_array_equal(next(iter(generator)), as_they_are[0][0][0])
    class_of = {reader.key(i): reader.target(i) for i in reader.indices("train")}
    assert sorted(class_of[key] for key in generator.keys(len(reader.class_names))) == list(
        range(len(reader.class_names))
    )


@pytest.mark.parametrize("name", config.MODELS)
def test_a_model_gives_a_probability_for_each_class(name: str) -> None:
    model = config.MODELS[name]((32, 48, 3), 5)
    scores = np.asarray(model(np.zeros((2, 32, 48, 3), np.uint8)))
    np.testing.assert_allclose(scores.sum(1), 1, rtol=1e-5)
