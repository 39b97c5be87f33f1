"""Numerical health: of a real int8 file, and of the same file with one number changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from digits import Exported, calibration, export_digits
from kerakit import JobError
from kerakit.deploy.quantization.health import Finding, examine, find_problems, summarize
from kerakit.tflite.edit import set_constants
from kerakit.tflite.graph import WeightedOperands, read_graph
from kerakit.tflite.layers import keras_layer_names


def operands(exported: Exported, layer: str) -> WeightedOperands:
    graph = read_graph(exported.int8.read_bytes())
    names = keras_layer_names(graph, exported.model)
    found = next(one.weighted for one in graph.operators if names[one.index] == layer)
    assert found is not None
    return found


def with_weights(exported: Exported, layer: str, change: Callable[[Any], None]) -> bytes:
    """Return the exported file after ``change`` of the stored weights of a layer."""
    weights = operands(exported, layer).weights
    values = weights.values.copy()
    change(values)
    return set_constants(exported.int8.read_bytes(), {weights.index: values})


def findings(exported: Exported, content: bytes) -> list[Finding]:
    return find_problems(content, exported.model, exported.held_out[:16])


def test_a_real_file_is_healthy(exported_digits: Exported) -> None:
    assert findings(exported_digits, exported_digits.int8.read_bytes()) == []
    # Nor does writing the file again bring any finding.
    assert findings(exported_digits, with_weights(exported_digits, "dense", lambda _: None)) == []


# -------------------------------------------------------------------- quantization parameters

Edit = Callable[[Any, Any], None]


def scale(value: float) -> Edit:
    def edit(weights: Any, bias: Any) -> None:
        weights.quantization.scale = np.array(weights.quantization.scale, np.float32)
        weights.quantization.scale[4] = value

    return edit


def bias_scale(weights: Any, bias: Any) -> None:
    bias.quantization.scale = np.asarray(bias.quantization.scale, np.float32) * np.float32(1.01)


def no_scale(weights: Any, bias: Any) -> None:
    weights.quantization.scale = None


def fewer_scales(weights: Any, bias: Any) -> None:
    weights.quantization.scale = np.array(weights.quantization.scale, np.float32)[:3]


def with_parameters(exported: Exported, layer: str, edit: Edit) -> bytes:
    """Return the exported file after ``edit`` of the weights and bias of a layer."""
    content = exported.int8.read_bytes()
    _, weights, bias = operands(exported, layer)
    assert bias is not None
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    tensors = model.subgraphs[0].tensors
    edit(tensors[weights.index], tensors[bias.index])
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def expect_error(exported: Exported, path: Path, content: bytes, problem: str) -> None:
    found = findings(exported, content)
    assert {one.layer for one in found if one.level == "error"} == {"conv2d_1"}
    assert any(problem in one.problem for one in found), found
    path.write_bytes(content)
    with pytest.raises(JobError, match="conv2d_1"):
        examine(path, exported.model, exported.held_out[:2])


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        (scale(np.nan), "not nan"),
        (scale(np.inf), "not inf"),
        (scale(0), "not 0"),
        (scale(-0.01), "not -0.01"),
        (scale(1e-40), "not 1e-40"),
        (no_scale, "no scale"),
        (fewer_scales, "3 scales for 16 channels"),
        (bias_scale, "bias scale"),
    ],
)
def test_invalid_quantization_parameters_are_errors(
    exported_digits: Exported, tmp_path: Path, edit: Edit, problem: str
) -> None:
    content = with_parameters(exported_digits, "conv2d_1", edit)
    expect_error(exported_digits, tmp_path / "model.tflite", content, problem)


def test_a_saturated_bias_is_an_error(exported_digits: Exported, tmp_path: Path) -> None:
    bias = operands(exported_digits, "conv2d_1").bias
    assert bias is not None
    values = bias.values.copy()
    values[5] = 2**31 - 1
    content = set_constants(exported_digits.int8.read_bytes(), {bias.index: values})
    problem = "saturated: the bias of 1 of 16 channels (5)"
    expect_error(exported_digits, tmp_path / "model.tflite", content, problem)


# -------------------------------------------------------------------- weights and activations


def test_dead_and_saturated_weights_are_named(exported_digits: Exported, tmp_path: Path) -> None:
    def change(values: Any) -> None:
        values[3], values[8] = 0, np.where(values[8] < 0, -127, 127)
        values[11] = values[11] // 127  # -1, 0 or 1 of the layer's scale

    path = tmp_path / "model.tflite"
    path.write_bytes(with_weights(exported_digits, "conv2d_1", change))
    found = examine(path, exported_digits.model, exported_digits.held_out[:16])
    problems = {one["problem"] for one in found if one["layer"] == "conv2d_1"}
    assert {one["level"] for one in found} == {"warning", "note"}
    by_kind = {one["problem"].partition(":")[0]: one["level"] for one in found}
    assert (by_kind["saturated"], by_kind["dead channels"]) == ("warning", "note")
    lines = summarize(found)
    assert any(line.startswith("saturated in 1 layer (conv2d_1): ") for line in lines)
    assert lines[-1].startswith("dead channels in 1 layer")
    assert lines[-1].endswith(": no action needed")
    assert any(one.startswith("saturated") and "1 of 16 channels (8)" in one for one in problems)
    assert any(one.startswith("dead") and "1 of 16 channels (3)" in one for one in problems)


def test_a_constant_output_is_named(exported_digits: Exported) -> None:
    """That of the layer after one without weights; of the latter its dead channels are named."""

    def change(values: Any) -> None:
        values[:] = 0

    dead, constant = findings(exported_digits, with_weights(exported_digits, "dense", change))
    assert (dead.level, dead.layer) == ("warning", "dense")
    assert dead.problem.startswith("dead channels")
    assert "32 of 32 channels (0, 1, 2, 3, 4, …)" in dead.problem
    assert (constant.level, constant.layer) == ("warning", "dense_1")
    assert constant.problem.startswith("constant")
    assert "10 of 10 channels" in constant.problem


def test_activations_beyond_the_calibrated_range_are_named(
    exported_digits: Exported, tmp_path: Path
) -> None:
    """Calibrated on black images: others exceed the ranges; the bounds of ReLU6 are no finding."""
    black = calibration(np.zeros((10, 8, 8, 3), np.uint8))
    exported = export_digits(
        exported_digits.model, tmp_path / "deploy", calibration=black, max_drop=1
    )
    found = findings(exported, exported.int8.read_bytes())
    clipped = {one.layer for one in found if one.problem.startswith("clipped")}
    assert "dense_1" in clipped
    assert not clipped & {"conv2d", "depthwise_conv2d"}
