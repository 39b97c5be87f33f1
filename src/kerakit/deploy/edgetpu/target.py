"""What of a Keras model the Edge TPU won't take, said before it is trained; what is written here was seen of converted models.

``placement`` forecasts the same of a converted file, operator by operator, and is the one to ask where the two differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

_ACTIVATIONS = ("hard_sigmoid", "linear", "relu", "relu6", "sigmoid", "silu", "softmax", "tanh")
"""Activations of Keras that become operators which map: silu, for one, LOGISTIC and MUL."""

_LAYERS = (
    "Activation", "Add", "Average", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv1D", "Conv2D",
    "Conv2DTranspose", "Cropping2D", "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalMaxPooling2D", "Identity", "InputLayer", "MaxPooling2D", "Maximum", "Minimum", "Multiply",
    "PReLU", "Permute", "ReLU", "Rescaling", "Reshape", "Resizing", "SeparableConv2D", "Softmax", "SpatialDropout2D",
    "Subtract", "UpSampling2D", "ZeroPadding2D",
)  # fmt: skip
"""Layers that were seen to map, within the limits below; Keras names its operations on tensors alike."""

_BESIDE_ANOTHER = ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")

_Finding = tuple[str, str]
"""What is wrong, and what to use instead."""


def advice(model: Any) -> list[str]:
    """Say what the Edge TPU won't take of a model that will be converted to full int8: one sentence for each kind of layer.

    Args:
        model: a built ``keras.Model``, functional or sequential; models within it are looked into.

    Returns:
        What won't map, or is not known to, in which layers, and what to use instead; empty if nothing is found.
    """
    found: dict[_Finding, list[str]] = {}
    if any(size is None for one in model.inputs for size in one.shape[1:]):
        dynamic = ("the compiler refuses sizes that are not fixed", "give the model its input size")
        found[dynamic] = [one.name for one in model.inputs]
    for layer in _layers(model):
        for check in _CHECKS:
            if finding := check(layer):
                found.setdefault(finding, []).append(layer.name)
                break
    return [f"{_listed(names)}: {what}; {instead}." for (what, instead), names in found.items()]


def _layers(model: Any) -> Iterator[Any]:
    """Yield the layers and operations of a model, and of the models in it."""
    for one in getattr(model, "operations", None) or model.layers:
        if hasattr(one, "layers"):
            yield from _layers(one)
        else:
            yield one


def _listed(names: list[str]) -> str:
    rest = len(names) - 3
    return ", ".join(names[:3]) + (f" and {rest} more" if rest > 0 else "")


# ------------------------------------------------------------------------------------------------------------------- the checks


def _activation(layer: Any) -> str:
    """Return the name of a layer's activation, "linear" where it has none."""
    function = getattr(layer, "activation", None)
    if _kind(layer) == "Softmax":
        return "softmax"
    return getattr(function, "__name__", "linear") if function is not None else "linear"


def _kind(layer: Any) -> str:
    return type(layer).__name__


def _unsupported_activation(layer: Any) -> _Finding | None:
    name = _activation(layer)
    if _kind(layer) == "ReLU" and layer.negative_slope:
        name = "leaky_relu"
    if _kind(layer) in ("LeakyReLU", "ELU"):
        name = {"LeakyReLU": "leaky_relu", "ELU": "elu"}[_kind(layer)]
    if name in _ACTIVATIONS:
        return None
    common = {"hard_silu": "hard-swish", "leaky_relu": "LeakyReLU"}.get(name, name)
    models = (
        ", or a model without it (mobilenet_v3_minimalistic, efficientnet_lite0)"
        if name == "hard_silu"
        else ""
    )
    return (
        f"{common} is none of the activations that map to the Edge TPU",
        f"use ReLU6{models}; at the end sigmoid or softmax",
    )


