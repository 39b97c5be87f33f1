"""Sample weights: from tables and readers to the loss, on images and on features."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError, nested
from kerakit.data import BatchGenerator, DataReader, Mix, MultiLabelReader, RegressionReader
from kerakit.tasks import (
    Classification,
    Detection,
    Keypoints,
    MultiLabel,
    MultiTask,
    Regression,
    Segmentation,
    Task,
)
from kerakit.training import FeatureDataset, FeatureStore, apply_sample_weights


def write_table(folder: Path, weights: list[Any], label: str = "label") -> Path:
    table = folder / "labels.csv"
    rows = [
        f"{i}.png,{i % 2},{'val' if i % 5 == 4 else 'train'},{weight}"
        for i, weight in enumerate(weights)
    ]
    table.write_text("\n".join([f"path,{label},split,Sample_Weight", *rows]))
    return table


class Images:
    """Images whose pixels have the number of their file."""

    def __call__(self, path: Path) -> Any:
        return np.full((8, 8, 3), int(path.stem), np.uint8)


def batches_of(table: Path, mix: Mix | None = None, **options: Any) -> BatchGenerator:
    return BatchGenerator(DataReader(table), "train", 6, (8, 8), read=Images(), mix=mix, **options)


@pytest.mark.parametrize("kind", [DataReader, MultiLabelReader, RegressionReader])
def test_weights_of_a_table(tmp_path: Path, kind: Any) -> None:
    reader = kind(write_table(tmp_path, [0.5, 1, 2, "3e-1", 0]), exclusions=["1.png"])
    assert reader.sample_weights.dtype == np.float32
    assert reader.sample_weights.tolist() == pytest.approx([0.5, 2, 0.3, 0])


def test_tables_without_weights_have_none(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\na.png,x\nb.png,y\n")
    reader = DataReader(tmp_path / "labels.csv")
    assert reader.sample_weights is None
    generator = BatchGenerator(reader, "train", read=Images())
    assert apply_sample_weights(generator) is generator


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (-1, r"row 3: the column 'sample_weight' has the value -1. Expected a factor"),
        ("", r"row 3: the column 'sample_weight' is empty"),
        ("high", r"row 3: the column 'sample_weight' has the value 'high'"),
        ("inf", r"row 3: the column 'sample_weight' has the value 'inf'"),
    ],
)
def test_invalid_weights_name_their_row(tmp_path: Path, weight: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DataReader(write_table(tmp_path, [1, 1, weight, 1]))


def test_a_path_with_two_weights_is_an_error(tmp_path: Path) -> None:
    table = write_table(tmp_path, [1, 2])
    table.write_text(table.read_text() + "\n0.png,0,train,3")
    with pytest.raises(UserError, match=r"'0\.png' has two different sample weights"):
        DataReader(table)


@pytest.mark.parametrize(
    ("weights", "message"),
    [(np.ones(3), "expected one number per image"), (np.zeros(20), "all training images are 0")],
)
def test_weights_of_an_own_reader_are_checked(tmp_path: Path, weights: Any, message: str) -> None:
    generator = batches_of(write_table(tmp_path, [1] * 20))
    generator.data_reader.sample_weights = weights  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=message):
        apply_sample_weights(generator)


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(["", "mixup", "cutmix", "both"]),
    drop_last=st.booleans(),
)
def test_weights_are_those_of_the_images_of_each_batch(
    tmp_path_factory: pytest.TempPathFactory, seed: int, method: str, drop_last: bool
) -> None:
    """A class per image and its own weight: the weight of a mixed image follows its labels."""
    folder = tmp_path_factory.mktemp("weights")
    rows = [f"{i}.png,{i:02d},train,{i / 4}" for i in range(20)]
    (folder / "labels.csv").write_text("\n".join(["path,label,split,sample_weight", *rows]))
    alphas = {name: 0.7 for name in ("mixup", "cutmix") if method in (name, "both")}
    mix = Mix(20, **alphas) if alphas else None
    generator = batches_of(folder / "labels.csv", mix, seed=seed, drop_last=drop_last)
    weighted = apply_sample_weights(generator)
    for epoch in (0, 2):
        generator.epoch = epoch
        for i in range(len(weighted)):
            _, targets, weights = weighted[i]
            labels = targets if mix else np.eye(20)[targets]
            assert weights.dtype == np.float32
            np.testing.assert_allclose(weights, labels @ (np.arange(20) / 4), rtol=1e-5)
    generator.close()


@pytest.mark.parametrize("mix", [None, Mix(2, mixup=0.4)])
def test_features_have_the_weights_of_their_images(tmp_path: Path, mix: Mix | None) -> None:
    table = write_table(tmp_path, [1 + i for i in range(20)])
    image = keras.Input((8, 8, 3))
    backbone = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    generator = batches_of(table, mix)
    features = FeatureDataset(FeatureStore(backbone, tmp_path / "store"), generator, views=2)
    weighted = apply_sample_weights(features)
    for epoch in range(3):
        features.epoch = epoch
        for i in range(len(weighted)):
            inputs, _, weights = weighted[i]
            # The mean of the pixels of a mixed image has the proportions of its labels, rounded.
            np.testing.assert_allclose(weights, 1 + inputs[:, 0], atol=0.51 if mix else 1e-5)
    validation = FeatureDataset(
        FeatureStore(backbone, tmp_path / "store"), generator.of_mode("val")
    )
    assert apply_sample_weights(validation) is validation


def test_fit_with_weights_is_that_of_keras(tmp_path: Path) -> None:
    """Two outputs, of which the weights of an image apply to both."""

    class Two(BatchGenerator):
        def preprocess(self, image: Any, annot: Any) -> tuple[Any, Any]:
            return image, {"a": annot, "b": np.array([annot], np.float32)}

    reader = DataReader(write_table(tmp_path, [i % 4 for i in range(20)]))
    generator = Two(reader, "train", 4, (8, 8), read=Images())

    def train(fit: Any) -> list[Any]:
        keras.utils.set_random_seed(0)
        image = keras.Input((8, 8, 3))
        x = keras.layers.Rescaling(1 / 255)(keras.layers.GlobalAveragePooling2D()(image))
        outputs = {"a": keras.layers.Dense(2, "softmax")(x), "b": keras.layers.Dense(1)(x)}
        model = keras.Model(image, outputs)
        losses = {"a": "sparse_categorical_crossentropy", "b": "mean_squared_error"}
        model.compile(keras.optimizers.SGD(0.1), losses)
        fit(model)
        weights: list[Any] = model.get_weights()
        return weights

    found = train(
        lambda model: model.fit(apply_sample_weights(generator), shuffle=False, verbose=0)
    )
    parts = [generator[i] for i in range(len(generator))]
    generator.close()
    order = generator.epoch_order(0)
    images = np.concatenate([one for one, _ in parts])
    targets = {name: np.concatenate([one[name] for _, one in parts]) for name in ("a", "b")}
    weights = (order % 4).astype(np.float32)
    options = {"sample_weight": weights, "shuffle": False, "verbose": 0}
    expected = train(lambda model: model.fit(images, targets, 4, **options))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def several() -> Task:
    return MultiTask({"kind": Classification(["a", "b"]), "size": Regression(["size"])})


BOXES = {
    "boxes": np.array([[8, 8, 40, 40], [30, 20, 60, 60]], np.float32),
    "classes": np.array([0, 1]),
    "crowd": np.zeros(2, bool),
}
MASK = (np.arange(64 * 64).reshape(64, 64) % 64 > 20).astype(np.uint8)
POINTS = np.array([[20, 30, 2], [50, 10, 1]], np.float32)


@pytest.mark.parametrize(
    ("make", "annotations"),
    [
        (lambda: Classification(["a", "b"]), [np.int32(0), np.int32(1)]),
        (
            lambda: MultiLabel(["a", "b"]),
            [np.array([0, 1], np.float32), np.array([1, 1], np.float32)],
        ),
        (lambda: Regression(["size"]), [np.array([2], np.float32), np.array([5], np.float32)]),
        (lambda: Detection(["a", "b"]), [BOXES, {k: v[:1] for k, v in BOXES.items()}]),
        (lambda: Segmentation(["a", "b"]), [{"mask": MASK}, {"mask": MASK.T[::-1] * 0}]),
        (lambda: Keypoints(["a", "b"]), [{"keypoints": POINTS}, {"keypoints": POINTS[::-1]}]),
        (several, [{"kind": np.int32(i), "size": np.array([i], np.float32)} for i in (0, 1)]),
    ],
)
def test_the_loss_of_each_task_is_weighted_per_image(make: Any, annotations: list[Any]) -> None:
    """The mean of weight times the loss of the image, also with class weights.

    Those of objects and Dice are normalized by the batch.
    """
    task = make()
    for one in getattr(task, "tasks", {"": task}).values():
        one.class_weights = [0.5, 3.0] if one.has_classes() else None
    keras.utils.set_random_seed(0)
    x = image = keras.Input((64, 64, 3))
    for filters in (4, 6, 8, 10, 12):
        x = keras.layers.Conv2D(filters, 3, 2, "same", activation="relu6")(x)
    x = x if task.needs_map else keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, task.head(x))
    flags = {"loss": ("auto",), "loss_weights": None, "label_smoothing": 0, "mixup": 0, "cutmix": 0}
    options = task.compile_options(model, SimpleNamespace(**flags))
    model.compile(loss=options["loss"], run_eagerly=True)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 64, 64, 3)).astype(np.float32)
    targets = [task.encode(one, (64, 64)) for one in annotations]

    def loss(rows: list[int], weights: Any) -> float:
        stacked = nested.stack([targets[i] for i in rows])
        found = model.evaluate(
            pixels[rows], stacked, sample_weight=np.array(weights), verbose=0, return_dict=True
        )
        return float(found["loss"])

    first, second = (2 * loss([0, 1], weights) for weights in ([1, 0], [0, 1]))
    assert min(first, second) > 0
    assert abs(first - second) > 1e-4
    assert loss([0, 1], [1, 1]) == pytest.approx((first + second) / 2, rel=1e-4)
    assert loss([0, 1], [0.5, 3]) == pytest.approx((0.5 * first + 3 * second) / 2, rel=1e-4)
    if task.name not in ("detection", "segmentation"):
        assert loss([1], [1]) == pytest.approx(second, rel=1e-4)
