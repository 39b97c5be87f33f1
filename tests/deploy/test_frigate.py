"""The folder for Frigate: its model on the real interpreter, read as Frigate reads it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
import yaml
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from converted import convert_int8
from graphs import Net
from kerakit import JobError, UserError
from kerakit.deploy import frigate
from kerakit.deploy.export import export_frigate
from kerakit.device.decoders import make_decoder
from kerakit.inference import output_names
from kerakit.tasks import Classification, Detection
from kerakit.tflite.graph import read_graph

NAMES = ["cat", "7 dogs", "gnu"]
IMAGES = np.random.default_rng(0).integers(0, 256, (12, 64, 96, 3)).astype(np.uint8)


def make_export(folder: Path, names: list[str], threshold: float = 0.6) -> Path:
    """Write an int8 detector that is not trained, whose scores are high and differ."""
    from keras import layers

    keras.utils.set_random_seed(5)
    keras.backend.clear_session()
    task = Detection(names, filters=8, depth=1)
    task.threshold = threshold
    image = keras.Input((64, 96, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for filters in (8, 8, 8, 16, 16):
        x = layers.Conv2D(filters, 3, strides=2, padding="same", activation="relu")(x)
    model = task.inference_model(keras.Model(image, task.head(x)))
    for layer in model.layers:
        for weight in layer.trainable_weights:
            weight.assign(weight * 3 if weight.name == "kernel" else weight)
            if weight.name == "bias" and layer.name.startswith(("object", "class")):
                weight.assign(weight * 0 + 1.5)
    folder.mkdir()
    (folder / "model.tflite").write_bytes(convert_int8(model))
    spec = {**task.spec(), "outputs": list(output_names(model))}
    (folder / "task.json").write_text(json.dumps(spec))
    return folder


def detect_raw(interpreter: Any, image: Any) -> Any:
    """Frigate's rows: class id, score, upper, left, lower, right.

    After ``tflite_detect_raw`` of frigate/detectors/detector_utils.py (commit 16e4036), which the
    detector "cpu" calls, and the branch ``ssd`` of ``EdgeTpuTfl.detect_raw`` (commit d55b622).
    """
    inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.set_tensor(inputs[0]["index"], image[None])
    interpreter.invoke()
    boxes, ids, scores, count = (interpreter.get_tensor(one["index"])[0] for one in outputs)
    detections = np.zeros((20, 6), np.float32)
    for i in range(int(count)):
        if scores[i] < 0.4 or i == 20:
            break
        detections[i] = [ids[i], scores[i], *boxes[i]]
    return detections


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export with its folder for Frigate. Read-only."""
    folder = make_export(tmp_path_factory.mktemp("export") / "export", NAMES, threshold=0.55)
    warning = frigate.write_frigate(folder, IMAGES)
    assert "an input that is not square" in warning
    return folder


@pytest.mark.slow
def test_a_detector_of_one_class(tmp_path: Path) -> None:
    folder = make_export(tmp_path / "export", ["cat"])
    frigate.write_frigate(folder, IMAGES)
    test_frigate_reads_the_objects_of_the_decoder(folder)


def test_frigate_reads_the_objects_of_the_decoder(export: Path) -> None:
    folder = export
    task = json.loads((folder / "task.json").read_text())
    assert {path.name for path in (folder / "frigate").iterdir()} == {
        *("model.tflite", "labelmap.txt", "config.yml"),
    }
    made = Interpreter(str(folder / "frigate/model.tflite"))
    made.allocate_tensors()
    shapes = [tuple(one["shape"]) for one in made.get_output_details()]
    assert shapes == [(1, 20, 4), (1, 20), (1, 20), (1,)]
    plain = Interpreter(str(folder / "model.tflite"))
    plain.allocate_tensors()
    decoder = make_decoder({**task, "threshold": 0.4})
    total = 0
    kinds: set[float] = set()
    for image in IMAGES:
        plain.set_tensor(plain.get_input_details()[0]["index"], image[None])
        plain.invoke()
        real = {}
        for name, one in zip(task["outputs"], plain.get_output_details(), strict=True):
            scale, zero_point = one["quantization"]
            stored = plain.get_tensor(one["index"])[0].astype(np.float32)
            real[name] = np.float32(scale) * (stored - zero_point)
        wanted = decoder.decode(real)
        rows = detect_raw(made, image)
        found = rows[rows[:, 1] > 0]
        assert len(found) == min(20, len(wanted))
        assert (np.diff(found[:, 1]) <= 0).all()
        assert found[:, 1] == pytest.approx(wanted[:20, 4], abs=1e-6)
        # Where scores are equal, another object may be the last one.
        sure = found[found[:, 1] > found[-1, 1] + 1e-6] if len(wanted) > 20 else found
        for row in sure:
            other = wanted[wanted[:, 5] == row[0]][:, [4, 1, 0, 3, 2]]
            assert np.abs(other - row[1:]).max(axis=1).min() < 1e-6
        total, kinds = total + len(found), kinds | set(found[:, 0])
    assert total > 20
    assert len(kinds) == min(2, len(task["classes"]))
    assert frigate.compare(folder, task, IMAGES) < 1e-6


