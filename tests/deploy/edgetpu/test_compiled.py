"""Verification of files compiled on another machine, with real files of the compiler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema

from converted import PAIR_NAMES, edit, read_pair
from digits import NAMES, TRAINED, Exported, calibration, digits
from kerakit import JobError, UserError
from kerakit.deploy import EdgeTpuOptions, ExportFolder, FormatResult, export_model
from kerakit.deploy.edgetpu.compiled import check_compiled_file, verify_compiled
from kerakit.deploy.edgetpu.verdicts import MAPPED
from kerakit.tasks import Classification
from kerakit.tflite.graph import read_graph


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_a_real_pair_belongs_together(name: str) -> None:
    details = verify_compiled(read_pair(f"{name}_edgetpu"), read_pair(name))
    operators = len(read_graph(read_pair(name)).operators)
    assert details["on_tpu"] + details["on_cpu"] == operators
    assert details["on_cpu"] == {
        "deeplabv3_mnv2_dm05_pascal_quant": 8,
        "posenet_mobilenet_v1_075_353_481_16_quant_decoder": 1,
    }.get(name, 0)
    assert details["subgraphs"] == 1
    for key, mapped in (("on_tpu", True), ("on_cpu", False)):
        rows = [row for row in details["operators"] if (row["status"] == MAPPED) == mapped]
        assert sum(row["count"] for row in rows) == details[key]
    assert details["forecast"]["on_tpu"] == details["on_tpu"]


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_others_do_not(name: str) -> None:
    for other in PAIR_NAMES:
        # Two filters of one kind and size may have the same inputs and outputs: the files do not
        # distinguish them.
        if (
            other != name
            and read_graph(read_pair(other)).inputs[0].shape
            != read_graph(read_pair(name)).inputs[0].shape
        ):
            with pytest.raises(JobError, match="made from another model"):
                verify_compiled(read_pair(f"{other}_edgetpu"), read_pair(name))


def test_names_of_another_model_are_escaped() -> None:
    def rename(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors[1:]:
            tensor.name = b"\x1b[31m" + b"x" * 10_000

    content = read_pair("deeplabv3_mnv2_dm05_pascal_quant")
    int8 = edit(content, rename)
    with pytest.raises(JobError, match="made from another model") as error:
        verify_compiled(edit(read_pair("deeplabv3_mnv2_dm05_pascal_quant_edgetpu"), rename), int8)
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 1_000


def test_what_was_not_compiled_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_edgetpu.tflite"
    with pytest.raises(UserError, match="no such file"):
        check_compiled_file(path)
    for content, said in (
        (b"x" * 40, "not a TensorFlow Lite model"),
        (read_pair("dense_256"), "was not compiled"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            check_compiled_file(path)
    path.write_bytes(read_pair("dense_256_edgetpu"))
    check_compiled_file(path)


def compile_whole(content: bytes) -> bytes:
    """Return what the compiler makes of a file if all operators map: one custom operator."""

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
        code.customCode, code.version = b"edgetpu-custom-op", 1
        operator.opcodeIndex = len(model.operatorCodes)
        operator.inputs, operator.outputs = graph.inputs, graph.outputs
        model.operatorCodes.append(code)
        graph.operators = [operator]

    return edit(content, change)


def test_it_is_exported_only_with_its_int8_file(exported_digits: Exported, tmp_path: Path) -> None:
    path = tmp_path / "from elsewhere.tflite"
    images, targets = digits()

    def export(folder: Path) -> dict[str, FormatResult]:
        results = export_model(
            exported_digits.model,
            Classification(NAMES),
            ExportFolder(folder),
            calibration(images[:200]),
            [(images[TRAINED:], targets[TRAINED:])],
            formats=["int8", "edgetpu"],
            edgetpu=EdgeTpuOptions(compiled=path),
            log=lambda _: None,
        )
        return {result.format: result for result in results}

    path.write_bytes(compile_whole(exported_digits.int8.read_bytes()))
    result = export(tmp_path / "out")["edgetpu"]
    assert result.status == "exported"
    assert result.details["on_cpu"] == 0
    assert result.details["on_tpu"] == sum(row["count"] for row in result.details["operators"]) > 0
    assert result.details["forecast"]["on_tpu"] == result.details["on_tpu"]
    assert (tmp_path / "out" / "device" / "model_edgetpu.tflite").read_bytes() == path.read_bytes()
    path.write_bytes(read_pair("dense_256_edgetpu"))
    result = export(tmp_path / "other")["edgetpu"]
    assert result.status == "failed"
    assert "another model" in result.reason
    assert not (tmp_path / "other" / "model_edgetpu.tflite").exists()
