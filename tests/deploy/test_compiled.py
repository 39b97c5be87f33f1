"""What the compiler made elsewhere is told from other files, by real files of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from converted import PAIRS, pair

from kerakit import JobError, UserError
from kerakit.deploy.compiled import refuse_other_files, verify
from kerakit.deploy.tflite_graph import read_graph

NAMES = sorted(path.name.removesuffix("_edgetpu.tflite.gz") for path in PAIRS.glob("*_edgetpu.tflite.gz"))


@pytest.mark.parametrize("name", NAMES)
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


@pytest.mark.parametrize("name", NAMES)
def test_others_do_not(name: str) -> None:
    for other in NAMES:
        # Two filters of one kind and size may have the same inputs and outputs: nothing in the files tells them apart.
        if other != name and read_graph(pair(other)).inputs[0].shape != read_graph(pair(name)).inputs[0].shape:
            with pytest.raises(JobError, match="made from another model"):
                verify(pair(f"{other}_edgetpu"), pair(name))


def test_what_was_not_compiled_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model_edgetpu.tflite"
    with pytest.raises(UserError, match="there is no file"):
        refuse_other_files(path)
    for content, said in ((b"x" * 40, "no TensorFlow Lite model"), (pair("dense_256"), "was not compiled")):
        path.write_bytes(content)
        with pytest.raises(UserError, match=said):
            refuse_other_files(path)
    path.write_bytes(pair("dense_256_edgetpu"))
    refuse_other_files(path)
