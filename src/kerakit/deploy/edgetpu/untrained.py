"""Forecast for a Keras model before it is trained: of its int8 conversion, with random images."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy.edgetpu.forecast import Forecast, OperatorForecast, forecast
from kerakit.deploy.edgetpu.loader import DYNAMIC_SIZES, Refusal
from kerakit.deploy.edgetpu.verdicts import TYPE, Verdict
from kerakit.errors import JobError, list_names
from kerakit.tflite.convert import check_backend, make_int8_converter, run_converter

if TYPE_CHECKING:
    import keras


def forecast_model(model: keras.Model) -> Forecast:
    """Forecast where the operators of a model will run once it is converted to int8.

    The operators depend on the architecture alone, so the model need not be trained. Those that
    normalize pixels are included; the export often needs none. It takes a few seconds. The
    model and all random states are unchanged.

    Args:
        model: a built model with one input (batch, height, width, channels).

    Returns:
        The forecast, with the names of the Keras layers. If the converter rejects the model, so
        does the forecast.

    Raises:
        UserError: Keras runs on another backend than TensorFlow, which the converter needs.

    >>> import keras
    >>> image = keras.Input((8, 8, 3))
    >>> forecast = forecast_model(keras.Model(image, keras.layers.Conv2D(4, 3)(image)))
    >>> forecast.on_tpu > 0, forecast.on_cpu, forecast.unknown
    (True, 0, 0)
    """
    check_backend(
        "the Edge TPU forecast", "here, or run kerakit placement on the exported model.tflite"
    )
    if None in model.input_shape[1:]:
        return Forecast((), (DYNAMIC_SIZES,), 0)
    try:
        content = run_converter(make_int8_converter(model, [_noise(model)]).convert, model)
    except JobError as error:
        return Forecast((), (Refusal(str(error), "TensorFlow's converter"),), 0)
    return forecast(content, model)


def _noise(model: keras.Model) -> NDArray[np.int64]:
    """Return an image of random pixels, (height, width, channels)."""
    shape: tuple[int, ...] = model.input_shape[1:]
    return np.random.default_rng(0).integers(0, 256, shape)


def describe_unsupported(forecast: Forecast) -> list[str]:
    """Describe the operators of a model that do not map to the Edge TPU.

    Args:
        forecast: with layer names, of ``forecast_model``.

    Returns:
        A sentence per kind of operator that is rejected, unsupported or unknown, with the names of
        its layers and what to use instead, and the warnings of the forecast. Empty if all operators
        map to the Edge TPU.

    >>> import keras
    >>> image = keras.Input((8, 8, 3))
    >>> model = keras.Model(image, keras.layers.LeakyReLU(name="leaky")(image))
    >>> describe_unsupported(forecast_model(model))
    ['LEAKY_RELU is unsupported by the Edge TPU (layer leaky). Use ReLU6, ...']
    """
    described: dict[tuple[str, int], str] = {}
    refused: list[OperatorForecast] = []
    for refusal in forecast.refusals:
        kind = (refusal.op, refusal.version)
        if kind in described:
            continue
        cause = f"the model cannot be compiled for the Edge TPU: {refusal.reason}"
        if refusal.op:
            operators = _find_refused(forecast, kind)
            refused += operators
            cause = f"{refusal.op} version {refusal.version} is rejected by the Edge TPU compiler"
            cause += _list_layers(operators)
        described[kind] = _sentences(cause, refusal)
    layers = {one.layer for one in refused if one.layer}
    rest = [one for one in forecast.operators if one not in refused and one.layer not in layers]
    return [*described.values(), *_describe_operators(rest), *forecast.warnings]


def _find_refused(forecast: Forecast, kind: tuple[str, int]) -> list[OperatorForecast]:
    """Return the operators of a refused kind and version.

    All operators of a kind have the version that the newest of them needs: where some are
    unsupported by themselves, those are the cause.
    """
    operators = [one for one in forecast.operators if (one.op, one.version) == kind]
    return [one for one in operators if one.by_itself.target != "tpu"] or operators


def _describe_operators(operators: list[OperatorForecast]) -> list[str]:
    # The converter puts QUANTIZE and DEQUANTIZE around each operator that stays in float32.
    conversions = ("QUANTIZE", "DEQUANTIZE")
    if any(one.by_itself.status == TYPE and one.op not in conversions for one in operators):
        operators = [one for one in operators if one.op not in conversions]
    groups: dict[tuple[str, str, str], list[OperatorForecast]] = {}
    for one in operators:
        if one.by_itself.target != "tpu":
            key = (one.op, one.by_itself.target, one.by_itself.limit)
            groups.setdefault(key, []).append(one)
    verbs = {
        "cpu": "is unsupported by the Edge TPU",
        "unknown": "may be unsupported by the Edge TPU",
    }
    return [
        _sentences(
            f"{' '.join(filter(None, (op, limit)))} {verbs[target]}{_list_layers(group)}",
            group[0].by_itself,
        )
        for (op, target, limit), group in groups.items()
    ]


def _list_layers(operators: list[OperatorForecast]) -> str:
    for label, names in (
        ("layer", [one.layer for one in operators]),
        ("after", [one.previous_layer for one in operators]),
    ):
        if unique := [name for name in dict.fromkeys(names) if name]:
            plural = "s" if label == "layer" and len(unique) > 1 else ""
            return f" ({label}{plural} {list_names(unique)})"
    return ""


def _sentences(cause: str, reason: Refusal | Verdict) -> str:
    return f"{cause.removesuffix('.')}. {reason.advice}".rstrip()
