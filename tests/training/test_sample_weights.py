"""Sample weights: from tables and readers to the loss, on images and on features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.data import BatchGenerator, DataReader, Mix, MultiLabelReader, RegressionReader
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
