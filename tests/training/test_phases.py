"""Strategies become phases; class weights balance the classes."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from kerakit import UserError
from kerakit.data import BatchGenerator, DataReader, Mix
from kerakit.training import ClassWeighted, compute_class_weights, select_phases
from projects import write_image


@pytest.mark.parametrize(
    ("strategy", "weights", "checkpoint", "phases"),
    [
        ("auto", "imagenet", None, ("head", "finetune")),
        ("auto", "none", None, ("scratch",)),
        ("auto", "none", ("head", "finetune"), ("finetune",)),
        ("auto", "none", ("scratch",), ("scratch",)),
        ("auto", "none", (), ("scratch",)),
        ("head", "imagenet", None, ("head",)),
        ("head", "none", ("scratch",), ("head",)),
        ("finetune", "imagenet", None, ("head", "finetune")),
        ("finetune", "none", (), ("finetune",)),
        ("scratch", "imagenet", None, ("scratch",)),
    ],
)
def test_the_phases_of_a_strategy(
    strategy: str, weights: str, checkpoint: tuple[str, ...] | None, phases: tuple[str, ...]
) -> None:
    assert select_phases(strategy, weights, checkpoint) == phases  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["head", "finetune"])
def test_a_strategy_that_needs_pretrained_weights(strategy: str) -> None:
    with pytest.raises(UserError, match="--strategy"):
        select_phases(strategy, "none")  # type: ignore[arg-type]


def test_class_weights_make_classes_count_the_same(tmp_path: Path) -> None:
    for i in range(40):
        write_image(tmp_path / ("rare" if i % 8 == 0 else "common") / f"{i}.png", i)
    reader = DataReader(tmp_path)
    weights, counts = compute_class_weights(reader), reader.counts("train")
    totals = [weights[i] * count for i, count in enumerate(counts)]
    assert np.allclose(totals, totals[0])
    assert np.isclose(sum(totals), counts.sum())


@pytest.mark.parametrize("mix", [Mix(2, mixup=0.4), Mix(2, cutmix=1.0), None])
def test_soft_labels_are_weighted_by_all_of_their_classes(photos: Path, mix: Mix | None) -> None:
    weights = {0: 0.25, 1: 4.0}
    generator = BatchGenerator(DataReader(photos), "train", 7, (20, 16), mix=mix)
    weighted = ClassWeighted(generator, weights)
    assert len(weighted) == len(generator)
    for i in range(len(weighted)):
        _, targets, found = weighted[i]
        soft = targets if mix else np.eye(2)[targets]
        np.testing.assert_allclose(found, [0.25 * a + 4 * b for a, b in soft], rtol=1e-6)
    generator.close()


def test_weights_of_class_indices_are_those_of_keras() -> None:
    x = np.random.default_rng(0).random((12, 3), np.float32)
    y, weights = np.arange(12) % 2, {0: 0.25, 1: 4.0}
    trained = []
    for weigh in (False, True):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
        model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy")
        if weigh:
            batches = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4, 8)]
            model.fit(ClassWeighted(batches, weights), shuffle=False, verbose=0)
        else:
            model.fit(x, y, batch_size=4, shuffle=False, class_weight=weights, verbose=0)
        trained.append(model.get_weights())
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


@pytest.mark.parametrize("targets", [np.zeros((2, 3)), np.zeros(2), (np.zeros(2, int),) * 2])
def test_class_weights_of_other_targets_are_an_error(targets: object) -> None:
    with pytest.raises(UserError, match="--class_weights"):
        ClassWeighted([(np.zeros((2, 1)), targets)], {0: 1.0, 1: 1.0})[0]
