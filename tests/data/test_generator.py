"""Batches: every image once an epoch, the same bits whoever asks, and exact under a real fit."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812
import keras
import numpy as np
import pytest

from kerakit import BatchGenerator, DataReader, Recolor, UserError, read_image
from kerakit.data.augment import Augmenter, seed_of
from projects import write_image


class Generator(BatchGenerator):
    """With a pipeline that changes every pixel."""

    def get_aug_pipeline(self) -> Any:
        return A.Compose(
            [A.HorizontalFlip(), A.RandomBrightnessContrast(p=1), A.Affine(rotate=(-20, 20), p=1)]
        )


def epoch_of(generator: BatchGenerator, epoch: int) -> list[tuple[Any, Any]]:
    generator.epoch = epoch
    batches = [generator[i] for i in range(len(generator))]
    generator.close()
    return batches


def same(a: list[tuple[Any, Any]], b: list[tuple[Any, Any]]) -> bool:
    return all(
        np.array_equal(x, u) and np.array_equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("mode", ["train", "val", "test"])
def test_every_image_comes_once_an_epoch_with_its_target(photos: Path, mode: Any) -> None:
    reader = DataReader(photos)
    generator = BatchGenerator(reader, mode, batch_size=7, input_size=(20, 16))
    for epoch in range(3):
        batches = epoch_of(generator, epoch)
        generator.epoch = epoch
        keys = [key for i in range(len(generator)) for key in generator.keys(i)]
        assert sorted(keys) == sorted(reader.key(i) for i in reader.indices(mode))
        images = np.concatenate([images for images, _ in batches])
        targets = np.concatenate([targets for _, targets in batches])
        assert images.dtype == np.uint8
        for image, target, key in zip(images, targets, keys, strict=True):
            np.testing.assert_array_equal(image, read_image(photos / key, (20, 16)))
            assert key.startswith(reader.class_names[target])


def test_epochs_differ_in_training_and_only_there(photos: Path) -> None:
    reader = DataReader(photos)
    train, val = (BatchGenerator(reader, mode, 8, (20, 16)) for mode in ("train", "val"))
    assert not same(epoch_of(train, 0), epoch_of(train, 1))
    assert same(epoch_of(val, 0), epoch_of(val, 1))


@pytest.mark.parametrize("threads", [2, 4, 8])
def test_the_bits_do_not_depend_on_the_threads(photos: Path, threads: int) -> None:
    reader = DataReader(photos)
    one, many = (
        Generator(reader, "train", 8, (20, 16), jitter=True, seed=3, threads=n)
        for n in (1, threads)
    )
    for epoch in (0, 5):
        assert same(epoch_of(one, epoch), epoch_of(many, epoch))


def test_the_bits_do_not_depend_on_the_order_of_asking(photos: Path) -> None:
    generator = Generator(DataReader(photos), "train", 8, (20, 16), jitter=True)
    in_order = epoch_of(generator, 2)
    generator.epoch = 2
    backwards = [generator[i] for i in reversed(range(len(generator)))][::-1]
    assert same(in_order, backwards)
    generator.close()


def test_jitter_changes_images_and_the_seed_changes_the_jitter(photos: Path) -> None:
    reader = DataReader(photos)

    def images(**options: Any) -> Any:
        return np.concatenate(
            [x for x, _ in epoch_of(Generator(reader, "train", 8, (20, 16), **options), 0)]
        )

    plain, jittered, other = images(), images(jitter=True), images(jitter=True, seed=1)
    assert not np.array_equal(plain, jittered)
    assert not np.array_equal(jittered, other)
    val = [epoch_of(Generator(reader, "val", 8, (20, 16), jitter=j), 0) for j in (True, False)]
    assert same(*val)


def test_jitter_is_as_strong_as_it_is_told(photos: Path) -> None:
    class Brighter(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            return A.Compose([Recolor(brightness=0.1 * self.strength)])

    reader = DataReader(photos)

    def images(jitter: float) -> Any:
        return np.concatenate(
            [x for x, _ in epoch_of(Brighter(reader, "train", 8, (20, 16), jitter=jitter), 0)]
        ).astype(int)

    plain, half, once, double = (
        abs(images(jitter) - images(False)).mean() for jitter in (0, 0.5, 1, 2)
    )
    assert plain == 0
    assert once == abs(images(True) - images(False)).mean()
    assert half < 0.7 * once < 0.7 * double


def test_augmentation_is_a_function_of_seed_epoch_and_key() -> None:
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)
    augment = Augmenter(lambda: A.Compose([A.GaussNoise(p=1)]), seed=0)
    first = augment(0, "a", image=image)["image"]
    assert np.array_equal(augment(0, "a", image=image)["image"], first)
    assert not np.array_equal(augment(1, "a", image=image)["image"], first)
    assert not np.array_equal(augment(0, "b", image=image)["image"], first)
    assert len({seed_of(s, e, k) for s in range(5) for e in range(5) for k in "abcde"}) == 125


def test_only_a_few_batches_are_held(photos: Path) -> None:
    reader = DataReader(photos)
    read: list[int] = []

    class Counting(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> tuple[Any, Any]:
            read.append(1)
            return super().preprocess(image, annot)

    generator = Counting(reader, "train", batch_size=1, input_size=(20, 16), threads=2)
    generator[0]
    for _ in range(100):
        threading.Event().wait(0.01)
    assert len(read) <= 1 + 2 + 2 + 4 + 1
    generator.close()


class Watching(keras.Model):
    """Notes the targets of each training step."""

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        _, targets = data
        tf.py_function(lambda t: self.seen.append(t.numpy().tolist()), [targets], [])
        return super().train_step(data)


def test_fit_sees_each_epoch_as_the_generator_gives_it(tmp_path: Path) -> None:
    """Under TensorFlow, which asks for two batches more to learn the shapes and reads ahead."""
    for i in range(40):
        for name in ("a", "b"):
            write_image(tmp_path / name / f"{i:02d}.png", seed=i)
    reader = DataReader(tmp_path)
    generator = BatchGenerator(reader, "train", 8, (20, 16))
    generator.data_reader.target = lambda i: np.int32(i)  # type: ignore[method-assign]
    val = BatchGenerator(reader, "val", 8, (20, 16))
    image = keras.Input((16, 20, 3))
    model = Watching(image, keras.layers.Dense(100)(keras.layers.GlobalAveragePooling2D()(image)))
    model.seen = []
    model.compile(
        "sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), run_eagerly=False
    )
    model.fit(
        generator,
        validation_data=val,
        epochs=3,
        shuffle=False,
        verbose=0,
        callbacks=[generator.epoch_callback()],
    )
    generator.close()
    expected = [targets.tolist() for epoch in range(3) for _, targets in epoch_of(generator, epoch)]
    assert model.seen == expected


def test_an_unreadable_image_stops_with_its_name(photos: Path) -> None:
    (photos / "apple" / "03.png").write_bytes(b"no image")
    generator = BatchGenerator(DataReader(photos, train_ratio=0.99), "train", 8, (20, 16))
    with pytest.raises(UserError, match=r"03\.png"):
        epoch_of(generator, 0)
    assert isinstance(generator.error, UserError)
    generator.close()


def test_a_bad_image_has_always_the_same_stand_in(tmp_path: Path) -> None:
    for i in range(150):
        for hue, name in enumerate(("a", "b")):
            write_image(tmp_path / name / f"{i:03d}.png", seed=i, hue=hue)
    (tmp_path / "a" / "003.png").write_bytes(b"no image")
    (tmp_path / "b" / "004.png").unlink()
    reader = DataReader(tmp_path, train_ratio=0.999999)
    (tmp_path / "b" / "005.png").unlink()

    def epoch(threads: int) -> list[tuple[Any, Any]]:
        generator = BatchGenerator(
            reader, "train", 8, (20, 16), skip_unreadable=True, threads=threads
        )
        batches = epoch_of(generator, 1)
        assert set(generator.bad) == {"a/003.png", "b/005.png"}
        assert sum(len(targets) for _, targets in batches) == len(generator.index)
        return batches

    assert same(epoch(1), epoch(4))


def test_too_many_bad_images_stop_all_the_same(photos: Path) -> None:
    for path in (photos / "pear").iterdir():
        path.write_bytes(b"no image")
    generator = BatchGenerator(DataReader(photos), "train", 8, (20, 16), skip_unreadable=True)
    with pytest.raises(UserError, match="more than 1%"):
        epoch_of(generator, 0)
    generator.close()


def test_a_split_without_images_is_explained(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png", 0)
    write_image(tmp_path / "b" / "1.png", 0)
    reader = DataReader(tmp_path, train_ratio=0.999999)
    with pytest.raises(UserError, match="no images for mode 'val'"):
        BatchGenerator(reader, "val")


def test_several_targets_keep_their_form(photos: Path) -> None:
    class Two(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> tuple[Any, Any]:
            return image, {"kind": annot, "mean": np.float32(image.mean())}

    _, targets = Two(DataReader(photos), "val", 2, (20, 16))[0]
    assert targets["kind"].shape == targets["mean"].shape == (2,)


def test_an_index_beyond_the_epoch_is_refused(photos: Path) -> None:
    generator = BatchGenerator(DataReader(photos), "val", 4, (20, 16))
    with pytest.raises(IndexError):
        generator[len(generator)]


def test_a_smaller_last_batch_is_dropped_on_request_in_training_only(photos: Path) -> None:
    reader = DataReader(photos)
    kept, dropped = (
        BatchGenerator(reader, "train", 7, (20, 16), drop_last=drop) for drop in (False, True)
    )
    assert len(kept.index) % 7
    assert len(dropped) == len(kept) - 1
    for epoch in (0, 2):
        assert same(epoch_of(kept, epoch)[:-1], epoch_of(dropped, epoch))
    val = BatchGenerator(reader, "val", 7, (20, 16), drop_last=True)
    assert sum(len(targets) for _, targets in epoch_of(val, 0)) == len(val.index)
    with pytest.raises(UserError, match="smaller --batch_size"):
        BatchGenerator(reader, "train", 1000, (20, 16), drop_last=True)


def test_masks_boxes_and_keypoints_follow_the_image(photos: Path) -> None:
    reader = DataReader(photos)

    class Labelled(DataReader):
        def target(self, i: int) -> Any:
            grey = read_image(self.image_path(i), (20, 16))[..., 0]
            return {
                "mask": grey,
                "bboxes": np.array([[0.1, 0.2, 0.5, 0.6]]),
                "keypoints": np.array([[4.0, 5.0]]),
                "name": "x",
            }

    class Mirrored(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            boxes, keypoints = (
                A.BboxParams("albumentations", label_fields=[]),
                A.KeypointParams("xy"),
            )
            return A.Compose([A.HorizontalFlip(p=1)], bbox_params=boxes, keypoint_params=keypoints)

    labelled = Labelled(photos)
    images, targets = Mirrored(labelled, "train", 4, (20, 16), jitter=True)[0]
    plain, _ = BatchGenerator(reader, "train", 4, (20, 16))[0]
    np.testing.assert_array_equal(images, plain[:, :, ::-1])
    np.testing.assert_array_equal(targets["mask"], images[..., 0])
    np.testing.assert_allclose(targets["bboxes"], [[[0.5, 0.2, 0.9, 0.6]]] * 4, atol=1e-6)
    np.testing.assert_allclose(targets["keypoints"], [[[15.0, 5.0]]] * 4)
    assert list(targets["name"]) == ["x"] * 4
