"""Files that the Edge TPU compiler wrote on another machine: recognition and verification."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.edgetpu.loader import COMPILED
from kerakit.deploy.edgetpu.verdicts import MAPPED
from kerakit.errors import JobError, UserError, printable
from kerakit.tflite.graph import Graph, Operator, Tensor, read_graph

_EXPECTED = "--edgetpu_compiled expects the output of edgetpu_compiler: model_edgetpu.tflite."


def check_compiled_file(path: Path) -> None:
    """Raise UserError unless ``path`` is a TensorFlow Lite file compiled for the Edge TPU.

    >>> check_compiled_file(Path("no_such_file.tflite"))
    Traceback (most recent call last):
    kerakit.errors.UserError: no such file: no_such_file.tflite...
    """
    if not path.is_file():
        raise UserError(f"no such file: {path}. {_EXPECTED}")
    try:
        graph = read_graph(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not _count_compiled(graph):
        raise UserError(
            f"{path} has no Edge TPU operator: it was not compiled, or no operator was mapped. "
            f"{_EXPECTED}"
        )


def verify_compiled(compiled: bytes, int8: bytes) -> dict[str, Any]:
    """Verify that a compiled file belongs to an int8 file; return the details for the report.

    Raises:
        JobError: as ``compare_compiled``.
    """
    predicted = forecast(int8)
    return {
        "compiler": "edgetpu_compiler on another machine",
        "note": "inputs, outputs and operators match model.tflite; the weights cannot be compared",
        **compare_compiled(compiled, int8),
        "forecast": {
            "on_tpu": predicted.on_tpu,
            "on_cpu": predicted.on_cpu,
            "unknown": predicted.unknown,
            "subgraphs": predicted.subgraphs,
        },
    }


def compare_compiled(compiled: bytes, int8: bytes) -> dict[str, Any]:
    """Return which operators of an int8 file its compiled file maps.

    Args:
        compiled: content of the compiled file.
        int8: content of the file that it should be compiled from.

    Returns:
        ``operators`` (number of operators per kind and target), ``on_tpu``, ``on_cpu`` and
        ``subgraphs``.

    Raises:
        JobError: its inputs, its outputs, or its operators on the CPU are not those of ``int8``.
        UserError: one of the files is damaged.
    """
    after, before = read_graph(compiled), read_graph(int8)
    for noun, found, expected in (
        ("inputs", after.inputs, before.inputs),
        ("outputs", after.outputs, before.outputs),
    ):
        if [_signature(tensor) for tensor in found] != [_signature(tensor) for tensor in expected]:
            raise JobError(
                "the compiled file was made from another model: its "
                f"{noun} are not those of model.tflite."
            )
    on_cpu = [operator for operator in after.operators if operator.custom != COMPILED]
    made_by = {tensor.name: one.op for one in before.operators for tensor in one.outputs}
    for operator in on_cpu:
        if any(made_by.get(tensor.name) != operator.op for tensor in operator.outputs):
            raise JobError(
                "the compiled file was made from another model: model.tflite has no "
                f"{operator.op} {printable(operator.outputs[0].name[:200])}."
            )
    return {
        "operators": _rows(before.operators, on_cpu),
        "on_tpu": len(before.operators) - len(on_cpu),
        "on_cpu": len(on_cpu),
        "subgraphs": _count_compiled(after),
    }


def _rows(before: Any, on_cpu: list[Operator]) -> list[dict[str, Any]]:
    """Return the number of operators per kind and target, as ``compiler`` does."""
    cpu = Counter(operator.op for operator in on_cpu)
    tpu = Counter(operator.op for operator in before) - cpu
    return [
        {"op": op, "count": count, "status": status}
        for counts, status in ((tpu, MAPPED), (cpu, "Not mapped"))
        for op, count in counts.items()
    ]


def _count_compiled(graph: Graph) -> int:
    return sum(operator.custom == COMPILED for operator in graph.operators)


def _signature(tensor: Tensor) -> tuple[Any, ...]:
    """Return the properties of an input or output that the compiler preserves."""
    return (
        tensor.name,
        tensor.type,
        tensor.shape,
        tensor.scales.tolist(),
        tensor.zero_points.tolist(),
    )
