"""The forecast for models before training, and what it advises to use instead."""

from __future__ import annotations

import importlib
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from converted import add_convolution, classify
from kerakit import UserError
from kerakit.deploy.edgetpu.loader import DYNAMIC_SIZES
from kerakit.deploy.edgetpu.untrained import describe_unsupported, forecast_model
from kerakit.tasks import Classification
from projects import PROJECT


def convolve(x: Any) -> Any:
    return layers.Conv2D(8, 3, padding="same")(x)


MAPPED: dict[str, Callable[[Any], Any]] = {
    "silu": lambda x: classify(layers.Activation("silu")(convolve(x))),
    "hard_sigmoid": lambda x: classify(layers.ReLU(6)(convolve(x) + 3.0) * (1 / 6)),
    "sigmoid": lambda x: layers.Dense(1, activation="sigmoid")(layers.Flatten()(x)),
    "add": lambda x: classify(layers.ReLU()(layers.Add()([x, convolve(x)]))),
    "normalized after pooling": lambda x: classify(
        layers.ReLU()(layers.BatchNormalization()(layers.MaxPooling2D()(x)))
    ),
    "upsampled": lambda x: classify(
        layers.UpSampling2D(interpolation="bilinear")(layers.Conv2DTranspose(4, 3, 2)(x))
    ),
    "padded": lambda x: classify(
        layers.SeparableConv2D(8, 3, dilation_rate=2)(
            layers.ZeroPadding2D()(layers.Cropping2D()(x))
        )
    ),
    "prelu": lambda x: classify(layers.PReLU(shared_axes=[1, 2])(convolve(x))),
    "rows": lambda x: classify(layers.Dense(8)(x)),
    "map of classes": lambda x: layers.Conv2D(4, 1, activation="softmax")(x),
    "squeeze-and-excite": lambda x: classify(
        x * layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
    "concatenated": lambda x: classify(
        layers.ReLU(6)(layers.Concatenate()([convolve(x), layers.Dropout(0.1)(x)]))
    ),
}

CULPRIT = "culprit"
"""Name of the layer to be named: the one behind the operator, or else the one before it."""

# Word for the operator, word of the advice, end of the model.
UNSUPPORTED: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "leaky": ("LEAKY_RELU", "ReLU6", lambda x: classify(layers.LeakyReLU(name=CULPRIT)(x))),
    "leaky ReLU": (
        "LEAKY_RELU",
        "ReLU6",
        lambda x: classify(layers.ReLU(negative_slope=0.1, name=CULPRIT)(convolve(x))),
    ),
    "hard-swish": (
        "HARD_SWISH",
        "mobilenet_v3_minimalistic",
        lambda x: classify(layers.Activation("hard_swish", name=CULPRIT)(x)),
    ),
    "elu": ("ELU", "ReLU6", lambda x: classify(layers.ELU(name=CULPRIT)(x))),
    "dilation": (
        "dilation",
        "same dilation",
        lambda x: classify(layers.Conv2D(8, 3, dilation_rate=(1, 2), name=CULPRIT)(x)),
    ),
    "prelu": (
        "PRELU",
        "shared_axes",
        lambda x: classify(layers.PReLU(name=CULPRIT)(convolve(x))),
    ),
    "pooled": (
        "fused activation",
        "before",
        lambda x: classify(layers.ReLU(name=CULPRIT)(layers.MaxPooling2D()(convolve(x)))),
    ),
}
UNKNOWN: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "enlarged": (
        "RESIZE_BILINEAR",
        "smaller factors",
        lambda x: classify(
            layers.MaxPooling2D(8)(
                layers.UpSampling2D(16, interpolation="bilinear", name=CULPRIT)(x)
            )
        ),
    ),
}
REFUSED: dict[str, tuple[str, str, Callable[[Any], Any]]] = {
    "gelu": (
        "GELU",
        "ReLU6",
        lambda x: layers.Dense(4, activation="gelu", name=CULPRIT)(layers.Flatten()(x)),
    ),
    "groups": (
        "CONV_2D",
        "DepthwiseConv2D",
        # Keras's own name of a grouped convolution does not reach the file.
        lambda x: classify(layers.Conv2D(8, 3, groups=4)(layers.Conv2D(8, 1, name=CULPRIT)(x))),
    ),
    "nearest": ("TILE", "bilinear", lambda x: classify(layers.UpSampling2D(name=CULPRIT)(x))),
    "deconvolved": (
        "TRANSPOSE_CONV",
        "UpSampling2D",
        lambda x: classify(
            layers.Conv2DTranspose(
                4, 3, 2, activation="relu", bias_initializer="ones", name=CULPRIT
            )(x)
        ),
    ),
}


@pytest.mark.parametrize("name", MAPPED)
def test_nothing_is_described_where_all_operators_map(name: str) -> None:
    forecast = forecast_model(add_convolution(MAPPED[name]))
    assert describe_unsupported(forecast) == []
    assert forecast.operators
    assert {operator.target for operator in forecast.operators} == {"tpu"}


@pytest.mark.parametrize(
    ("case", "verb"),
    [(case, "is unsupported") for case in UNSUPPORTED.values()]
    + [(case, "may be unsupported") for case in UNKNOWN.values()]
    + [(case, "rejected") for case in REFUSED.values()],
    ids=[*UNSUPPORTED, *UNKNOWN, *REFUSED],
)
def test_one_sentence_names_operator_layer_and_advice(
    case: tuple[str, str, Callable[[Any], Any]], verb: str
) -> None:
    operator, advice, end = case
    forecast = forecast_model(add_convolution(end))
    (sentence,) = describe_unsupported(forecast)
    for word in (operator, verb, advice):
        assert word in sentence
    assert re.search(rf"\((layer|after) {CULPRIT}\)", sentence)
    assert forecast.on_tpu < len(forecast.operators)
    assert (forecast.refused is not None) == (verb == "rejected")


