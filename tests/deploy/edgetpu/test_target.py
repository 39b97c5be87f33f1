"""The advice before training, against the forecast for what the converter makes of the same model."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

from converted import behind_a_convolution, classes, int8
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.edgetpu.target import advice
from projects import PROJECT


def convolution(x: Any) -> Any:
    return layers.Conv2D(8, 3, padding="same")(x)


MAPS: dict[str, Callable[[Any], Any]] = {
    "silu": lambda x: classes(layers.Activation("silu")(convolution(x))),
    "hard_sigmoid": lambda x: classes(layers.ReLU(6)(convolution(x) + 3.0) * (1 / 6)),
    "sigmoid": lambda x: layers.Dense(1, activation="sigmoid")(layers.Flatten()(x)),
    "add": lambda x: classes(layers.ReLU()(layers.Add()([x, convolution(x)]))),
    "normalised after pooling": lambda x: classes(
        layers.ReLU()(layers.BatchNormalization()(layers.MaxPooling2D()(x)))
    ),
    "upsampled": lambda x: classes(
        layers.UpSampling2D(interpolation="bilinear")(layers.Conv2DTranspose(4, 3, 2)(x))
    ),
    "padded": lambda x: classes(
        layers.SeparableConv2D(8, 3, dilation_rate=2)(
            layers.ZeroPadding2D()(layers.Cropping2D()(x))
        )
    ),
    "prelu": lambda x: classes(layers.PReLU(shared_axes=[1, 2])(convolution(x))),
    "joined": lambda x: classes(
        layers.ReLU(6)(layers.Concatenate()([convolution(x), layers.Dropout(0.1)(x)]))
    ),
}
DOES_NOT: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "leaky": ("LeakyReLU", lambda x: classes(layers.LeakyReLU()(x))),
    "leaky too": ("LeakyReLU", lambda x: classes(layers.ReLU(negative_slope=0.1)(convolution(x)))),
    "hard-swish": ("hard-swish", lambda x: classes(layers.Activation("hard_swish")(x))),
    "gelu": ("gelu", lambda x: layers.Dense(4, activation="gelu")(layers.Flatten()(x))),
    "elu": ("elu", lambda x: classes(layers.ELU()(x))),
    "squeeze": (
        "squeeze-and-excite",
        lambda x: classes(x * layers.Conv2D(8, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))),
    ),
    "rows": ("Dense", lambda x: classes(layers.Dense(8)(x))),
    "map of classes": ("softmax", lambda x: layers.Conv2D(4, 1, activation="softmax")(x)),
    "groups": ("groups", lambda x: classes(layers.Conv2D(8, 3, groups=4)(x))),
    "dilation": ("dilation", lambda x: classes(layers.Conv2D(8, 3, dilation_rate=(1, 2))(x))),
    "nearest": ("TILE", lambda x: classes(layers.UpSampling2D()(x))),
    "prelu": ("PReLU", lambda x: classes(layers.PReLU()(convolution(x)))),
    "pooled": (
        "after pooling",
        lambda x: classes(layers.ReLU()(layers.MaxPooling2D()(convolution(x)))),
    ),
    "deconvolved": (
        "Conv2DTranspose",
        lambda x: classes(
            layers.Conv2DTranspose(4, 3, 2, activation="relu", bias_initializer="ones")(x)
        ),
    ),
    "normalised": ("LayerNormalization", lambda x: classes(layers.LayerNormalization()(x))),
}


@pytest.mark.parametrize("name", MAPS)
def test_without_advice_all_maps(name: str) -> None:
    model = behind_a_convolution(MAPS[name])
    assert advice(model) == []
    assert {one.target for one in forecast(int8(model)).operators} == {"tpu"}


@pytest.mark.parametrize("name", DOES_NOT)
def test_with_advice_not_all_maps(name: str) -> None:
    words, end = DOES_NOT[name]
    model = behind_a_convolution(end)
    (sentence,) = advice(model)
    assert words in sentence
    assert any(layer.name in sentence for layer in model.operations)
    placement = forecast(int8(model))
    assert placement.on_tpu < len(placement.operators)


@pytest.mark.parametrize(
    "name", ["small_cnn", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_lite0"]
)
def test_the_projects_models(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(PROJECT), *sys.path])
    model = importlib.import_module(f"models.{name}").construct((32, 32, 3), 3)
    said, placement = advice(model), forecast(int8(model))
    if name == "mobilenet_v3_small":
        assert ["hard-swish" in said[0], "squeeze-and-excite" in said[1]] == [True, True]
        assert "mobilenet_v3_minimalistic" in said[0]
        assert placement.on_cpu > 100
    else:
        assert said == []
        assert (placement.on_cpu, placement.unknown) == (0, 0)


def test_models_in_models_and_open_sizes_are_seen() -> None:
    inner = keras.Sequential([keras.Input((None, None, 3)), layers.LeakyReLU(name="inside")])
    model = keras.Sequential(
        [keras.Input((None, None, 3)), inner, layers.Conv2D(4, 3), layers.GlobalAveragePooling2D()]
    )
    sizes, activation = advice(model)
    assert "sizes that are not fixed" in sizes
    assert activation.startswith("inside: ")


def test_many_layers_are_counted() -> None:
    image = keras.Input((8, 8, 3))
    x = image
    for i in range(5):
        x = layers.LeakyReLU(name=f"leaky{i}")(x)
    (sentence,) = advice(keras.Model(image, x))
    assert sentence.startswith("leaky0, leaky1, leaky2 and 2 more: ")
