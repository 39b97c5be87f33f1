"""Batches: every image once an epoch, the same bits whoever asks, and exact under a real fit."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import albumentations as A  # noqa: N812
import keras
import numpy as np
import pytest

from kerakit import UserError
from kerakit.data import BatchGenerator, DataReader, Recolor, read_image
from kerakit.data.augment import Augmenter, derive_seed
from kerakit.data.generator import BATCHES_AHEAD
from kerakit.tasks import Classification, Task
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
        keys = [key for i in range(len(generator)) for key in generator.batch_keys(i)]
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
    assert len({derive_seed(s, e, k) for s in range(5) for e in range(5) for k in "abcde"}) == 125


@pytest.mark.parametrize("threads", [1, 3])
def test_reading_ahead_is_bounded_on_both_sides(photos: Path, threads: int) -> None:
    reader = DataReader(photos)
    read: list[int] = []

    class Counting(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> tuple[Any, Any]:
            read.append(1)
            return super().preprocess(image, annot)

    generator = Counting(reader, "train", batch_size=2, input_size=(20, 16), threads=threads)
    for consumed in range(1, 11):
        generator[consumed - 1]
        ahead = settled(lambda: len(read) / 2) - consumed
        assert threads <= ahead <= threads + BATCHES_AHEAD
    generator.close()
    assert settled(lambda: len(read) / 2) <= consumed + threads + BATCHES_AHEAD


def settled(count: Callable[[], float]) -> float:
    """Return a count once it has not changed for a fifth of a second."""
    last, since = count(), time.monotonic()
    while time.monotonic() - since < 0.2:
        time.sleep(0.01)
        if count() != last:
            last, since = count(), time.monotonic()
    return last


class Recording(keras.Model):
    """Records the targets of each training step."""

    def train_step(self, data: Any) -> Any:
        import tensorflow as tf

        _, targets = data
        tf.py_function(lambda t: self.targets.append(t.numpy().tolist()), [targets], [])
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
    model = Recording(image, keras.layers.Dense(100)(keras.layers.GlobalAveragePooling2D()(image)))
    model.targets = []
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
    assert model.targets == expected


def test_an_unreadable_image_stops_with_its_name(photos: Path) -> None:
    (photos / "apple" / "03.png").write_bytes(b"no image")
    generator = BatchGenerator(DataReader(photos, train_ratio=0.99), "train", 8, (20, 16))
    with pytest.raises(UserError, match=r"03\.png"):
        epoch_of(generator, 0)
    assert isinstance(generator.error, UserError)
    generator.close()


def test_an_unreadable_image_always_has_the_same_substitute(tmp_path: Path) -> None:
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
        assert set(generator.unreadable) == {"a/003.png", "b/005.png"}
        assert sum(len(targets) for _, targets in batches) == len(generator.index)
        return batches

    assert same(epoch(1), epoch(4))


def test_too_many_unreadable_images_are_an_error(photos: Path) -> None:
    for path in (photos / "pear").iterdir():
        path.write_bytes(b"no image")
    generator = BatchGenerator(DataReader(photos), "train", 8, (20, 16), skip_unreadable=True)
    with pytest.raises(UserError, match="unreadable"):
        epoch_of(generator, 0)
    generator.close()


def test_a_split_without_images_is_explained(tmp_path: Path) -> None:
    write_image(tmp_path / "a" / "1.png", 0)
    write_image(tmp_path / "b" / "1.png", 0)
    reader = DataReader(tmp_path, train_ratio=0.999999)
    with pytest.raises(UserError, match="'val'"):
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
    with pytest.raises(UserError, match="--batch_size"):
        BatchGenerator(reader, "train", 1000, (20, 16), drop_last=True)


def test_masks_boxes_and_keypoints_follow_the_image(photos: Path) -> None:
    reader = DataReader(photos)

    class Labeled(DataReader):
        def target(self, i: int) -> Any:
            gray = read_image(self.image_path(i), (20, 16))[..., 0]
            return {
                "mask": gray,
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

    labeled = Labeled(photos)
    images, targets = Mirrored(labeled, "train", 4, (20, 16), jitter=True)[0]
    plain, _ = BatchGenerator(reader, "train", 4, (20, 16))[0]
    np.testing.assert_array_equal(images, plain[:, :, ::-1])
    np.testing.assert_array_equal(targets["mask"], images[..., 0])
    np.testing.assert_allclose(targets["bboxes"], [[[0.5, 0.2, 0.9, 0.6]]] * 4, atol=1e-6)
    np.testing.assert_allclose(targets["keypoints"], [[[15.0, 5.0]]] * 4)
    assert list(targets["name"]) == ["x"] * 4


class Boxes(Task):
    """A task with dict annotations: boxes follow the image, the target is the first box."""

    def followers(self, annotation: Any) -> dict[str, Any]:
        return {"bboxes": annotation["bboxes"]}

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> Any:
        assert annotation["name"] == "x"
        return np.float32(annotation["bboxes"][0] * [*input_size, *input_size])


@pytest.mark.parametrize(("mode", "x_min", "x_max"), [("train", 10, 18), ("val", 2, 10)])
def test_a_task_says_what_follows_the_image_and_makes_the_target(
    photos: Path, mode: Any, x_min: float, x_max: float
) -> None:
    class Labeled(DataReader):
        def target(self, _: int) -> Any:
            return {"bboxes": np.array([[0.1, 0.25, 0.5, 0.75]]), "name": "x"}

    class Mirrored(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            boxes = A.BboxParams("albumentations", label_fields=[])
            return A.Compose([A.HorizontalFlip(p=1)], bbox_params=boxes)

        def preprocess(self, image: Any, annot: Any) -> tuple[Any, Any]:
            assert set(annot) == {"bboxes", "name"}
            return image, annot

    task: Any = Boxes()
    generator = Mirrored(Labeled(photos), mode, 4, (20, 16), jitter=True, task=task)
    images, targets = generator.load_batch(0)
    assert targets.dtype == np.float32
    np.testing.assert_allclose(targets, [[x_min, 4, x_max, 12]] * 4, atol=1e-4)
    plain, _ = BatchGenerator(DataReader(photos), mode, 4, (20, 16)).load_batch(0)
    expected = plain[:, :, ::-1] if mode == "train" else plain
    np.testing.assert_array_equal(images, expected)


def test_classification_as_a_task_changes_no_batch(photos: Path) -> None:
    reader = DataReader(photos)
    task = Classification(reader.class_names)
    plain, encoded = (
        Generator(reader, "train", 8, (20, 16), jitter=True, task=t) for t in (None, task)
    )
    batches = epoch_of(encoded, 1)
    assert same(epoch_of(plain, 1), batches)
    assert {targets.dtype for _, targets in batches} == {np.dtype(np.int32)}


def test_keys_name_the_samples_of_each_batch(photos: Path) -> None:
    reader = DataReader(photos)
    generator = BatchGenerator(reader, "train", 7, (20, 16))
    for epoch in (0, 3):
        generator.epoch = epoch
        order = [reader.key(int(i)) for i in generator.epoch_order(epoch)]
        assert [generator.sample_key(epoch, i) for i in range(len(order))] == order
        assert [k for i in range(len(generator)) for k in generator.batch_keys(i)] == order
    assert generator.epoch_order(0).tolist() != generator.epoch_order(3).tolist()


def test_the_class_balanced_order_alternates(photos: Path) -> None:
    for path in sorted((photos / "pear").iterdir())[20:]:
        path.unlink()
    generator = BatchGenerator(DataReader(photos), "train", 1, (20, 16), seed=2)
    order = generator.class_balanced_order()
    assert sorted(order) == list(range(len(generator.index)))
    classes = [generator.sample_key(0, int(i)).partition("/")[0] for i in order]
    rare = classes.count("pear")
    assert all(set(classes[i : i + 2]) == {"apple", "pear"} for i in range(0, 2 * rare, 2))
    assert set(classes[2 * rare :]) == {"apple"}


def test_load_batch_reads_the_same_batch_without_reading_ahead(photos: Path) -> None:
    generator = Generator(DataReader(photos), "train", 8, (20, 16), jitter=True)
    generator.epoch = 2
    loaded = [generator.load_batch(i) for i in range(len(generator))]
    assert generator.timer.images == 0
    assert same(loaded, epoch_of(generator, 2))


class Applied(A.ImageOnlyTransform):
    """Applies a function to each image."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(p=1)
        self.function = function

    def apply(self, img: Any, **_: Any) -> Any:
        return self.function(img)


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (A.Normalize(), r"get_aug_pipeline\(\) returned float32 \(16, 20, 3\), -\d.* to \d"),
        (A.ToFloat(max_value=255), r"returned float32 \(16, 20, 3\), 0"),
        (A.ToGray(num_output_channels=1, p=1), r"returned uint8 \(16, 20\)"),
        (
            Applied(lambda image: image.astype(np.int16)),
            r"returned int16 \(16, 20, 3\)",
        ),
        (
            Applied(lambda image: image[..., 0]),
            r"returned uint8 \(16, 20\)|\(16, 20, 1\)",
        ),
        (A.Resize(8, 10), r"get_aug_pipeline\(\) returned uint8 \(8, 10, 3\).*\(16, 20, 3\)"),
        (A.RandomCrop(8, 8), r"get_aug_pipeline\(\) returned uint8 \(8, 8, 3\)"),
        (Applied(lambda image: image // 255), "whose pixels are 0 or 1"),
    ],
)
def test_a_pipeline_that_returns_other_than_images_is_an_error(
    photos: Path, transform: Any, said: str
) -> None:
    class Odd(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            return A.Compose([transform])

    generator = Odd(DataReader(photos), "train", 8, (20, 16), jitter=True)
    with pytest.raises(UserError, match=said):
        epoch_of(generator, 0)
    assert isinstance(generator.error, UserError)
    generator.close()


@pytest.mark.parametrize("pipeline", [None, [A.HorizontalFlip()], lambda **data: data])
def test_a_pipeline_that_is_none_is_an_error(photos: Path, pipeline: Any) -> None:
    class Odd(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            return pipeline

    with pytest.raises(UserError, match=r"Expected an albumentations\.Compose"):
        Odd(DataReader(photos), "train", 8, (20, 16), jitter=True).load_batch(0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x / 255, y), r"preprocess\(\) returned float64 \(16, 20, 3\), 0.* to \d"),
        (lambda x, y: (x.astype(np.float32), y), r"float32 \(16, 20, 3\)"),
        (lambda x, y: (x.astype(np.float16) / 127.5 - 1, y), r"float16 \(16, 20, 3\), -"),
        (lambda x, y: (x.astype(np.int16), y), r"int16"),
        (lambda x, y: (x.astype(np.int8), y), r"int8"),
        (lambda x, y: (x > 100, y), r"bool \(16, 20, 3\)"),
        (lambda x, y: (x[..., 0], y), r"uint8 \(16, 20\)"),
        (lambda x, y: (x[..., :1], y), r"uint8 \(16, 20, 1\)"),
        (lambda x, y: (np.dstack([x, x[..., :1]]), y), r"uint8 \(16, 20, 4\)"),
        (lambda x, y: (x.transpose(2, 0, 1), y), r"uint8 \(3, 16, 20\)"),
        (lambda x, y: (x[None], y), r"uint8 \(1, 16, 20, 3\)"),
        (lambda x, y: (x[:10], y), r"preprocess\(\) returned uint8 \(10, 20, 3\).*the input size"),
        (lambda x, y: (x[:0], y), r"uint8 \(0, 20, 3\)"),
        (lambda x, y: (x.tolist(), y), "type list"),
        (lambda x, y: (memoryview(x), y), "type memoryview"),
        (lambda _, y: (None, y), "returned None"),
        (lambda x, y: (x.astype(object), y), "object"),
        (lambda x, y: (x.astype(np.float64) * np.nan, y), "nan to nan"),
        (lambda *_: None, "type NoneType. Expected a tuple"),
        (lambda x, _: x, "type ndarray. Expected a tuple"),
        (lambda x, y: (x, y, 1), "Expected a tuple"),
        (lambda x, y: ((x / 255).astype(np.uint8), y), "whose pixels are 0 or 1"),
    ],
)
@pytest.mark.parametrize("mode", ["train", "val"])
def test_preprocess_that_returns_other_than_an_image_is_an_error(
    photos: Path, change: Any, said: str, mode: Any
) -> None:
    class Odd(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> Any:
            return change(image, annot)

    with pytest.raises(UserError, match=said):
        Odd(DataReader(photos), mode, 4, (20, 16)).load_batch(0)


def test_a_crop_in_preprocess_and_dark_images_are_allowed(photos: Path) -> None:
    class Half(BatchGenerator):
        def get_aug_pipeline(self) -> Any:
            return A.Compose([A.RandomCrop(12, 12)])

        def preprocess(self, image: Any, annot: Any) -> Any:
            return np.ascontiguousarray(np.resize(image, (16, 20, 3))), annot

    reader = DataReader(photos)
    assert Half(reader, "train", 8, (20, 16), jitter=True).load_batch(0)[0].shape == (8, 16, 20, 3)
    dark = BatchGenerator(
        reader, "train", 8, (20, 16), read=lambda _: np.ones((16, 20, 3), np.uint8)
    )
    assert dark.load_batch(0)[0].max() == 1


def test_other_packages_do_not_change_the_bits(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With torch, albumentations reads the seed of its data loader's workers."""
    reader = DataReader(photos)
    without = epoch_of(Generator(reader, "train", 8, (20, 16), jitter=True), 0)
    torch = types.ModuleType("torch")
    torch.initial_seed = lambda: 7  # type: ignore[attr-defined]
    data = types.ModuleType("torch.utils.data")
    data.get_worker_info = lambda: "a worker"  # type: ignore[attr-defined]
    utils = types.ModuleType("torch.utils")
    utils.data, torch.utils = data, utils  # type: ignore[attr-defined]
    for name, module in (("torch", torch), ("torch.utils", utils), ("torch.utils.data", data)):
        monkeypatch.setitem(sys.modules, name, module)
    assert same(epoch_of(Generator(reader, "train", 8, (20, 16), jitter=True), 0), without)

    class Seeded(Generator):
        def get_aug_pipeline(self) -> Any:
            return A.Compose(super().get_aug_pipeline().transforms, seed=5)

    assert same(epoch_of(Seeded(reader, "train", 8, (20, 16), jitter=True), 0), without)
