"""Forecast of what ``edgetpu_compiler`` 16.0.384591198 does with a TensorFlow Lite file.

Neither the compiler nor a device is needed. Three steps: the interpreter inside the compiler loads
the file (``loader``), each operator is supported or not by itself (``operators``), and of the
supported operators the first partition is compiled (``partition``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerakit.deploy.edgetpu.failures import find_likely_failures
from kerakit.deploy.edgetpu.loader import Refusal, find_refusals
from kerakit.deploy.edgetpu.operators import apply_rules
from kerakit.deploy.edgetpu.partition import MAYBE, NO, YES, select_partition
from kerakit.deploy.edgetpu.verdicts import DOCUMENT, MAPPED, SUBGRAPH, Target, Verdict
from kerakit.errors import UserError, printable_lines
from kerakit.tflite.graph import Graph, Operator, Tensor, read_graph
from kerakit.tflite.layers import keras_layer_names

if TYPE_CHECKING:
    import keras

COMPILER = "edgetpu_compiler 16.0.384591198"

ON_CHIP = 15 * 2**19
"""Typical memory for parameters: 7.5 MiB. Compiler logs show 6.1 to 7.9 MiB, less where activations
are larger."""

MAX_FILE_BYTES = 2**31
"""Limit of TensorFlow Lite's file format, whose offsets have 32 bits."""

_CASCADE = f"{DOCUMENT}; pair: deeplabv3_mnv2_dm05_pascal_quant; log of yolov3-tiny"


@dataclass(frozen=True)
class OperatorForecast:
    """Forecast for one operator.

    Attributes:
        index: in the order of execution, from 0.
        op: name in the schema, such as "CONV_2D".
        version: version of the operator.
        layer: name of the Keras layer behind it; "" if unknown.
        previous_layer: name of the last known layer before it; "" if unknown.
        verdict: on the operator in this file.
        by_itself: verdict without the operators around it, and without the compiler's rejections.
    """

    index: int
    op: str
    version: int
    layer: str
    previous_layer: str
    verdict: Verdict
    by_itself: Verdict

    @property
    def target(self) -> Target:
        """The device that runs it: "tpu", "cpu", or "unknown" if no source decides it."""
        return self.verdict.target

    @property
    def status(self) -> str:
        """Status as the compiler prints it."""
        return self.verdict.status

    @property
    def source(self) -> str:
        """Document, compiled file ("pair") or compiler log that shows the status."""
        return self.verdict.source


@dataclass(frozen=True)
class Forecast:
    """Forecast for one file.

    Attributes:
        operators: in the order of execution.
        refusals: reasons why the compiler writes no file, the one that it reports first; () if it
            writes one.
        parameter_bytes: estimated memory for the parameters on the Edge TPU, with padding.
        warnings: patterns of the graph on which the compiler is known to fail without a reason.
    """

    operators: tuple[OperatorForecast, ...]
    refusals: tuple[Refusal, ...]
    parameter_bytes: int
    warnings: tuple[str, ...] = ()

    @property
    def refused(self) -> Refusal | None:
        """The reason that the compiler reports; None if it compiles the file."""
        return self.refusals[0] if self.refusals else None

    @property
    def on_tpu(self) -> int:
        """Number of operators that run on the Edge TPU for certain."""
        return sum(operator.target == "tpu" for operator in self.operators)

    @property
    def on_cpu(self) -> int:
        """Number of operators that run on the CPU for certain."""
        return sum(operator.target == "cpu" for operator in self.operators)

    @property
    def unknown(self) -> int:
        """Number of operators that may run on either."""
        return len(self.operators) - self.on_tpu - self.on_cpu

    @property
    def subgraphs(self) -> int:
        """Number of Edge TPU subgraphs, 0 or 1."""
        return int(self.on_tpu > 0)

    @property
    def on_chip_bytes(self) -> int:
        """Estimated parameters cached on the chip between inferences, in bytes."""
        return min(self.parameter_bytes, ON_CHIP)

    @property
    def streamed_bytes(self) -> int:
        """Estimated parameters streamed to the chip at each inference, in bytes."""
        return self.parameter_bytes - self.on_chip_bytes

    def to_json(self) -> dict[str, Any]:
        """Return the forecast as JSON values."""
        return {
            "operators": [
                {
                    "index": operator.index,
                    "op": operator.op,
                    "version": operator.version,
                    "target": operator.target,
                    "status": operator.status,
                    "source": operator.source,
                }
                for operator in self.operators
            ],
            "on_tpu": self.on_tpu,
            "on_cpu": self.on_cpu,
            "unknown": self.unknown,
            "subgraphs": self.subgraphs,
            "on_chip_bytes": self.on_chip_bytes,
            "streamed_bytes": self.streamed_bytes,
            "warnings": list(self.warnings),
            "refused": self.refused.reason if self.refused else None,
        }


