"""Features are what the backbone says, whoever computes them, and are found again by what they depend on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A  # noqa: N812
import keras
import numpy as np
import pytest

from kerakit import BatchGenerator, DataReader, UserError
from kerakit.training import features
from kerakit.training.features import FeatureBatches, FeatureStore
from kerakit.training.split_model import split
from projects import Project, write_image


class Generator(BatchGenerator):
    def get_aug_pipeline(self) -> Any:
        return A.Compose([A.HorizontalFlip(), A.RandomBrightnessContrast(p=1)])


def model() -> keras.Model:
    image = keras.Input((16, 20, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))


def test_they_are_what_keras_says(photos: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    whole = model()
    backbone, head = split(whole)
    generator = Generator(DataReader(photos), "train", 7, (20, 16), jitter=True)
    for epoch in (0, 3):
        found, targets = FeatureStore(backbone, tmp_path / "kept").compute(generator, epoch)
        generator.epoch = epoch
        batches = [generator[i] for i in range(len(generator))]
        generator.close()
        images = np.concatenate([images for images, _ in batches])
        np.testing.assert_array_equal(targets, np.concatenate([targets for _, targets in batches]))
        np.testing.assert_allclose(found, backbone.predict(images, verbose=0), atol=2e-5)
        np.testing.assert_allclose(
            head.predict(found, verbose=0), whole.predict(images, verbose=0), atol=2e-5
        )


def test_training_the_head_trains_the_model() -> None:
    whole = model()
    backbone, head = split(whole)
    before = [weight.copy() for weight in whole.get_weights()]
    head.compile("sgd", "sparse_categorical_crossentropy")
    head.fit(np.random.default_rng(0).random((32, 8)), np.arange(32) % 2, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, whole.get_weights(), strict=True)]
    assert changed == [False] * (len(changed) - 2) + [True, True]
    assert len(backbone.get_weights()) == len(changed) - 2


def test_a_second_time_they_are_found(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, _ = split(model())
    reader = DataReader(photos)
    first = FeatureStore(backbone, tmp_path).compute(BatchGenerator(reader, "train", 8, (20, 16)))

    def refuse(_: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(features, "_fastest", refuse)
    again = FeatureStore(backbone, tmp_path).compute(BatchGenerator(reader, "train", 8, (20, 16)))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    other, _ = split(model())
    for store, generator in (
        (FeatureStore(other, tmp_path), BatchGenerator(reader, "train", 8, (20, 16))),
        (FeatureStore(backbone, tmp_path), BatchGenerator(reader, "val", 8, (20, 16))),
        (FeatureStore(backbone, tmp_path), BatchGenerator(reader, "train", 8, (20, 16), seed=1)),
        (FeatureStore(backbone, tmp_path), Generator(reader, "train", 8, (20, 16), jitter=True)),
    ):
        with pytest.raises(AssertionError, match="computed again"):
            store.compute(generator)
    path = reader.image_path(int(reader.indices("train")[0]))
    write_image(path, 12345)
    os.utime(path, ns=(1, 1))
    with pytest.raises(AssertionError, match="computed again"):
        FeatureStore(backbone, tmp_path).compute(BatchGenerator(reader, "train", 8, (20, 16)))


def test_a_damaged_store_is_computed_anew(photos: Path, tmp_path: Path) -> None:
    backbone, _ = split(model())
    generator = BatchGenerator(DataReader(photos), "train", 8, (20, 16))
    first, _ = FeatureStore(backbone, tmp_path / "kept").compute(generator)
    first = np.array(first)
    paths = sorted((tmp_path / "kept").iterdir())
    assert [path.suffix for path in paths] == [".npy", ".npz"]
    for path in paths:
        whole = path.read_bytes()
        for damaged in (
            b"",
            whole[:100],
            whole[: len(whole) // 2],
            whole[:300] + b"\1\2\3\4" + whole[304:],
        ):
            path.unlink()
            path.write_bytes(damaged)
            again, _ = FeatureStore(backbone, tmp_path / "kept").compute(generator)
            np.testing.assert_array_equal(again, first)


def test_the_oldest_features_make_room(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, _ = split(model())
    generator = Generator(DataReader(photos), "train", 8, (20, 16), jitter=True)
    store = FeatureStore(backbone, tmp_path)
    size = len(generator.index) * 8 * 4 + 128

    def disk_usage(_: Path) -> Any:
        return SimpleNamespace(
            free=5 * size - sum(path.stat().st_size for path in tmp_path.glob("*.npy"))
        )

    monkeypatch.setattr("kerakit.training.features.shutil.disk_usage", disk_usage)
    assert store.fits(generator, views=2)
    assert not store.fits(generator, views=3)
    names: list[str] = []
    for epoch in range(4):
        store.compute(generator, epoch)
        (new,) = {path.stem for path in tmp_path.glob("*.npz")} - set(names)
        os.utime(tmp_path / f"{new}.npz", (epoch, epoch))
        names.append(new)
    assert {path.stem for path in tmp_path.glob("*.np?")} == set(names[2:])


def test_each_epoch_has_every_feature_once_in_a_new_order(photos: Path, tmp_path: Path) -> None:
    backbone, _ = split(model())
    store = FeatureStore(backbone, tmp_path)
    generator = Generator(DataReader(photos), "train", 7, (20, 16), jitter=True)
    batches = FeatureBatches(store, generator, views=2)
    epochs = []
    for epoch in range(4):
        batches.epoch = epoch
        parts = [batches[i] for i in range(len(batches))]
        found, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
        expected, expected_targets = store.compute(generator, epoch % 2)
        rows = np.lexsort(found.T), np.lexsort(expected.T)
        np.testing.assert_array_equal(found[rows[0]], expected[rows[1]])
        np.testing.assert_array_equal(targets[rows[0]], expected_targets[rows[1]])
        epochs.append(found)
    assert not np.array_equal(epochs[0], epochs[2])


def test_a_model_without_a_head_to_train_is_explained() -> None:
    image = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(image)
    with pytest.raises(UserError, match="no layer named 'features'"):
        split(keras.Model(image, flat))


def test_training_head_and_fine_tuning_of_a_pretrained_model(project: Project) -> None:
    small = (
        "--model",
        "efficientnet_lite0",
        "--input_size",
        "32,32",
        "--num_epochs",
        1,
        "--jitter",
    )
    result = project.run("train.py", "--save_to", "progress/head", *small, "--schedule", "head")
    assert result.code == 0, result.err
    assert "epoch 20/20 - accuracy:" in result.out
    config = json.loads((project.path / "progress/head/config.json").read_text())
    assert config["weights"] == "imagenet"
    assert config["phases"] == ["head"]
    assert len(list((project.path / "progress/head/ckpt").glob("*.h5"))) == 1
    result = project.run(
        "train.py", "--save_to", "progress/tuned", *small, "--class_weights", "--ema", 0.5
    )
    assert result.code == 0, result.err
    assert "epoch 21/21 - accuracy:" in result.out
    config = json.loads((project.path / "progress/tuned/config.json").read_text())
    assert config["phases"] == ["head", "finetune"]
    again = project.run(
        "train.py", "--save_to", "progress/more", *small, "--from_ckpt", "progress/tuned"
    )
    assert again.code == 0, again.err
    config = json.loads((project.path / "progress/more/config.json").read_text())
    assert config["phases"] == ["finetune"]
    assert "epoch 1/1" in again.out
    history = (project.path / "progress/tuned/history.csv").read_text().splitlines()
    assert len(history) == 1 + 21


def test_a_head_on_nothing_is_refused(project: Project) -> None:
    result = project.train("--schedule", "head")
    assert result.code == 2
    assert "starts from nothing" in result.err
    assert not (project.path / "progress").exists()


def test_a_head_may_have_several_outputs() -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(name="features")(image)
    two = keras.Model(
        image, [keras.layers.Dense(3, name="one")(x), keras.layers.Dense(3, name="other")(x)]
    )
    backbone, head = split(two)
    images = np.ones((4, 8, 8, 3), np.float32)
    for answer, expected in zip(head(backbone(images)), two(images), strict=True):
        np.testing.assert_allclose(answer, expected)


def test_several_targets_are_refused_and_missing_images_are_named(
    photos: Path, tmp_path: Path
) -> None:
    class Two(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> Any:
            return image, (annot, annot)

    backbone, _ = split(model())
    reader = DataReader(photos)
    with pytest.raises(UserError, match="one target an image"):
        FeatureStore(backbone, tmp_path / "kept").compute(Two(reader, "train", 8, (20, 16)))
    missing = reader.image_path(int(reader.indices("train")[3]))
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        FeatureStore(backbone, tmp_path / "kept").compute(
            BatchGenerator(reader, "train", 8, (20, 16))
        )
    assert not list((tmp_path / "kept").iterdir())
