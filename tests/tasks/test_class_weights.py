"""Class weights: factors of the losses of all tasks with classes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

from kerakit import UserError
from kerakit.data import DataReader
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
from kerakit.tasks.detection_loss import DetectionLoss, grid_points
from projects import write_image


class Labels:
    """A reader of given annotations; the last image is not for training."""

    def __init__(self, annotations: list[Any]) -> None:
        self.annotations = annotations

    def __len__(self) -> int:
        return len(self.annotations)

    def target(self, i: int) -> Any:
        return self.annotations[i]

    def image_path(self, i: int) -> Path:
        return Path(f"{i}.png")

    def indices(self, _: str) -> Any:
        return np.arange(len(self.annotations) - 1)


def loss_of(task: Task, **flags: Any) -> Any:
    args = SimpleNamespace(**{"label_smoothing": 0, "mixup": 0, "cutmix": 0, **flags})
    return task.find_loss("auto", args, {})


def weigh(task: Task, annotations: list[Any]) -> list[float]:
    task.balance_classes(Labels(annotations))  # type: ignore[arg-type]
    assert task.class_weights is not None
    return task.class_weights


def test_images_of_rare_classes_count_more(tmp_path: Path) -> None:
    for i in range(40):
        write_image(tmp_path / ("rare" if i % 8 == 0 else "common") / f"{i}.png", i)
    reader, task = DataReader(tmp_path), Classification(["common", "rare"])
    task.balance_classes(reader)
    counts = reader.counts("train")
    totals = [weight * n for weight, n in zip(task.class_weights or (), counts, strict=True)]
    assert np.allclose(totals, totals[0])
    assert np.isclose(sum(totals), counts.sum())


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 1000), smoothing=st.sampled_from([0, 0.2]), mixup=st.sampled_from([0, 1])
)
def test_the_weight_of_a_soft_label_is_that_of_all_its_classes(
    seed: int, smoothing: float, mixup: int
) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.dirichlet(np.ones(3), 7).astype(np.float32)
    indices = rng.integers(0, 3, 7)
    labels = rng.dirichlet(np.ones(3), 7).astype(np.float32) if mixup else np.eye(3)[indices]
    targets = labels if mixup else indices
    task = Classification(["a", "b", "c"])
    plain = loss_of(task, label_smoothing=smoothing, mixup=mixup)(targets, scores)
    task.class_weights = [0.25, 1.0, 4.0]
    weighted = loss_of(task, label_smoothing=smoothing, mixup=mixup)(targets, scores)
    expected = np.asarray(plain) * (labels @ [0.25, 1.0, 4.0])
    np.testing.assert_allclose(weighted, expected, rtol=1e-5)


@pytest.mark.parametrize("shape", [(12,), (12, 1)])
def test_weights_of_class_indices_are_those_of_keras(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).random((12, 3), np.float32)
    y = np.arange(12).reshape(shape) % 2
    task, trained = Classification(["a", "b"]), []
    for weights in (None, [0.25, 4.0]):
        task.class_weights = weights
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
        model.compile(keras.optimizers.SGD(0.1), loss_of(task))
        options = {} if weights else {"class_weight": {0: 0.25, 1: 4.0}}
        model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **options)
        trained.append(model.get_weights())
    for a, b in zip(*trained, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_positive_labels_weigh_as_much_as_negative_ones() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((51, 4)) < [0.1, 0.5, 0.9, 0]).astype(np.float32)
    task = MultiLabel(["a", "b", "c", "never"])
    weights = weigh(task, list(labels))
    count = labels[:-1].sum(axis=0)
    np.testing.assert_allclose(weights[:3] * count[:3], 50 - count[:3], rtol=1e-6)
    assert weights[3] == 1
    assert weigh(MultiLabel(["always"]), [np.ones(1)] * 9) == [0.01]
    for smoothing in (0, 0.1):
        scores = rng.uniform(0.1, 0.9, (50, 4)).astype(np.float32)
        soft = labels[:-1] * (1 - smoothing) + smoothing / 2
        entropy = -(soft * np.log(scores) + (1 - soft) * np.log(1 - scores))
        factors = np.where(labels[:-1] > 0, weights, 1)
        found = loss_of(task, label_smoothing=smoothing)(labels[:-1], scores)
        np.testing.assert_allclose(found, (entropy * factors).mean(axis=1), rtol=1e-5)


def test_objects_count_by_their_class() -> None:
    def annotation(classes: list[int], crowd: list[bool]) -> dict[str, Any]:
        boxes = np.array([[0, 0, 16, 16], [16, 16, 32, 32]], np.float32)[: len(classes)]
        return {"boxes": boxes, "classes": np.array(classes), "crowd": np.array(crowd, bool)}

    task = Detection(["a", "b"])
    labels = [annotation([0, 0], [False, False]), annotation([1, 1], [False, True])]
    assert weigh(task, [*labels, labels[0]]) == pytest.approx([0.75, 1.5])
    points, _ = grid_points((32, 32), (8, 16))
    outputs = np.random.default_rng(0).normal(size=(1, len(points), 7)).astype(np.float32)

    def loss(classes: list[int], weights: list[float] | None) -> float:
        target = task.encode(annotation(classes, [False] * len(classes)), (32, 32))[None]
        return float(DetectionLoss(2, (32, 32), (8, 16), weights)(target, outputs))

    assert loss([0, 1], [1, 1]) == pytest.approx(loss([0, 1], None), rel=1e-6)
    # Without objects of the class, its weight does not count; otherwise the loss is linear in it.
    assert loss([0], [1, 9]) == loss([0], None)
    values = [loss([0, 1], [1, factor]) for factor in (0, 1, 2)]
    assert values[2] - values[1] == pytest.approx(values[1] - values[0], rel=1e-4)
    assert values[1] > values[0] + 0.1


def test_detection_as_one_of_several_outputs_adapts_to_its_labels() -> None:
    boxes = {"boxes": np.zeros((9, 4)), "classes": np.zeros(9, int), "crowd": np.zeros(9, bool)}
    cells, kind = Detection(["a"]), Classification(["x", "y"])
    labels = [{"cells": boxes, "kind": np.int32(0)}] * 3
    MultiTask({"cells": cells, "kind": kind}).adapt(Labels(labels))  # type: ignore[arg-type]
    assert cells.max_boxes == 18


def test_each_output_has_its_own_weights() -> None:
    tasks = {"kind": Classification(["a", "b"]), "size": Regression(["size"])}
    task = MultiTask(tasks)
    kinds = [0, 0, 0, 1, 1]
    labels = [{"kind": np.int32(kind), "size": np.ones(1)} for kind in kinds]
    task.balance_classes(Labels(labels))  # type: ignore[arg-type]
    assert tasks["kind"].class_weights == pytest.approx([2 / 3, 2])
    assert tasks["size"].class_weights is None


@pytest.mark.parametrize(
    "task", [Regression(["size"]), Keypoints(["nose"]), MultiTask({"size": Regression(["size"])})]
)
def test_labels_without_classes_have_no_class_weights(task: Task) -> None:
    with pytest.raises(UserError, match=r"--class_weights weighs classes, which the task"):
        task.balance_classes(Labels([]))  # type: ignore[arg-type]


@pytest.mark.parametrize("label", [np.float32(0.5), np.zeros(3, np.int32), {"boxes": 1}])
def test_class_weights_of_other_labels_are_an_error(label: Any) -> None:
    with pytest.raises(UserError, match="--class_weights needs one class index"):
        weigh(Classification(["a", "b"]), [label, label])


@pytest.mark.parametrize("task", [MultiLabel(["a"]), Segmentation(["a", "b"]), Detection(["a"])])
def test_class_weights_of_another_loss_are_an_error(task: Task) -> None:
    task.class_weights = [1.0] * len(task.class_names)
    with pytest.raises(UserError, match=r"--class_weights .* not --loss mean_squared_error"):
        task.find_loss("mean_squared_error", SimpleNamespace(label_smoothing=0), {})


def test_class_weights_of_segmentation_are_factors_of_pixels() -> None:
    task = Segmentation(["a", "b"], stride=4)
    masks = np.zeros((1, 8, 8), np.uint8)
    masks[:, :, 4:] = 1
    scores = np.zeros((1, 2, 2, 2), np.float32)
    scores[..., 0] = 2
    plain = float(ops.mean(loss_of(task)(masks, scores)))
    weigh(task, [{"mask": masks[0]}] * 2)
    assert float(ops.mean(loss_of(task)(masks, scores))) == pytest.approx(plain)
    task.class_weights = [1.0, 5.0]
    assert float(ops.mean(loss_of(task)(masks, scores))) > plain + 0.1