def test_more_objects_of_one_score_than_frigate_reads() -> None:
    """Int8 scores are often equal: which of them are the last ones is open, their scores not."""
    rng = np.random.default_rng(0)
    wanted = np.column_stack([rng.integers(0, 2, 40), np.full(40, 0.75), rng.random((40, 4))])
    wanted[:3, 1] = 0.9
    found = np.concatenate([wanted[:3], wanted[20:37]])
    assert frigate._difference(found, wanted) == 0
    assert frigate._difference(found[:-1], wanted) == np.inf
    assert frigate._difference(wanted[3:23], wanted) > frigate.TOLERANCE
    moved = found.copy()
    moved[0, 2] += 0.5
    assert frigate._difference(moved, wanted) > frigate.TOLERANCE


def test_labels_and_configuration(export: Path) -> None:
    folder = export
    # ``load_labels`` of frigate/util/builtin.py: "index label" if the first word is a number.
    lines = (folder / "frigate/labelmap.txt").read_text().splitlines()
    pairs = [line.split(" ", maxsplit=1) for line in lines]
    assert {int(index): label.strip() for index, label in pairs} == dict(enumerate(NAMES))
    text = (folder / "frigate/config.yml").read_text()
    assert "# WARNING: Frigate stretches square regions" in text
    config = yaml.safe_load(text)
    assert config["detectors"] == {"cpu1": {"type": "cpu"}}
    assert config["model"] == {
        "path": "/config/kerakit/model.tflite",
        "labelmap_path": "/config/kerakit/labelmap.txt",
        "width": 96,
        "height": 64,
        "input_tensor": "nhwc",
        "input_pixel_format": "rgb",
        "model_type": "ssd",
    }
    assert config["objects"]["track"] == NAMES
    assert config["objects"]["filters"]["gnu"] == {"min_score": 0.55}


def test_a_compiled_file_keeps_its_part(tmp_path: Path) -> None:
    """The operator of the Edge TPU, its data and the order of its outputs."""
    net, outputs = Net(), []
    image = net.tensor((1, 64, 64, 3), "UINT8", name="image")
    for channels in (4, 3, 1):
        net.op("CUSTOM", [image], (1, 8, 8, channels), custom="edgetpu-custom-op")
        net.graph.operators[-1].customOptions = np.array([1, 2, channels], np.uint8)
        outputs.append(net.last)
    builder_content = net.content()
    model: Any = schema.ModelT.InitFromPackedBuf(builder_content, 0)
    model.subgraphs[0].outputs = np.array(outputs, np.int32)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    task = {"classes": NAMES, "strides": [8], "threshold": 0.5, "overlap": 0.6}
    task["outputs"] = ["box_8", "class_8", "object_8"]
    content = frigate.append_decoder(bytes(builder.Output()), task, (64, 64))
    graph = read_graph(content)
    names = [operator.op for operator in graph.operators]
    assert names[:3] == ["CUSTOM"] * 3
    assert names.count("CUSTOM") == 4
    assert [operator.custom for operator in graph.operators[:3]] == ["edgetpu-custom-op"] * 3
    made: Any = schema.ModelT.InitFromPackedBuf(content, 0)
    kept = [list(one.customOptions) for one in made.subgraphs[0].operators[:3]]
    assert kept == [[1, 2, 4], [1, 2, 3], [1, 2, 1]]
    assert [tensor.shape for tensor in graph.outputs] == [(1, 20, 4), (1, 20), (1, 20), (1,)]


def test_what_frigate_cannot_run_is_said(
    export: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"is for detectors; the task is classification"):
        frigate.check_frigate(Classification(["a", "b"]))
    with pytest.raises(UserError, match="needs the format int8"):
        frigate.check_frigate(Detection(["a"]), ["float32"])
    folder = Path(shutil.copytree(export, tmp_path / "export"))
    task = json.loads((folder / "task.json").read_text())
    # An overlap that the file was not made for: other objects remain.
    assert frigate.compare(folder, {**task, "overlap": 0.05}, IMAGES) == np.inf
    shutil.rmtree(folder / "frigate")
    monkeypatch.setattr(frigate, "TOLERANCE", -1.0)
    with pytest.raises(JobError, match="differs from the decoder"):
        frigate.write_frigate(folder, IMAGES)
    assert not (folder / "frigate").exists()
    # The other files are exported all the same.
    (result,) = export_frigate(folder, IMAGES, keras.Sequential(), print)
    assert (result.format, result.status) == ("frigate", "failed")
    assert "the model for Frigate differs from the decoder by" in result.reason