def _unknown_layer(layer: Any) -> _Finding | None:
    if _kind(layer) in _LAYERS:
        return None
    return (
        f"{_kind(layer)} is not known to map to the Edge TPU",
        "convert the model and run kerakit placement on it",
    )


def _broadcast(layer: Any) -> _Finding | None:
    shapes = {tuple(shape[1:]) for shape in _input_shapes(layer) if len(shape) > 1}
    if _kind(layer) not in _BESIDE_ANOTHER or len(shapes) < 2:
        return None
    return (
        "squeeze-and-excite, and whatever else combines tensors of different sizes, is not known to map to the Edge TPU",
        "use a model without it (mobilenet_v3_minimalistic, efficientnet_lite0)",
    )


def _input_shapes(layer: Any) -> list[tuple[int | None, ...]]:
    return [tuple(one.shape) for node in layer._inbound_nodes[:1] for one in node.input_tensors]


def _many_rows(layer: Any) -> _Finding | None:
    softmax = _activation(layer) == "softmax"
    if _kind(layer) != "Dense" and not softmax:
        return None
    shape = tuple(layer.output.shape)
    if all(size == 1 for size in shape[1:-1]):
        return None
    if softmax:
        return (
            "the Edge TPU takes a softmax of one row only",
            "leave it to the program that reads the scores",
        )
    return (
        "the Edge TPU takes a Dense layer on one row only",
        "use a convolution of 1 by 1 pixels, or Flatten before it",
    )


def _groups(layer: Any) -> _Finding | None:
    if getattr(layer, "groups", 1) == 1 or _kind(layer) not in ("Conv1D", "Conv2D"):
        return None
    return "the compiler refuses convolutions with groups", "use DepthwiseConv2D or SeparableConv2D"


def _dilation(layer: Any) -> _Finding | None:
    if len(set(getattr(layer, "dilation_rate", (1,)))) == 1:
        return None
    return (
        "the Edge TPU takes no dilation that differs in height and width",
        "use the same for both",
    )


def _nearest(layer: Any) -> _Finding | None:
    if _kind(layer) != "UpSampling2D" or layer.interpolation == "bilinear":
        return None
    return (
        "the compiler refuses what UpSampling2D becomes (TILE version 3)",
        'use interpolation="bilinear"',
    )


def _alpha(layer: Any) -> _Finding | None:
    if _kind(layer) != "PReLU" or all(size == 1 for size in layer.alpha.shape[:-1]):
        return None
    return (
        "the Edge TPU takes a PReLU with one weight for each channel only",
        "use shared_axes=[1, 2]",
    )


def _fused(layer: Any) -> _Finding | None:
    """Find a ReLU that the converter lets the operator before it do: pooling, or TRANSPOSE_CONV, whose version is then 4."""
    if _activation(layer) not in ("relu", "relu6") and _kind(layer) != "ReLU":
        return None
    before = layer if _kind(layer) == "Conv2DTranspose" else _maker(layer)
    if _kind(before) in ("AveragePooling2D", "MaxPooling2D"):
        return "the Edge TPU takes no ReLU after pooling", "put it before the pooling"
    normalised = _kind(before) == "BatchNormalization"
    if normalised:
        before = _maker(before)
    if _kind(before) == "Conv2DTranspose" and (normalised or before.use_bias):
        return (
            "the compiler refuses a ReLU after Conv2DTranspose",
            'use UpSampling2D(interpolation="bilinear") and a convolution',
        )
    return None


def _maker(layer: Any) -> Any:
    """Return the layer that makes the first input of ``layer``; None where that is not known."""
    tensors = [one for node in layer._inbound_nodes[:1] for one in node.input_tensors]
    return (
        getattr(getattr(tensors[0], "_keras_history", None), "operation", None) if tensors else None
    )


_CHECKS: tuple[Callable[[Any], _Finding | None], ...] = (
    _unsupported_activation, _unknown_layer, _broadcast, _many_rows, _groups, _dilation, _nearest, _alpha, _fused,
)  # fmt: skip
