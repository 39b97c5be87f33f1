"""Where int8 loses too much: what is tried, from the cheapest on, until a file passes the gate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from kerakit.deploy import evaluate, litert, quantize, runtime
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.gate import Gate, Measured
from kerakit.deploy.quantization.calibration import Calibration
from kerakit.deploy.quantization.health import layers_of
from kerakit.tflite.layers import TfliteFile, tensor_name

FEWER = (1, 2, 4, 8, 16, 32)
"""How many layers are left in floats, one after the other."""
CLEAN = 100.0
"""In dB: what no rounding to 8 bits reaches counts as without noise."""
IMAGES_OF_NOISE = 16
"""On so many calibration images the noise of each layer is measured."""


Layer = tuple[str, float, float]
"""A Keras layer's name, and the signal-to-noise ratios of what goes into it and of what comes out, in dB, at most CLEAN."""


@dataclass(frozen=True)
class Rung:
    """What was tried, and what it gave.

    Attributes:
        tried: in words.
        content: the file.
        measured: on the held-out images.
        latency_ms: as in the report.
        on_tpu: how many operators the forecast for the Edge TPU maps.
        on_cpu: how many it does not, or cannot tell.
        in_floats: the layers that were left in floats.
    """

    tried: str
    content: bytes
    measured: Measured
    latency_ms: float
    on_tpu: int
    on_cpu: int
    in_floats: tuple[Layer, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return what the report says of it."""
        layers = [
            {"layer": name, "snr_in_db": before, "snr_out_db": after}
            for name, before, after in self.in_floats
        ]
        return {
            "tried": self.tried,
            "accuracy": self.measured.accuracy,
            "drop": self.measured.drop,
            "agreement": self.measured.agreement,
            "passed": self.measured.passed,
            "bytes": len(self.content),
            "latency_ms": self.latency_ms,
            "on_tpu": self.on_tpu,
            "on_cpu": self.on_cpu,
            "in_floats": layers,
        }


def climb(
    content: bytes, model: Any, calibration: Calibration, gate: Gate, say: Callable[[str], None]
) -> tuple[bytes, list[Rung]]:
    """Return the first file that passes ``gate``, else the one that loses least; and all rungs up to it.

    Args:
        content: the TensorFlow Lite file of floats.
        model: the ``keras.Model`` that it was made of, for the names of its layers.
        calibration: as for the file that did not pass.
        gate: which it did not pass.
        say: gets a line for each rung.
    """
    rungs: list[Rung] = []
    for tried, made, in_floats in _candidates(content, model, calibration):
        predict = litert.predictor(runtime.start(made, "the int8 model"))
        measured = gate.measure(gate.scores(predict))
        placed = forecast(made)
        rest = len(placed.operators) - placed.on_tpu
        rungs.append(
            Rung(
                tried,
                made,
                measured,
                evaluate.latency_ms(predict, gate.few[0]),
                placed.on_tpu,
                rest,
                in_floats,
            )
        )
        say(f"int8: {tried}: {measured.accuracy:.2%} are right, {measured.agreement:.2%} as Keras")
        if measured.passed:
            break
    best = max(
        rungs,
        key=lambda rung: (rung.measured.passed, rung.measured.accuracy, rung.measured.agreement),
    )
    return best.content, rungs


def _candidates(
    content: bytes, model: Any, calibration: Calibration
) -> Iterator[tuple[str, bytes, tuple[Layer, ...]]]:
    seen = quantize.look(content, calibration.images())
    yield f"ranges without outliers, {len(seen.low)} images", litert.int8(content, seen), ()
    more = calibration.twice() if calibration.twice else calibration
    if len(more.keys) > len(calibration.keys):
        seen = quantize.look(content, more.images())
        yield f"the same, {len(seen.low)} images", litert.int8(content, seen), ()
    yield (
        f"ranges of all that {len(seen.low)} images show",
        litert.int8(content, seen, quantize.of_all),
        (),
    )
    yield "ranges of a typical image", litert.int8(content, seen, quantize.typical), ()
    noisy = noise(content, quantize.to_int8(content, seen), model, calibration)
    for count in (*(number for number in FEWER if number < len(noisy)), len(noisy)):
        worst = noisy[:count]
        made = litert.int8(content, seen, floats=[tensor for tensor, _ in worst])
        yield f"{count} of {len(noisy)} layers in floats", made, tuple(layer for _, layer in worst)


def noise(
    content: bytes, quantized: bytes, model: Any, calibration: Calibration
) -> list[tuple[str, Layer]]:
    """Return what each operator adds to the noise, the worst first.

    Returns:
        For each operator of floats that int8 has too: the name of its output, and its layer with the signal-to-noise ratios.
    """
    from tensorflow.lite.tools import flatbuffer_utils

    exact, rounded = (
        flatbuffer_utils.convert_bytearray_to_object(each).subgraphs[0]
        for each in (content, quantized)
    )
    of_exact, run_exact = quantize.activations(content, "the model in floats")
    of_rounded, run_rounded = quantize.activations(quantized, "the int8 model")
    place = {bytes(rounded.tensors[index].name): k for k, index in enumerate(of_rounded)}
    pairs = [
        (k, place[name])
        for k, index in enumerate(of_exact)
        if (name := bytes(exact.tensors[index].name)) in place
    ]
    signal, error = np.zeros(len(pairs)), np.zeros(len(pairs))
    for image in islice(calibration.images(), IMAGES_OF_NOISE):
        values, answers = run_exact(image), run_rounded(image)
        for n, (a, b) in enumerate(pairs):
            signal[n] += np.square(values[a], dtype=np.float64).sum()
            error[n] += np.square(values[a] - answers[b], dtype=np.float64).sum()
    ratio = 10 * np.log10(np.maximum(signal, 1e-30) / np.maximum(error, 1e-30))
    snr = {
        int(of_exact[a]): min(CLEAN, float(value))
        for (a, _), value in zip(pairs, ratio, strict=True)
    }
    found = []
    for operator in TfliteFile(content, layers_of(model)).operators:
        out = operator.outputs[0]
        before = [snr[index] for index in operator.inputs if index in snr]
        if out in snr and before:
            found.append((tensor_name(exact.tensors[out]), (operator.layer, min(before), snr[out])))
    return sorted(found, key=lambda one: 10 ** (-one[1][1] / 10) - 10 ** (-one[1][2] / 10))
