"""A forecast of what Google's ``edgetpu_compiler`` 16.0.384591198 makes of a TensorFlow Lite file, without it or a device.

First the file is loaded as the interpreter inside the compiler would (``loader_2021``), then each operator is judged for itself
(``placement_rules``), and of those that the Edge TPU takes the first part is compiled (``first_part``).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kerakit.deploy.edgetpu.loader import Refusal, refusal
from kerakit.deploy.edgetpu.operators import DOCUMENT, MAPPED, SUBGRAPH, Target, Verdict, judge
from kerakit.deploy.edgetpu.partition import MAYBE, NO, YES, first_part
from kerakit.errors import UserError
from kerakit.tflite.graph import Graph, Operator, read_graph

COMPILER = "edgetpu_compiler 16.0.384591198"

ON_CHIP = 15 * 2**19
"""Bytes that real logs offer for parameters, about: 7.5 MiB. They lie from 6.1 to 7.9, less where activations are larger."""

_CASCADE = f"{DOCUMENT}; pair: deeplabv3_mnv2_dm05_pascal_quant; log of yolov3-tiny"


@dataclass(frozen=True)
class Placed:
    """What becomes of one operator.

    Attributes:
        index: its place in the file, from 0.
        op: its kind, as the compiler names it.
        version: of its kind.
        target: "tpu", "cpu", or "unknown" where nothing that was seen decides it.
        status: in the compiler's words.
        source: the document, real pair or real log that says so.
    """

    index: int
    op: str
    version: int
    target: Target
    status: str
    source: str


@dataclass(frozen=True)
class Placement:
    """A forecast for one file.

    Attributes:
        operators: what becomes of each, in the order of execution.
        refused: why the compiler would give no file; None where it would.
        parameter_bytes: about what the part on the Edge TPU keeps of weights and biases, padded as the chip wants them.
    """

    operators: tuple[Placed, ...]
    refused: Refusal | None
    parameter_bytes: int

    @property
    def on_tpu(self) -> int:
        """How many operators run on the Edge TPU for certain."""
        return sum(one.target == "tpu" for one in self.operators)

    @property
    def on_cpu(self) -> int:
        """How many operators run on the CPU for certain."""
        return sum(one.target == "cpu" for one in self.operators)

    @property
    def unknown(self) -> int:
        """How many operators may run on either."""
        return len(self.operators) - self.on_tpu - self.on_cpu

    @property
    def subgraphs(self) -> int:
        """How many parts run on the Edge TPU: one at most."""
        return int(self.on_tpu > 0)

    @property
    def on_chip_bytes(self) -> int:
        """About how many bytes of parameters stay on the chip from one inference to the next."""
        return min(self.parameter_bytes, ON_CHIP)

    @property
    def streamed_bytes(self) -> int:
        """About how many bytes of parameters are sent anew for each inference."""
        return self.parameter_bytes - self.on_chip_bytes

    def to_json(self) -> dict[str, Any]:
        """Return the forecast for programs."""
        return {
            "operators": [vars(one) for one in self.operators],
            "on_tpu": self.on_tpu,
            "on_cpu": self.on_cpu,
            "unknown": self.unknown,
            "subgraphs": self.subgraphs,
            "on_chip_bytes": self.on_chip_bytes,
            "streamed_bytes": self.streamed_bytes,
            "refused": self.refused.reason if self.refused else None,
        }


def forecast(content: bytes) -> Placement:
    """Forecast the placement of the operators of a ``.tflite`` file.

    Args:
        content: the bytes of the file.

    Raises:
        UserError: they are no TensorFlow Lite model, or damaged.
    """
    graph = read_graph(content)
    refused = refusal(graph)
    # Without a compiled file the whole model runs on the CPU.
    verdicts = (
        [Verdict("cpu", refused.reason, refused.source)] * len(graph.operators)
        if refused
        else _place(graph)
    )
    placed = [
        Placed(
            operator.index,
            operator.op,
            operator.version,
            verdict.target,
            verdict.status,
            verdict.source,
        )
        for operator, verdict in zip(graph.operators, verdicts, strict=True)
    ]
    mapped = [
        operator
        for operator, one in zip(graph.operators, placed, strict=True)
        if one.target == "tpu"
    ]
    return Placement(tuple(placed), refused, sum(map(_parameter_bytes, mapped)))


def forecast_file(path: Path) -> Placement:
    """Forecast the placement of a file. Raises UserError where it is not there, cannot be read, or is no model."""
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise UserError(f"{path} is a folder. Expected a .tflite file.") from None
    except FileNotFoundError:
        raise UserError(f"there is no file {path}.") from None
    try:
        return forecast(content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


# ------------------------------------------------------------------------------------------------------------------- partition

_CERTAINTY = {"cpu": NO, "unknown": MAYBE, "tpu": YES}


def _place(graph: Graph) -> list[Verdict]:
    """Return what becomes of each operator beside the others."""
    alone = [judge(operator) for operator in graph.operators]
    part = first_part(graph.operators, [_CERTAINTY[verdict.target] for verdict in alone])
    return [_beside_others(verdict, inside) for verdict, inside in zip(alone, part, strict=True)]


def _beside_others(alone: Verdict, inside: float) -> Verdict:
    if alone.target == "cpu" or inside == YES:
        return alone
    if inside == NO:
        return Verdict("cpu", SUBGRAPH, _CASCADE)
    if alone.target == "unknown":
        return Verdict("unknown", f"{MAPPED}, or: {alone.status}", alone.source)
    return Verdict("unknown", f"{MAPPED}, or: {SUBGRAPH}", _CASCADE)


# ---------------------------------------------------------------------------------------------------------------------- memory


def _parameter_bytes(operator: Operator) -> int:
    """Estimate what the parameters of an operator take on the chip.

    The padding was read from compiled files: of the pairs, the sum is exact for dense_256 and gabor, and within 8 % for
    mobilenet_v1, posenet and deeplabv3. What other operators hold is counted as it is in the file.
    """
    weights = operator.input(1)
    shape = weights.shape if weights is not None and weights.data is not None else ()
    if operator.op in ("CONV_2D", "TRANSPOSE_CONV") and len(shape) == 4:
        return _padded(shape[0], 64) * shape[1] * shape[2] * _padded(shape[3], 4) + 16 * shape[0]
    if operator.op == "FULLY_CONNECTED" and len(shape) == 2:
        return _padded(shape[0], 16) * _padded(shape[1], 4) + 8 * shape[0]
    if operator.op == "DEPTHWISE_CONV_2D" and len(shape) == 4:
        return shape[1] * shape[2] * _padded(shape[3], 64) + 8 * shape[3]
    return sum(
        tensor.data.size
        for tensor in operator.inputs
        if tensor is not None and tensor.data is not None
    )


def _padded(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


# --------------------------------------------------------------------------------------------------------------------- showing


def show(placement: Placement, file: Path, as_json: bool) -> None:
    """Print the forecast for ``file``."""
    print(
        json.dumps(placement.to_json(), indent=2)
        if as_json
        else table(placement, file.name, file.stat().st_size)
    )


def table(placement: Placement, name: str, size: int) -> str:
    """Return the forecast in the layout of the compiler's output.

    Args:
        placement: the forecast.
        name: of the file.
        size: of the file, in bytes.
    """
    lines = [f"Kerakit's forecast for {COMPILER}, which was not run", ""]
    if placement.refused:
        return "\n".join([*lines, *_refusal_lines(placement.refused, name)])
    lines += [
        f"Input model: {name}",
        f"Input size: {in_words(size)}",
        f"On-chip memory used for caching model parameters: {in_words(placement.on_chip_bytes)} (estimated)",
        f"On-chip memory remaining for caching model parameters: {in_words(ON_CHIP - placement.on_chip_bytes)} (estimated)",
        f"Off-chip memory used for streaming uncached model parameters: {in_words(placement.streamed_bytes)} (estimated)",
        f"Number of Edge TPU subgraphs: {placement.subgraphs}",
        f"Total number of operations: {len(placement.operators)}",
        "",
        f"Number of operations that will run on Edge TPU: {placement.on_tpu}",
        f"Number of operations that will run on CPU: {placement.on_cpu}",
    ]
    if placement.unknown:
        lines.append(f"Number of operations that may run on either: {placement.unknown}")
    lines += ["", f"{'Operator':<30} {'Count':<10} Status", ""]
    rows = Counter((one.op, one.status) for one in placement.operators)
    lines += [f"{op:<30} {count:<10} {status}" for (op, status), count in rows.items()]
    return "\n".join([*lines, *_reasons(placement.operators)])


def _refusal_lines(refused: Refusal, name: str) -> list[str]:
    lines = [f"ERROR: {refused.reason}", f"Invalid model: {name}", f"Source: {refused.source}"]
    return lines + [refused.advice] * bool(refused.advice)


def _reasons(operators: Iterable[Placed]) -> list[str]:
    """Return a line for each operator that does not map for itself, the first of each kind and status."""
    first: dict[tuple[str, str], Placed] = {}
    for one in operators:
        if one.target != "tpu" and SUBGRAPH not in one.status:
            first.setdefault((one.op, one.status), one)
    lines = [
        f"operator {one.index}, {one.op} version {one.version}: {one.status} [{one.source}]"
        for one in first.values()
    ]
    return ["", "Not mapped for itself, the first of each:", *lines] if lines else []


def in_words(size: int) -> str:
    """Return a number of bytes as the compiler writes it."""
    for unit, factor in (("MiB", 2**20), ("KiB", 2**10)):
        if size >= factor:
            return f"{size / factor:.2f}{unit}"
    return f"{size:.2f}B"
