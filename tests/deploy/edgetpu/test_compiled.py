"""What the compiler made elsewhere is told from other files, by real files of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema

from converted import PAIRS, edited, pair
from digits import NAMES, Exported, calibration, digits
from kerakit import JobError, UserError
from kerakit.deploy.edgetpu.compiled import refuse_other_files, verify
from kerakit.deploy.export import Deployment, deploy
from kerakit.deploy.formats.base import Compiling
from kerakit.tflite.graph import read_graph

PAIR_NAMES = sorted(
    path.name.removesuffix("_edgetpu.tflite.gz") for path in PAIRS.glob("*_edgetpu.tflite.gz")
)


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_a_real_pair_belongs_together(name: str) -> None:
    said = verify(pair(f"{name}_edgetpu"), pair(name))
    operators = len(read_graph(pair(name)).operators)
    assert said["on_tpu"] + said["on_cpu"] == operators
    assert said["on_cpu"] == {
        "deeplabv3_mnv2_dm05_pascal_quant": 8,
        "posenet_mobilenet_v1_075_353_481_16_quant_decoder": 1,
    }.get(name, 0)
    assert said["subgraphs"] == 1
    assert said["forecast"]["on_tpu"] == said["on_tpu"]


@pytest.mark.parametrize("name", PAIR_NAMES)
def test_others_do_not(name: str) -> None:
    for other in PAIR_NAMES:
        # Two filters of one kind and size may have the same inputs and outputs: nothing in the files tells them apart.
        if (
            other != name
            and read_graph(pair(other)).inputs[0].shape != read_graph(pair(name)).inputs[0].shape
        ):
            with pytest.raises(JobError, match="made from another model"):
                verify(pair(f"{other}_edgetpu"), pair(name))


def test_what_was_not_compiled_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_edgetpu.tflite"
    with pytest.raises(UserError, match="there is no file"):
        refuse_other_files(path)
    for content, said in (
        (b"x" * 40, "no TensorFlow Lite model"),
        (pair("dense_256"), "was not compiled"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            refuse_other_files(path)
    path.write_bytes(pair("dense_256_edgetpu"))
    refuse_other_files(path)


def compiled_elsewhere(content: bytes) -> bytes:
    """Return what the compiler would make of a file that it maps whole: one operator of its own kind, the same ends."""

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        code, operator = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode, code.deprecatedBuiltinCode, code.customCode, code.version = (
            32,
            32,
            b"edgetpu-custom-op",
            1,
        )
        operator.opcodeIndex, operator.inputs, operator.outputs = (
            len(model.operatorCodes),
            graph.inputs,
            graph.outputs,
        )
        model.operatorCodes.append(code)
        graph.operators = [operator]

    return edited(content, change)


def test_it_is_delivered_with_its_int8_file_alone(
    exported_digits: Exported, tmp_path: Path
) -> None:
    path = tmp_path / "from elsewhere.tflite"
    path.write_bytes(compiled_elsewhere(exported_digits.int8.read_bytes()))
    images, targets = digits()
    data: dict[str, Any] = {
        "calibration": calibration(images[:200]),
        "held_out": [(images[1500:], targets[1500:])],
    }
    given = {
        **data,
        "formats": ["int8", "edgetpu"],
        "edgetpu": Compiling(compiled=path),
        "say": lambda _: None,
    }
    rows = {
        row.format: row
        for row in deploy(exported_digits.model, Deployment(tmp_path / "out"), NAMES, **given)
    }
    assert rows["edgetpu"].status == "delivered"
    assert rows["edgetpu"].details["on_cpu"] == 0
    assert (tmp_path / "out" / "device" / "model_edgetpu.tflite").read_bytes() == path.read_bytes()
    assert "would look the same" in rows["edgetpu"].details["note"]
    path.write_bytes(pair("dense_256_edgetpu"))
    rows = {
        row.format: row
        for row in deploy(exported_digits.model, Deployment(tmp_path / "third"), NAMES, **given)
    }
    assert rows["edgetpu"].status == "failed"
    assert "made from another model" in rows["edgetpu"].reason