def test_a_layer_of_several_operators_is_named_for_each_kind() -> None:
    end: Callable[[Any], Any] = lambda x: classify(layers.LayerNormalization(name=CULPRIT)(x))  # noqa: E731
    sentences = describe_unsupported(forecast_model(add_convolution(end)))
    assert sentences
    assert all(f"(layer {CULPRIT})" in sentence for sentence in sentences)
    assert len({sentence.split()[0] for sentence in sentences}) == len(sentences)


def test_refused_and_unsupported_layers_are_described_together() -> None:
    def end(x: Any) -> Any:
        x = layers.Conv2D(8, 3, groups=4)(layers.Conv2D(8, 1, name="before")(x))
        return classify(layers.LeakyReLU(name="leaky")(layers.UpSampling2D(name="nearest")(x)))

    sentences = describe_unsupported(forecast_model(add_convolution(end)))
    assert len(sentences) == 3
    assert all(any(name in one for one in sentences) for name in ("before", "leaky", "nearest"))


def test_many_layers_are_counted() -> None:
    image = keras.Input((8, 8, 3))
    x = image
    for i in range(5):
        x = layers.LeakyReLU(name=f"leaky{i}")(layers.Conv2D(3, 3, padding="same")(x))
    (sentence,) = describe_unsupported(forecast_model(keras.Model(image, x)))
    assert "(layers leaky0, leaky1, leaky2 and 2 more)" in sentence


def test_layers_of_nested_models_are_named() -> None:
    inner = keras.Sequential([keras.Input((8, 8, 3)), layers.LeakyReLU(name="inside")])
    model = keras.Sequential(
        [keras.Input((8, 8, 3)), inner, layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    )
    (sentence,) = describe_unsupported(forecast_model(model))
    assert "(layer inside)" in sentence


def test_dynamic_sizes_are_refused() -> None:
    model = keras.Sequential([keras.Input((None, None, 3)), layers.GlobalAveragePooling2D()])
    forecast = forecast_model(model)
    assert forecast.refused is DYNAMIC_SIZES
    (sentence,) = describe_unsupported(forecast)
    assert "fixed input size" in sentence


def test_a_model_that_the_converter_refuses_is_described(capfd: pytest.CaptureFixture[str]) -> None:
    def end(x: Any) -> Any:
        return classify(layers.Resizing(8, 8, interpolation="bicubic")(x))

    forecast = forecast_model(add_convolution(end))
    assert forecast.operators == ()
    (sentence,) = describe_unsupported(forecast)
    assert "TensorFlow Lite lacks operators of the model: ResizeBicubic" in sentence


# ------------------------------------------------------------------------- models of the template

MODEL_NAMES = sorted(path.stem for path in (PROJECT / "models").glob("[!_]*.py"))
FAST = (
    "efficientnet_lite0",
    "mobilenet_v2",
    "mobilenet_v3_minimalistic",
    "mobilenet_v3_small",
    "small_cnn",
)


@pytest.mark.parametrize(
    "name",
    [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODEL_NAMES],
)
def test_models_of_the_template(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(PROJECT), *sys.path])
    construct = importlib.import_module(f"models.{name}").construct
    forecast = forecast_model(construct((32, 32, 3), Classification(["a", "b", "c"])))
    sentences = describe_unsupported(forecast)
    if name in ("mobilenet_v3_small", "mobilenet_v3_large"):
        (hard_swish,) = sentences
        assert "HARD_SWISH" in hard_swish
        assert "mobilenet_v3_minimalistic" in hard_swish
        assert forecast.on_cpu > 100
    else:
        assert sentences == []
        assert (forecast.on_cpu, forecast.unknown) == (0, 0)
        assert forecast.on_tpu == len(forecast.operators) > 10


# --------------------------------------------------------------------------------- side effects


def draw_random_numbers() -> list[float]:
    import tensorflow as tf

    return [
        random.random(),
        float(np.random.random()),
        float(keras.random.uniform(())),
        float(keras.initializers.GlorotUniform()((1, 1))[0, 0]),
        float(tf.random.uniform(())),
    ]


def test_model_and_random_states_stay_as_they_are() -> None:
    def end(x: Any) -> Any:
        return classify(layers.Dropout(0.5)(layers.BatchNormalization()(convolve(x))))

    keras.utils.set_random_seed(1)
    expected = draw_random_numbers()
    model = add_convolution(end)
    before = [weights.copy() for weights in model.get_weights()]
    config = model.get_config()
    keras.utils.set_random_seed(1)
    forecast_model(model)
    assert draw_random_numbers() == expected
    assert model.get_config() == config
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    layers.Dense(1)
    before_name = layers.Dense(1).name
    forecast_model(model)
    after_name = layers.Dense(1).name
    assert int(after_name.split("_")[1]) == int(before_name.split("_")[1]) + 1


def test_mixed_precision_is_forecast_in_float32() -> None:
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = add_convolution(lambda x: classify(convolve(x)))
    finally:
        keras.config.set_dtype_policy(policy)
    policies = [layer.dtype_policy.name for layer in model.layers]
    assert "mixed_float16" in policies
    forecast = forecast_model(model)
    assert describe_unsupported(forecast) == []
    assert forecast.on_tpu == len(forecast.operators) > 0
    assert [layer.dtype_policy.name for layer in model.layers] == policies


def test_another_backend_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UserError, match="KERAS_BACKEND=tensorflow"):
        forecast_model(keras.Sequential([keras.Input((4, 4, 3))]))
