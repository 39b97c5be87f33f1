"""Outputs, losses and targets that do not fit are refused before training, in words."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit import UserError
from kerakit.tasks import Classification
from kerakit.training import check_batch
from kerakit.training.checks import _ends_in_softmax
from projects import Project

TASK = Classification(["cat", "dog", "eel"])
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 6, 3)).astype(np.uint8)
INDICES = np.array([0, 1, 2, 0], np.int32)
SOFT = np.full((4, 3), 1 / 3, np.float32)


def model(*head: layers.Layer) -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((6, 6, 3))
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(image))
    for layer in head:
        x = layer(x)
    return keras.Model(image, x)


def softmax() -> keras.Model:
    return model(layers.Dense(3, "softmax"))


def check(built: keras.Model, loss: Any, targets: Any, task: Any = TASK) -> None:
    task.check_model(built)
    built.compile("sgd", loss)
    check_batch(built, task, (IMAGES, targets))


@pytest.mark.parametrize(
    "head",
    [
        [layers.Dense(3, "softmax")],
        [layers.Dense(3), layers.Softmax()],
        [layers.Dense(3), layers.Activation("softmax")],
        [layers.Dense(3), layers.Softmax(axis=1)],
        [layers.Dense(3, "softmax"), layers.Identity()],
        [keras.Sequential([layers.Dense(3, "softmax")])],
        [layers.Dense(3, "softmax", dtype="float16")],
    ],
)
def test_probabilities_pass(head: list[layers.Layer]) -> None:
    check(model(*head), "sparse_categorical_crossentropy", INDICES)


@pytest.mark.parametrize(
    "head",
    [
        [layers.Dense(3)],
        [layers.Dense(3, "sigmoid")],
        [layers.Dense(3, "relu")],
        [layers.Dense(3, "softmax"), layers.Rescaling(2)],
        [layers.Dense(3, "log_softmax")],
        [layers.Dense(3, "softmax"), layers.Lambda(lambda x: x * np.nan)],
    ],
)
def test_other_outputs_are_refused(head: list[layers.Layer]) -> None:
    with pytest.raises(UserError, match=r"not probabilities|NaN"):
        check(model(*head), "sparse_categorical_crossentropy", INDICES)


@pytest.mark.parametrize(
    ("head", "named"),
    [
        ([layers.Dense(2, "softmax")], "2 classes, the dataset 3"),
        ([layers.Dense(5, "softmax")], "5 classes, the dataset 3"),
        ([layers.Dense(6, "softmax"), layers.Reshape((2, 3))], "(None, 2, 3)"),
    ],
)
def test_other_shapes_are_refused(head: list[layers.Layer], named: str) -> None:
    with pytest.raises(UserError) as caught:
        check(model(*head), "sparse_categorical_crossentropy", INDICES)
    assert named in str(caught.value)


def test_weights_of_nan_are_refused() -> None:
    built = softmax()
    built.set_weights([weight * np.nan for weight in built.get_weights()])
    with pytest.raises(UserError, match="weights"):
        check(built, "sparse_categorical_crossentropy", INDICES)


class Mine(keras.Model):
    """A model without a graph of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = layers.GlobalAveragePooling2D(name="features")
        self.dense = layers.Dense(3, "softmax")

    def call(self, image: Any) -> Any:
        return self.dense(self.pool(keras.ops.cast(image, "float32")))


def test_a_subclassed_model_is_refused_with_the_fix() -> None:
    with pytest.raises(UserError, match=r"keras.Model\(image, model\(image\)\)"):
        TASK.check_model(Mine())
    with pytest.raises(UserError, match="graph"):
        TASK.check_model(keras.Sequential([layers.Dense(3)]))
    image = keras.Input((6, 6, 3))
    check(keras.Model(image, Mine()(image)), "sparse_categorical_crossentropy", INDICES)


@pytest.mark.parametrize(
    ("loss", "targets", "named"),
    [
        ("mean_squared_error", INDICES, "sparse_categorical_crossentropy"),
        ("categorical_crossentropy", INDICES, "sparse_categorical_crossentropy"),
        ("binary_crossentropy", INDICES, "sparse_categorical_crossentropy"),
        (keras.losses.CategoricalFocalCrossentropy(), INDICES, "sparse_categorical_crossentropy"),
        ("sparse_categorical_crossentropy", SOFT, "--loss categorical_crossentropy"),
        ("sparse_categorical_crossentropy", SOFT[:, 0], "mean_absolute_error"),
        ("sparse_categorical_crossentropy", INDICES + 1, "class indices below 3"),
        ("mean_squared_error", SOFT[:, 0], "one output"),
        (lambda targets, outputs: (targets - outputs) ** 2, INDICES, "sparse_"),
    ],
)
def test_a_loss_that_does_not_fit_is_refused(loss: Any, targets: Any, named: str) -> None:
    with pytest.raises(UserError, match="does not fit targets and outputs") as caught:
        check(softmax(), loss, targets)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        ("sparse_categorical_crossentropy", INDICES),
        ("sparse_categorical_crossentropy", INDICES[:, None]),
        ("mean_squared_error", SOFT),
        ("categorical_crossentropy", SOFT),
        ("kl_divergence", SOFT),
        (keras.losses.SparseCategoricalCrossentropy(), INDICES),
        (lambda _, outputs: keras.ops.mean(outputs, -1), INDICES),
    ],
)
def test_a_loss_that_fits(loss: Any, targets: Any) -> None:
    check(softmax(), loss, targets)


def test_class_names_that_are_numbers_are_regression_targets() -> None:
    numbers = [f"{i / 100:.3f}" for i in range(30)]
    integers = [str(i) for i in range(30)]
    for names in (numbers, [*integers[:-1], "0.5"], [*numbers[:-1], "nan"]):
        with pytest.raises(UserError, match=r"measurements.*task\.py"):
            Classification(names).check_model(model(layers.Dense(30, "softmax")))
    floats = [f"{i}.0" for i in range(30)]  # class numbers as pandas writes them
    for names in (numbers[:5], integers, floats, [*numbers, "other"], [*integers, "nan"]):
        count = len(names)
        Classification(names).check_model(model(layers.Dense(count, "softmax")))


def test_the_softmax_is_found() -> None:
    assert _ends_in_softmax(softmax())
    assert not _ends_in_softmax(model(layers.Dense(3, "softmax"), layers.Identity()))


LOGITS = '''
"""No softmax at the end."""


def construct(input_shape, num_classes):
    import keras
    from keras import layers

    image = keras.Input(input_shape)
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 127.5, offset=-1)(image))
    return keras.Model(image, layers.Dense(num_classes)(x), name="logits")
'''

FROM_LOGITS = """

def from_logits(targets, predictions):
    return keras.losses.sparse_categorical_crossentropy(targets, predictions, from_logits=True)


LOSSES["from_logits"] = from_logits
"""


def test_logits_are_refused_before_training_and_leave_nothing(project: Project) -> None:
    (project.path / "models" / "logits.py").write_text(LOGITS)
    with (project.path / "loss.py").open("a") as file:
        file.write(FROM_LOGITS)
    for loss in ("from_logits", "sparse_categorical_crossentropy"):
        done = project.train("--model", "logits", "--loss", loss)
        assert done.code == 2, done.out
        assert "not probabilities" in done.err
        assert "softmax" in done.err
        assert not (project.path / "progress").exists()


def test_a_backend_without_gradients_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "numpy")
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    batch = (np.zeros((3, 2)), np.array([0, 1, 1]))
    with pytest.raises(UserError, match="numpy cannot train"):
        check_batch(model, Classification(["a", "b"]), batch)