def forecast(content: bytes, model: keras.Model | None = None) -> Forecast:
    """Forecast where the operators of a TensorFlow Lite file run.

    Args:
        content: bytes of a ``.tflite`` file.
        model: the Keras model that it was converted from, for the names of layers.

    Raises:
        UserError: the content is not a TensorFlow Lite model, or damaged.

    >>> forecast(b"a photo")
    Traceback (most recent call last):
    kerakit.errors.UserError: not a TensorFlow Lite model: ...
    """
    graph = read_graph(content)
    refusals = tuple(find_refusals(graph))
    by_itself = [apply_rules(operator) for operator in graph.operators]
    if refusals:
        # Without a compiled file the whole model runs on the CPU.
        refused = Verdict("cpu", refusals[0].reason, refusals[0].source)
        verdicts = [refused] * len(graph.operators)
    else:
        verdicts = _partition(graph.operators, by_itself)
    layers = _name_layers(graph, model) if model else [("", "")] * len(graph.operators)
    forecasts = [
        OperatorForecast(operator.index, operator.op, operator.version, *names, verdict, itself)
        for operator, names, verdict, itself in zip(
            graph.operators, layers, verdicts, by_itself, strict=True
        )
    ]
    targets = [
        (one, verdict.target) for one, verdict in zip(graph.operators, verdicts, strict=True)
    ]
    return Forecast(
        tuple(forecasts),
        refusals,
        sum(_parameter_bytes(one) for one, target in targets if target == "tpu"),
        tuple(find_likely_failures([one for one, target in targets if target != "cpu"])),
    )


