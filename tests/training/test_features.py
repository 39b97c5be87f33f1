"""Features equal those of Keras, and are stored under everything that they depend on."""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import albumentations as A  # noqa: N812
import cv2
import keras
import numpy as np
import pytest

from kerakit import UserError
from kerakit.data import BatchGenerator, DataReader, Mix
from kerakit.data.store import used_bytes
from kerakit.inference import keras_predict_fn
from kerakit.tasks import Classification
from kerakit.training import backbone as backbone_module
from kerakit.training.features import FeatureDataset, FeatureStore
from kerakit.training.split_model import split_at
from kerakit.training.stored import StoredFeatures
from projects import Project, write_image
from resuming import add_tiny_model


class Generator(BatchGenerator):
    def get_aug_pipeline(self) -> Any:
        return A.Compose([A.HorizontalFlip(), A.RandomBrightnessContrast(p=1)])


def read_all(computed: list[StoredFeatures]) -> tuple[Any, Any]:
    (stored,) = computed
    return stored[np.arange(len(stored))]


def model() -> keras.Model:
    image = keras.Input((16, 20, 3))
    x = keras.layers.Rescaling(1 / 255)(image)
    x = keras.layers.Conv2D(8, 3, activation="relu")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    x = keras.layers.Dropout(0.2)(x)
    return keras.Model(image, keras.layers.Dense(2, activation="softmax")(x))


