"""The task of classification: losses, predictions, metrics, captions."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.tasks import Classification

TASK = Classification(["cat", "dog", "eel"])


def flags(**changes: Any) -> Any:
    given = {
        "loss": ("sparse_categorical_crossentropy",),
        "loss_weights": None,
        "label_smoothing": 0,
        "mixup": 0,
        "cutmix": 0,
    }
    return SimpleNamespace(**{**given, **changes})


@pytest.mark.parametrize("shape", [(6,), (6, 1), (2, 3, 4)])
def test_smoothed_labels_have_the_loss_of_the_formula(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 5, shape)
    labels = targets[..., 0] if shape[-1] == 1 else targets
    scores = rng.random((*labels.shape, 5)).astype("float32")
    scores /= scores.sum(-1, keepdims=True)
    expected = -((np.eye(5)[labels] * 0.8 + 0.04) * np.log(scores)).sum(-1)
    model = keras.Sequential([keras.Input(scores.shape[1:]), keras.layers.Activation("linear")])

    options = TASK.compile_options(model, flags(label_smoothing=0.2))
    np.testing.assert_allclose(options["loss"](targets, scores), expected, rtol=1e-5)
    model.compile("sgd", **options)
    evaluated = model.evaluate(scores, targets, verbose=0, return_dict=True)
    correct = np.mean(scores.argmax(-1) == labels)
    np.testing.assert_allclose(evaluated["accuracy"], correct, rtol=1e-5)

    soft = TASK.compile_options(model, flags(label_smoothing=0.2, mixup=0.2))["loss"]
    one_hot = np.eye(5, dtype="float32")[labels]
    np.testing.assert_allclose(soft(one_hot, scores), expected, rtol=1e-5)

    plain = -np.log(np.take_along_axis(scores, labels[..., None], -1))[..., 0]
    loss = TASK.compile_options(model, flags())["loss"]
    np.testing.assert_allclose(loss(targets, scores), plain, rtol=1e-5)


def two_outputs() -> keras.Model:
    x = keras.Input((4,))
    return keras.Model(x, [keras.layers.Dense(3)(x), keras.layers.Dense(1)(x)])


def test_several_outputs_have_a_loss_a_weight_and_metrics_each() -> None:
    args = flags(
        loss=("sparse_categorical_crossentropy", "mean_squared_error"), loss_weights=(1, 2)
    )
    options = TASK.compile_options(two_outputs(), args, metrics=[["accuracy"], ["mae"]])
    assert len(options["loss"]) == 2
    assert options["loss_weights"] == [1, 2]
    assert options["metrics"] == [["accuracy"], ["mae"]]


@pytest.mark.parametrize(
    ("changes", "flag"),
    [
        ({"loss": ("mse", "mse", "mse")}, "--loss"),
        ({"loss_weights": (1.0,)}, "--loss_weights"),
        ({"loss": ("sparse_categorical_crossentropi",)}, "sparse_categorical_crossentropy"),
        ({"loss": ("__name__",)}, "--loss"),
    ],
)
def test_an_unsuitable_loss_is_an_error(changes: dict[str, Any], flag: str) -> None:
    with pytest.raises(UserError, match=flag):
        TASK.compile_options(two_outputs(), flags(**changes))


def test_a_custom_loss_by_name() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])

    def mine(targets: Any, predictions: Any) -> Any:
        return predictions - targets

    options = TASK.compile_options(model, flags(loss=("mine",)), losses={"mine": mine})
    assert options["loss"] is mine


@pytest.mark.parametrize("outputs", [2, 4])
def test_a_model_with_another_number_of_classes_is_an_error(outputs: int) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(outputs)])
    with pytest.raises(UserError, match="classes"):
        TASK.check_model(model)


def test_a_model_with_several_outputs_is_an_error() -> None:
    with pytest.raises(UserError, match="output"):
        TASK.check_model(two_outputs())


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_scores_are_those_of_scikit_learn(pairs: list[tuple[int, int]]) -> None:
    from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support

    targets, predicted = (np.array(column) for column in zip(*pairs, strict=True))
    predictions = TASK.decode(np.eye(3)[predicted])
    details = TASK.details(predictions, targets)
    every = range(3)
    matrix = np.zeros((3, 3), int)
    for true, other, count in details["confusion_matrix"]:
        matrix[true, other] = count
    np.testing.assert_array_equal(matrix, confusion_matrix(targets, predicted, labels=every))
    expected = precision_recall_fscore_support(targets, predicted, labels=every, zero_division=0)
    columns = details["classes"]
    for name, column in zip(("precision", "recall", "f1", "images"), expected, strict=True):
        np.testing.assert_allclose(columns[name], column)
    scores = TASK.score(predictions, targets)
    assert next(iter(scores)) == TASK.main_metric
    np.testing.assert_allclose(scores["accuracy"], accuracy_score(targets, predicted))
    present = [r for r, n in zip(columns["recall"], columns["images"], strict=True) if n]
    np.testing.assert_allclose(scores["worst_class_recall"], min(present))


def test_mistakes_come_most_confident_first() -> None:
    scores = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0], [0.2, 0.8, 0], [0, 0.3, 0.7]])
    targets = np.array([1, 0, 0, 1])
    assert TASK.mistakes(TASK.decode(scores), targets).tolist() == [2, 3, 0]


def test_captions_and_pictures_name_prediction_and_true_label() -> None:
    scores = TASK.decode(np.array([[0.25, 0.75, 0]]))[0]
    assert TASK.describe(scores, top=2) == [
        {"label": "dog", "confidence": 0.75},
        {"label": "cat", "confidence": 0.25},
    ]
    assert "dog" in TASK.format_prediction(scores)
    image = np.full((40, 200, 3), 128, np.uint8)
    picture = TASK.draw(image, scores, target=0)
    assert picture.width == 200
    assert picture.height > 40
    np.testing.assert_array_equal(np.asarray(picture)[:40], image)