def forecast_file(path: Path) -> Forecast:
    """Forecast where the operators of a file run.

    Raises:
        UserError: it does not exist, or is not a TensorFlow Lite model.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder. Expected a .tflite file.")
    if not path.exists():
        raise UserError(f"no such file: {path}")
    if not path.is_file() or path.stat().st_size > MAX_FILE_BYTES:
        raise UserError(f"{path} is not a TensorFlow Lite model, which is a file of at most 2 GiB.")
    content = path.read_bytes()
    try:
        return forecast(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _name_layers(graph: Graph, model: keras.Model) -> list[tuple[str, str]]:
    """Return ``layer`` and ``previous_layer`` of each operator."""
    names: list[tuple[str, str]] = []
    made_by: dict[Tensor, int] = {}
    found = keras_layer_names(graph, model)
    # The converter names the tensor of an output after its place, not after its layer.
    output_layer = model.outputs[0]._keras_history.operation.name if len(model.outputs) == 1 else ""
    for index, (operator, name) in enumerate(zip(graph.operators, found, strict=True)):
        last = max((made_by.get(tensor, -1) for tensor in operator.activations), default=-1)
        previous = (names[last][0] or names[last][1]) if last >= 0 else ""
        if name == operator.op:
            name = output_layer if operator.outputs[0].name.startswith("Identity") else ""
        names.append((name, previous))
        made_by.update(dict.fromkeys(operator.outputs, index))
    return names


# ---------------------------------------------------------------------------------- partition

_CERTAINTY = {"cpu": NO, "unknown": MAYBE, "tpu": YES}


def _partition(operators: Sequence[Operator], by_itself: Sequence[Verdict]) -> list[Verdict]:
    """Return the verdicts on operators that stand in one graph."""
    supported = [_CERTAINTY[verdict.target] for verdict in by_itself]
    selected = select_partition(operators, supported)
    return [_in_graph(*pair) for pair in zip(by_itself, selected, strict=True)]


def _in_graph(by_itself: Verdict, selected: float) -> Verdict:
    if by_itself.target == "cpu" or selected == YES:
        return by_itself
    if selected == NO:
        return Verdict("cpu", SUBGRAPH, _CASCADE)
    if by_itself.target == "unknown":
        return Verdict("unknown", _either(by_itself.status), by_itself.source)
    return Verdict("unknown", _either(SUBGRAPH), _CASCADE)


def _either(status: str) -> str:
    return f"Unknown: {MAPPED}, or {status}"


# ------------------------------------------------------------------------------------- memory


def _parameter_bytes(operator: Operator) -> int:
    """Estimate the memory for the parameters of an operator, in bytes.

    The padding was read from compiled files. Among the pairs the sum is exact for dense_256 and
    gabor, and within 8 % for mobilenet_v1, posenet and deeplabv3. Parameters of other operators
    count as they are in the file.
    """
    weights = operator.input(1)
    shape = weights.shape if weights is not None and weights.data is not None else ()
    if operator.op in ("CONV_2D", "TRANSPOSE_CONV") and len(shape) == 4:
        return _pad(shape[0], 64) * shape[1] * shape[2] * _pad(shape[3], 4) + 16 * shape[0]
    if operator.op == "FULLY_CONNECTED" and len(shape) == 2:
        return _pad(shape[0], 16) * _pad(shape[1], 4) + 8 * shape[0]
    if operator.op == "DEPTHWISE_CONV_2D" and len(shape) == 4:
        return shape[1] * shape[2] * _pad(shape[3], 64) + 8 * shape[3]
    return sum(
        tensor.data.size
        for tensor in operator.inputs
        if tensor is not None and tensor.data is not None
    )


def _pad(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


# ------------------------------------------------------------------------------------- output


def print_forecast(forecast: Forecast, path: Path, as_json: bool) -> None:
    """Print the forecast for the file ``path``."""
    if as_json:
        print(json.dumps(forecast.to_json(), indent=2))
    else:
        print(printable_lines(format_forecast(forecast, path.name, path.stat().st_size)))


def format_forecast(forecast: Forecast, name: str, size: int) -> str:
    """Return the forecast as text in the layout of the compiler's output.

    Args:
        forecast: forecast for the file.
        name: name of the file.
        size: size of the file, in bytes.
    """
    lines = [f"Forecast for {COMPILER} (the compiler was not run)", ""]
    if forecast.refused:
        return "\n".join([*lines, *_format_refusal(forecast.refused, name)])
    on_chip, streamed = forecast.on_chip_bytes, forecast.streamed_bytes
    parameters = "model parameters"
    lines += [
        f"Input model: {name}",
        f"Input size: {format_bytes(size)}",
        f"On-chip memory used for caching {parameters}: {format_bytes(on_chip)} (estimated)",
        f"On-chip memory remaining for caching {parameters}: "
        f"{format_bytes(ON_CHIP - on_chip)} (estimated)",
        f"Off-chip memory used for streaming uncached {parameters}: "
        f"{format_bytes(streamed)} (estimated)",
        f"Number of Edge TPU subgraphs: {forecast.subgraphs}",
        f"Total number of operations: {len(forecast.operators)}",
        "",
        f"Number of operations that will run on Edge TPU: {forecast.on_tpu}",
        f"Number of operations that will run on CPU: {forecast.on_cpu}",
    ]
    if forecast.unknown:
        lines.append(f"Number of operations whose target is unknown: {forecast.unknown}")
    lines += ["", f"{'Operator':<30} {'Count':<10} Status", ""]
    rows = Counter((operator.op, operator.status) for operator in forecast.operators)
    lines += [f"{op:<30} {count:<10} {status}" for (op, status), count in rows.items()]
    for heading, target in (
        ("Unsupported operators, the first of each kind:", "cpu"),
        ("Operators whose support is unknown, the first of each kind:", "unknown"),
    ):
        if reasons := _format_reasons(forecast.operators, target):
            lines += ["", heading, *reasons]
    lines += [line for warning in forecast.warnings for line in ("", f"WARNING: {warning}")]
    return "\n".join(lines)


def _format_refusal(refusal: Refusal, name: str) -> list[str]:
    lines = [f"ERROR: {refusal.reason}", f"Invalid model: {name}", f"Source: {refusal.source}"]
    return [*lines, refusal.advice] if refusal.advice else lines


def _format_reasons(operators: Sequence[OperatorForecast], target: str) -> list[str]:
    """Return a line per kind of operator whose verdict by itself has this target."""
    first: dict[tuple[str, str, str], OperatorForecast] = {}
    for operator in operators:
        verdict = operator.by_itself
        if verdict.target == target:
            first.setdefault((operator.op, verdict.status, verdict.limit), operator)
    return [
        f"operator {one.index}, {f'{op} version {one.version} {limit}'.strip()}: {status} "
        f"[{one.by_itself.source}]"
        for (op, status, limit), one in first.items()
    ]


def format_bytes(size: int) -> str:
    """Return a number of bytes as the compiler prints it, such as "1.50KiB"."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.2f}{unit}"
    return f"{size:.2f}B"