def test_they_equal_those_of_keras(photos: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    whole = model()
    backbone, head = split_at(whole)
    generator = Generator(DataReader(photos), "train", 7, (20, 16), jitter=True)
    for epoch in (0, 3):
        found, targets = read_all(
            FeatureStore(backbone, tmp_path / "kept").compute(generator, [epoch])
        )
        generator.epoch = epoch
        batches = [generator[i] for i in range(len(generator))]
        generator.close()
        images = np.concatenate([images for images, _ in batches])
        np.testing.assert_array_equal(targets, np.concatenate([targets for _, targets in batches]))
        np.testing.assert_allclose(found, backbone.predict(images, verbose=0), atol=2e-5)
        np.testing.assert_allclose(
            head.predict(found, verbose=0), whole.predict(images, verbose=0), atol=2e-5
        )


def test_a_backbone_that_the_converter_rejects_runs_in_keras(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = keras.Input((16, 20, 3))
    x = keras.layers.Resizing(8, 8, interpolation="bicubic")(image)
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D(name="features")(x))
    generator = BatchGenerator(DataReader(photos), "val", 4, (20, 16))
    found, _ = read_all(FeatureStore(backbone, tmp_path).compute(generator))
    images = np.concatenate([generator.load_batch(i)[0] for i in range(len(generator))])
    np.testing.assert_allclose(found, backbone.predict(images, verbose=0), rtol=1e-5)
    printed = capsys.readouterr()
    assert printed.out.count("computed by Keras") == 1
    assert "error" not in printed.err


def test_training_the_head_trains_the_model() -> None:
    whole = model()
    backbone, head = split_at(whole)
    before = [weight.copy() for weight in whole.get_weights()]
    head.compile("sgd", "sparse_categorical_crossentropy")
    head.fit(np.random.default_rng(0).random((32, 8)), np.arange(32) % 2, verbose=0)
    changed = [not np.array_equal(a, b) for a, b in zip(before, whole.get_weights(), strict=True)]
    assert changed == [False] * (len(changed) - 2) + [True, True]
    assert len(backbone.get_weights()) == len(changed) - 2


def test_a_second_time_they_are_found(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, _ = split_at(model())
    reader = DataReader(photos)
    first = read_all(
        FeatureStore(backbone, tmp_path).compute(BatchGenerator(reader, "train", 8, (20, 16)))
    )

    def refuse(_: Any) -> Any:
        raise AssertionError("computed again")

    monkeypatch.setattr(backbone_module, "_fastest_predict_fn", refuse)
    again = read_all(
        FeatureStore(backbone, tmp_path).compute(BatchGenerator(reader, "train", 4, (20, 16)))
    )
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    other, _ = split_at(model())
    mix = Mix(2, mixup=0.2)
    task = Classification(("pear", "apple"))
    for store, generator in (
        (FeatureStore(other, tmp_path), BatchGenerator(reader, "train", 8, (20, 16))),
        (FeatureStore(backbone, tmp_path), BatchGenerator(reader, "val", 8, (20, 16))),
        (FeatureStore(backbone, tmp_path), BatchGenerator(reader, "train", 8, (20, 16), seed=1)),
        (FeatureStore(backbone, tmp_path), Generator(reader, "train", 8, (20, 16), jitter=True)),
        (FeatureStore(backbone, tmp_path), BatchGenerator(reader, "train", 8, (20, 16), mix=mix)),
        (FeatureStore(backbone, tmp_path), BatchGenerator(reader, "train", 8, (20, 16), task=task)),
    ):
        with pytest.raises(AssertionError, match="computed again"):
            store.compute(generator)
    path = reader.image_path(int(reader.indices("train")[0]))
    write_image(path, 12345)
    os.utime(path, ns=(1, 1))
    with pytest.raises(AssertionError, match="computed again"):
        FeatureStore(backbone, tmp_path).compute(BatchGenerator(reader, "train", 8, (20, 16)))


def test_a_change_of_the_owners_code_or_of_what_it_returns_is_noticed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file of a helper module that is imported; a value that no file shows."""
    backbone, _ = split_at(model())
    reader = DataReader(photos)
    helper = tmp_path / "owners_helper.py"
    helper.write_text("WHITE = 255\n")
    monkeypatch.syspath_prepend(tmp_path)
    owner = vars(importlib.import_module("owners_helper"))

    class Inverted(BatchGenerator):
        invert = False

        def preprocess(self, image: Any, annot: Any) -> Any:
            return (owner["WHITE"] - image if self.invert else image), annot

    def count_found() -> int:
        generator = Inverted(reader, "train", 8, (20, 16))
        (stored,) = FeatureStore(backbone, tmp_path / "kept").compute(generator)
        images = np.concatenate([generator.load_batch(i)[0] for i in range(len(generator))])
        expected = backbone.predict(images, verbose=0)
        np.testing.assert_allclose(read_all([stored])[0], expected, atol=2e-5)
        return stored.num_found

    everything = len(reader.indices("train"))
    assert [count_found(), count_found()] == [0, everything]
    Inverted.invert = True
    assert [count_found(), count_found()] == [0, everything]
    helper.write_text("WHITE = 254\n")
    owner["WHITE"] = 254
    assert [count_found(), count_found()] == [0, everything]
    monkeypatch.setattr(cv2, "__version__", "0.0")
    assert [count_found(), count_found()] == [0, everything]
    sys.modules.pop("owners_helper")


def augmented_model(*layers: keras.layers.Layer) -> keras.Model:
    image = x = keras.Input((16, 20, 3))
    for layer in layers:
        x = layer(x)
    x = keras.layers.GlobalAveragePooling2D(name="features")(x)
    return keras.Model(image, keras.layers.Dense(2)(x))


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        (keras.layers.RandomFlip, "act in training only: random_flip"),
        (keras.layers.Dropout, "Dropout in frozen layers is off: dropout"),
        (keras.layers.Rescaling, " computed, 0 from the cache"),
    ],
)
def test_frozen_layers_that_act_in_training_are_not_silently_off(
    layer: Any,
    expected: str,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keras.backend.clear_session()
    made = layer() if layer is keras.layers.RandomFlip else layer(0.5)
    backbone, _ = split_at(augmented_model(made))
    reader = DataReader(photos)
    train, val = (BatchGenerator(reader, mode, 8, (20, 16)) for mode in ("train", "val"))
    found = FeatureStore(backbone, tmp_path).datasets(train, val)
    assert (found is None) == (layer is keras.layers.RandomFlip)
    assert expected in capsys.readouterr().out


def test_images_replace_features_that_cannot_be_exact(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Random(BatchGenerator):
        rng = np.random.default_rng(0)

        def preprocess(self, image: Any, annot: Any) -> Any:
            return self.rng.integers(0, 255, image.shape).astype(np.uint8), annot

    backbone, _ = split_at(model())
    reader = DataReader(photos)
    train, val = (Random(reader, mode, 8, (20, 16)) for mode in ("train", "val"))
    assert FeatureStore(backbone, tmp_path / "kept").datasets(train, val) is None
    out = capsys.readouterr().out
    assert "differently each time" in out
    assert len(out.splitlines()) == 1


def test_a_damaged_store_is_repaired(photos: Path, tmp_path: Path) -> None:
    backbone, _ = split_at(model())
    generator = BatchGenerator(DataReader(photos), "train", 8, (20, 16))
    first, _ = read_all(FeatureStore(backbone, tmp_path / "kept").compute(generator))
    paths = sorted(path for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert [path.suffix for path in paths] == [".index", ".records"]
    for path in paths:
        whole = path.read_bytes()
        for damaged in (
            b"",
            whole[:100],
            whole[: len(whole) // 2],
            whole[:300] + b"\1\2\3\4" + whole[304:],
        ):
            for other in set((tmp_path / "kept").rglob("*.*")) - set(paths):
                other.unlink()  # what the last repair has written
            path.write_bytes(damaged)
            again, _ = read_all(FeatureStore(backbone, tmp_path / "kept").compute(generator))
            np.testing.assert_array_equal(again, first)
        path.write_bytes(whole)


def record_images(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the list of the numbers of images that a backbone computes from here on."""
    computed: list[int] = []

    def recording(backbone: keras.Model) -> Any:
        def predict(images: Any) -> Any:
            computed.append(len(images))
            return keras_predict_fn(backbone)(images)

        return predict

    monkeypatch.setattr(backbone_module, "_fastest_predict_fn", recording)
    return computed


def test_an_interrupted_computation_resumes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(BatchGenerator):
        stop_at: float = 3

        def whole_batches(self, first: int, stop: int) -> Any:
            for i, batch in enumerate(super().whole_batches(first, stop), first):
                if i >= self.stop_at:
                    raise KeyboardInterrupt
                yield batch

    computed = record_images(monkeypatch)
    backbone, _ = split_at(model())
    generator = Interrupted(DataReader(photos), "train", 8, (20, 16))
    with pytest.raises(KeyboardInterrupt):
        FeatureStore(backbone, tmp_path).compute(generator)
    assert computed == [8, 8, 8]
    generator.stop_at = np.inf
    found, _ = read_all(FeatureStore(backbone, tmp_path).compute(generator))
    assert sum(computed) == len(generator.index) == len(found)
    images = np.concatenate([generator.load_batch(i)[0] for i in range(len(generator))])
    np.testing.assert_allclose(found, backbone.predict(images, verbose=0), atol=2e-5)


def test_an_added_image_keeps_the_features_of_the_others(photos: Path, tmp_path: Path) -> None:
    backbone, _ = split_at(model())
    FeatureStore(backbone, tmp_path).compute(BatchGenerator(DataReader(photos), "val", 8, (20, 16)))
    (index,) = tmp_path.rglob("*.index")
    size = index.stat().st_size // len(DataReader(photos).indices("val"))
    before = set(DataReader(photos).indices("val"))
    for i in range(20):
        write_image(photos / "apple" / f"new-{i}.png", seed=500 + i)
    generator = BatchGenerator(DataReader(photos), "val", 8, (20, 16))
    added = len(generator.index) - len(before)
    assert added > 0
    FeatureStore(backbone, tmp_path).compute(generator)
    (new,) = set(tmp_path.rglob("*.index")) - {index}
    assert new.stat().st_size == added * size


def test_mixed_features_belong_to_their_soft_labels(photos: Path, tmp_path: Path) -> None:
    backbone, _ = split_at(model())
    generator = BatchGenerator(DataReader(photos), "train", 8, (20, 16), mix=Mix(2, cutmix=1))
    for epoch in range(2):
        found, targets = read_all(FeatureStore(backbone, tmp_path).compute(generator, [epoch]))
        batches = [generator.load_batch(i) for i in range(len(generator))]
        images, labels = (np.concatenate(part) for part in zip(*batches, strict=True))
        np.testing.assert_array_equal(targets, labels)
        np.testing.assert_allclose(found, backbone.predict(images, verbose=0), atol=2e-5)


def test_the_oldest_features_make_room(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, _ = split_at(model())
    generator = Generator(DataReader(photos), "train", 8, (20, 16), jitter=True)
    folder = tmp_path / "kept"
    (folder / "of the user").mkdir(parents=True)
    store = FeatureStore(backbone, folder)
    record = 8 * 4 + 4 + 16 + 32  # features, target, fingerprint, entry of the index
    size = len(generator.index) * record

    def disk_usage(_: Path) -> Any:
        return SimpleNamespace(free=5 * size - used_bytes(folder))

    monkeypatch.setattr("kerakit.data.store.shutil.disk_usage", disk_usage)
    names = ["of the user"]
    for epoch in range(4):
        store.compute(generator, [epoch])
        (new,) = {path.name for path in folder.iterdir()} - set(names)
        os.utime(folder / new, (epoch, epoch))
        names.append(new)
    assert {path.name for path in folder.iterdir()} == {"of the user", *names[3:]}
    assert used_bytes(folder) == 2 * size


def test_each_epoch_has_every_feature_once_in_a_new_order(photos: Path, tmp_path: Path) -> None:
    backbone, _ = split_at(model())
    store = FeatureStore(backbone, tmp_path)
    generator = Generator(DataReader(photos), "train", 7, (20, 16), jitter=True)
    batches = FeatureDataset(store, generator, views=2)
    epochs = []
    for epoch in range(4):
        batches.epoch = epoch
        parts = [batches[i] for i in range(len(batches))]
        found, targets = (np.concatenate(part) for part in zip(*parts, strict=True))
        expected, expected_targets = read_all(store.compute(generator, [epoch % 2]))
        order, expected_order = np.lexsort(found.T), np.lexsort(expected.T)
        np.testing.assert_array_equal(found[order], expected[expected_order])
        np.testing.assert_array_equal(targets[order], expected_targets[expected_order])
        keys = [key for i in range(len(batches)) for key in batches.batch_keys(i)]
        classes = [generator.data_reader.class_names.index(key.split("/")[0]) for key in keys]
        assert targets.tolist() == classes
        epochs.append(found)
    assert not np.array_equal(epochs[0], epochs[2])


def test_a_model_without_a_head_to_train_is_explained() -> None:
    image = keras.Input((8, 8, 3))
    flat = keras.layers.Flatten()(image)
    with pytest.raises(UserError, match="no layer named 'features'"):
        split_at(keras.Model(image, flat))


def test_training_head_and_fine_tuning_of_a_pretrained_model(project: Project) -> None:
    small = ("--model", "efficientnet_lite0", "--input_size", "32,32", "--jitter")
    short = ("--num_epochs", 1, "--head_epochs", 3)

    def train(name: str, *flags: object) -> tuple[dict[str, Any], int]:
        result = project.train(*short, *flags, save_to=f"progress/{name}")
        assert result.code == 0, result.err
        run = project.path / "progress" / name
        epochs = len((run / "history.csv").read_text().splitlines()) - 1
        return json.loads((run / "config.json").read_text()), epochs

    config, epochs = train("real", *small, "--class_weights", "--ema", 0.5)
    assert config["weights"] == "imagenet"
    assert (config["phases"], epochs) == (["head", "finetune"], 4)
    add_tiny_model(project)
    assert train("tuned")[0]["phases"] == ["head", "finetune"]
    config, epochs = train("more", "--from_ckpt", "progress/tuned")
    assert (config["phases"], epochs) == (["finetune"], 1)


def test_a_head_on_nothing_is_refused(project: Project) -> None:
    result = project.train("--strategy", "head")
    assert result.code == 2
    assert "--strategy head" in result.err
    assert not (project.path / "progress").exists()


def test_a_head_may_have_several_outputs() -> None:
    image = keras.Input((8, 8, 3))
    x = keras.layers.GlobalAveragePooling2D(name="features")(image)
    two = keras.Model(
        image, [keras.layers.Dense(3, name="one")(x), keras.layers.Dense(3, name="other")(x)]
    )
    backbone, head = split_at(two)
    images = np.ones((4, 8, 8, 3), np.float32)
    for answer, expected in zip(head(backbone(images)), two(images), strict=True):
        np.testing.assert_allclose(answer, expected)


def test_several_targets_and_several_features(photos: Path, tmp_path: Path) -> None:
    class Two(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> Any:
            return image, {"class": annot, "box": np.array([annot, 1, 2], np.float32)}

    image = keras.Input((16, 20, 3))
    fine = keras.layers.Conv2D(2, 3, 2, "same")(image)
    coarse = keras.layers.Conv2D(3, 3, 2, "same")(fine)
    backbone = keras.Model(image, [fine, coarse])
    images = Two(DataReader(photos), "val", 4, (20, 16))
    for found in (0, 6):  # computed, then stored
        data = FeatureDataset(FeatureStore(backbone, tmp_path / "kept"), images)
        assert data._views[0].num_found == found
        (first, second), targets = data[1]
        pixels, expected = images.load_batch(1)
        for features, layer in zip((first, second), backbone(pixels), strict=True):
            np.testing.assert_allclose(features, layer, rtol=1e-4, atol=1e-3)
        assert targets.keys() == expected.keys()
        for name, values in expected.items():
            np.testing.assert_array_equal(targets[name], values)


def test_missing_images_are_named(photos: Path, tmp_path: Path) -> None:
    backbone, _ = split_at(model())
    reader = DataReader(photos)
    missing = reader.image_path(int(reader.indices("train")[3]))
    missing.unlink()
    with pytest.raises(UserError, match=missing.name):
        FeatureStore(backbone, tmp_path / "kept").compute(
            BatchGenerator(reader, "train", 8, (20, 16))
        )


def test_another_process_reuses_all_features(project: Project) -> None:
    """The key does not depend on what a process has imported before it asks."""
    add_tiny_model(project)
    flags = ("--model", "tiny", "--input_size", "16,12", "--strategy", "head", "--head_epochs", 1)
    for name, expected in (("one", "computed, 0 from"), ("two", ": 0 computed")):
        result = project.run("train.py", "--save_to", f"progress/{name}", *flags)
        lines = [line for line in result.out.splitlines() if line.startswith("features (")]
        assert len(lines) == 2, result.err
        assert all(expected in line for line in lines), lines
