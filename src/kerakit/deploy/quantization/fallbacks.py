"""Fallbacks for an int8 file that fails the accuracy gate, from the cheapest to the costliest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.gate import AccuracyGate, Measurement
from kerakit.deploy.quantization.calibration import Calibration
from kerakit.deploy.quantization.int8 import quantize_int8
from kerakit.deploy.quantization.ranges import (
    ActivationRecorder,
    ActivationStats,
    collect_ranges,
    mean_ranges,
    min_max_ranges,
)
from kerakit.inference import measure_latency_ms
from kerakit.report.formatting import format_percent
from kerakit.tflite.graph import read_graph
from kerakit.tflite.layers import keras_layer_names
from kerakit.tflite.normalization import fold_normalization
from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn

if TYPE_CHECKING:
    import keras

FLOAT32_LAYERS = (1, 2, 4, 8, 16, 32)
"""Numbers of layers that stay in float32, one attempt each."""
MAX_SNR_DB = 100.0
"""Limit of signal-to-noise ratios, in dB; 8-bit rounding does not reach it."""
NOISE_IMAGES = 16
"""Number of calibration images on which the noise of the layers is measured."""


@dataclass(frozen=True)
class LayerNoise:
    """Quantization noise of a layer in the int8 model.

    Attributes:
        layer: name of the Keras layer.
        snr_in_db: lowest signal-to-noise ratio of its inputs, in dB, at most MAX_SNR_DB.
        snr_out_db: that of its output.
    """

    layer: str
    snr_in_db: float
    snr_out_db: float

    @property
    def added(self) -> float:
        """Noise power that the layer adds, relative to the signal."""
        return float(10 ** (-self.snr_out_db / 10) - 10 ** (-self.snr_in_db / 10))


@dataclass(frozen=True)
class Attempt:
    """An int8 file from one of the fallbacks.

    Attributes:
        name: name of the fallback, human-readable.
        content: the file.
        measurement: on the held-out images.
        latency_ms: median for one image, in milliseconds.
        on_tpu: operators that map to the Edge TPU, according to the forecast.
        on_cpu: other operators, those with an unknown mapping too.
        float32_layers: layers that stay in float32.
    """

    name: str
    content: bytes
    measurement: Measurement
    latency_ms: float
    on_tpu: int
    on_cpu: int
    float32_layers: tuple[LayerNoise, ...]

    def to_json(self, metadata: int = 0) -> dict[str, Any]:
        """Return the entry of the report.

        Args:
            metadata: bytes that the metadata add to the file.
        """
        return {
            "attempt": self.name,
            **asdict(self.measurement),
            "size_bytes": len(self.content) + metadata,
            "latency_ms": self.latency_ms,
            "on_tpu": self.on_tpu,
            "on_cpu": self.on_cpu,
            "float32_layers": [asdict(layer) for layer in self.float32_layers],
        }


def try_fallbacks(
    content: bytes,
    model: keras.Model,
    calibration: Calibration,
    stats: ActivationStats,
    gate: AccuracyGate,
    log: Callable[[str], None],
) -> tuple[Attempt, list[Attempt]]:
    """Quantize a model in other ways until one passes the accuracy gate.

    Args:
        content: the float32 TensorFlow Lite file.
        model: the Keras model that it was made from.
        calibration: that of the file that failed.
        stats: statistics of the activations of ``content`` on its images.
        gate: the accuracy gate.
        log: called with one line per attempt.

    Returns:
        The selected attempt, which is the first that passes, else the one with the smallest
        accuracy drop; and all attempts, in order.
    """
    attempts: list[Attempt] = []
    for name, quantized, float32_layers in _fallbacks(content, model, calibration, stats):
        predict = tflite_predict_fn(
            start_interpreter(quantized, "the int8 model"), gate.output_names
        )
        measurement = gate.measure(gate.predict(predict))
        latency_ms = measure_latency_ms(predict, gate.sample_images[0])
        mapping = forecast(quantized)
        on_cpu = len(mapping.operators) - mapping.on_tpu
        attempts.append(
            Attempt(
                name, quantized, measurement, latency_ms, mapping.on_tpu, on_cpu, float32_layers
            )
        )
        log(
            f"int8 fallback: {name}: {gate.main_metric} "
            f"{format_percent(measurement.metrics[gate.main_metric])}, "
            f"agreement {format_percent(measurement.agreement)}"
        )
        if measurement.passed:
            break
    return max(attempts, key=_quality), attempts


def _quality(attempt: Attempt) -> tuple[bool, float, float]:
    measurement = attempt.measurement
    return measurement.passed, -measurement.drop, measurement.agreement


def _fallbacks(
    content: bytes, model: keras.Model, calibration: Calibration, stats: ActivationStats
) -> Iterator[tuple[str, bytes, tuple[LayerNoise, ...]]]:
    """Yield name, int8 file, and layers in float32 of each attempt."""
    doubled = [calibration.doubled()] if calibration.doubled else []
    for images in (calibration, *doubled):
        if images is not calibration:
            stats = collect_ranges(content, images.images())
        quantized = quantize_int8(content, stats)
        yield f"percentile ranges, {len(images.keys)} images", quantized, ()
    for name, ranges in (("min-max", min_max_ranges), ("mean", mean_ranges)):
        other = quantize_int8(content, stats, ranges)
        yield f"{name} ranges, {len(images.keys)} images", other, ()
    noise = _measure_noise(content, quantized, model, images)
    counts = {min(count, len(noise)) for count in (*FLOAT32_LAYERS, len(noise))} - {0}
    for count in sorted(counts):
        outputs, layers = zip(*noise[:count], strict=True)
        if count == len(noise):
            # Those without a measurement, too.
            graph = read_graph(fold_normalization(content).content)
            outputs = tuple(one.outputs[0].name for one in graph.operators)
        mixed = quantize_int8(content, stats, float32_outputs=outputs)
        yield f"{count} of {len(noise)} layers in float32", mixed, layers


def _measure_noise(
    content: bytes, quantized: bytes, model: keras.Model, calibration: Calibration
) -> list[tuple[str, LayerNoise]]:
    """Return the noise of each float32 operator that the int8 file has too, largest first.

    Returns:
        Pairs of the operator's output tensor, by name, and its noise.
    """
    normalized = fold_normalization(content)
    float32 = ActivationRecorder(
        normalized.content, "the float32 model", normalized.scale, normalized.zero_point
    )
    int8 = ActivationRecorder(quantized, "the int8 model")
    columns = {name: column for column, name in enumerate(int8.names)}
    shared = [(column, name) for column, name in enumerate(float32.names) if name in columns]
    signal, error = np.zeros(len(shared)), np.zeros(len(shared))
    for image in islice(calibration.images(), NOISE_IMAGES):
        exact, rounded = float32.record(image), int8.record(image)
        for i, (column, name) in enumerate(shared):
            signal[i] += np.square(exact[column], dtype=np.float64).sum()
            difference = exact[column] - rounded[columns[name]]
            error[i] += np.square(difference, dtype=np.float64).sum()
    ratio = 10 * np.log10(np.maximum(signal, 1e-30) / np.maximum(error, 1e-30))
    snr = {
        int(float32.tensors[column]): min(MAX_SNR_DB, float(value))
        for (column, _), value in zip(shared, ratio, strict=True)
    }
    graph = read_graph(normalized.content)
    noise = []
    for operator, layer in zip(graph.operators, keras_layer_names(graph, model), strict=True):
        output = operator.outputs[0]
        inputs = [snr[one.index] for one in operator.activations if one.index in snr]
        if output.index in snr and inputs:
            noise.append((output.name, LayerNoise(layer, min(inputs), snr[output.index])))
    return sorted(noise, key=lambda one: one[1].added, reverse=True)
