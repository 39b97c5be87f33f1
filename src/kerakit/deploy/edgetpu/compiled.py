"""A file that the Edge TPU's compiler made elsewhere: whether it is one, of which model, and what of it is on the Edge TPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.deploy.edgetpu.loader import COMPILED
from kerakit.errors import JobError, UserError
from kerakit.tflite.graph import Graph, Tensor, read_graph


def refuse_other_files(path: Path) -> None:
    """Raise UserError unless ``path`` is a TensorFlow Lite file with an operator for the Edge TPU."""
    if not path.is_file():
        raise UserError(
            f"there is no file {path}. --edgetpu_compiled expects what edgetpu_compiler wrote: model_edgetpu.tflite."
        )
    try:
        graph = read_graph(path.read_bytes())
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    if not _on_tpu(graph):
        raise UserError(
            f"{path} holds no operator for the Edge TPU: it was not compiled, or nothing of it was mapped. --edgetpu_compiled "
            "expects what edgetpu_compiler wrote: model_edgetpu.tflite."
        )


def verify(compiled: bytes, int8: bytes) -> dict[str, Any]:
    """Return what a compiled file says of itself, for the report.

    Args:
        compiled: the file, as the compiler wrote it.
        int8: the file that it must have been made from.

    Raises:
        JobError: it was made from another one: its inputs, outputs, or the operators left on the CPU are not those of ``int8``.
    """
    after, before = read_graph(compiled), read_graph(int8)
    for what, here, there in (
        ("inputs", after.inputs, before.inputs),
        ("outputs", after.outputs, before.outputs),
    ):
        if [_face(tensor) for tensor in here] != [_face(tensor) for tensor in there]:
            raise JobError(
                f"the compiled file was made from another model: its {what} are not those of model.tflite."
            )
    made = {tensor.name: one.op for one in before.operators for tensor in one.outputs}
    left = [one for one in after.operators if one.custom != COMPILED]
    for one in left:
        if any(made.get(tensor.name) != one.op for tensor in one.outputs):
            raise JobError(
                f"the compiled file was made from another model: model.tflite has no {one.op} {one.outputs[0].name}."
            )
    expected = forecast(int8)
    return {
        "compiler": "elsewhere",
        "note": "its inputs, outputs and operators are those of model.tflite; that of another training would look the same",
        "on_tpu": len(before.operators) - len(left),
        "on_cpu": len(left),
        "subgraphs": _on_tpu(after),
        "left_on_cpu": [one.op for one in left],
        "forecast": {
            "on_tpu": expected.on_tpu,
            "on_cpu": expected.on_cpu,
            "subgraphs": expected.subgraphs,
        },
    }


def _on_tpu(graph: Graph) -> int:
    return sum(one.custom == COMPILED for one in graph.operators)


def _face(tensor: Tensor) -> tuple[Any, ...]:
    """Return what the compiler keeps of an input or output."""
    return (
        tensor.name,
        tensor.type,
        tensor.shape,
        tensor.scales.tolist(),
        tensor.zero_points.tolist(),
    )
