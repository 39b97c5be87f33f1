"""Metadata: read by the published schema and by a zip reader; the model itself does not change."""

from __future__ import annotations

import io
import struct
import zipfile
from functools import cache
from typing import Any

import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import encode, number_types
from flatbuffers.table import Table

from converted import read_pair
from graphs import Net
from kerakit.deploy.edgetpu.forecast import forecast
from kerakit.tasks import (
    Classification,
    Detection,
    Keypoints,
    MultiTask,
    Regression,
    Segmentation,
    Task,
)
from kerakit.tflite.edit import set_outputs
from kerakit.tflite.graph import read_graph
from kerakit.tflite.metadata import ModelInfo, OutputInfo, add_metadata
from kerakit.tflite.runtime import start_interpreter

SCHEMA: dict[str, tuple[tuple[str, str], ...]] = {
    "ModelMetadata": (
        *(("name", "text"), ("description", "text"), ("version", "text")),
        *(("subgraphs", "[SubGraph]"), ("author", "text"), ("license", "text")),
        *(("files", "[File]"), ("min_parser_version", "text")),
    ),
    "SubGraph": (
        *(("name", "text"), ("description", "text"), ("inputs", "[Tensor]")),
        *(("outputs", "[Tensor]"), ("files", "[File]"), ("input_units", "[Unit]")),
        *(("output_units", "[Unit]"), ("input_groups", ""), ("output_groups", "")),
        ("custom", "[Custom]"),
    ),
    "Tensor": (
        *(("name", "text"), ("description", "text"), ("dimensions", ""), ("content", "Content")),
        *(("units", "[Unit]"), ("stats", "Stats"), ("files", "[File]")),
    ),
    "Content": (("kind", "Uint8"), ("image", "Image"), ("range", "")),
    "Image": (("color_space", "Int8"), ("size", "Size")),
    "Size": (("width", "Uint32"), ("height", "Uint32")),
    "Unit": (("kind", "Uint8"), ("normalization", "Normalization")),
    "Normalization": (("mean", "floats"), ("std", "floats")),
    "Stats": (("max", "floats"), ("min", "floats")),
    "File": (("name", "text"), ("description", "text"), ("type", "Int8")),
    "Custom": (("name", "text"), ("data", "bytes")),
    "Segmenter": (("activation", "Int8"), ("min_parser_version", "text")),
}
"""Tables of MediaPipe's metadata_schema.fbs, fields in their order."""

LABELS = OutputInfo("scores", ("cat", "dog", "hérisson"))


def parse(data: bytes, kind: str, start: int | None = None) -> dict[str, Any]:
    """Return a table of a flatbuffer as a dictionary."""
    position = encode.Get(number_types.UOffsetTFlags.packer_type, data, 0)
    table, fields = Table(data, position if start is None else start), {}
    for slot, (name, of) in enumerate(SCHEMA[kind]):
        offset = table.Offset(4 + 2 * slot)
        if not offset or not of:
            continue
        at = table.Pos + offset
        if of == "text":
            fields[name] = table.String(at).decode()
        elif of in ("floats", "bytes"):
            flags = number_types.Float32Flags if of == "floats" else number_types.Uint8Flags
            fields[name] = table.GetVectorAsNumpy(flags, offset)
        elif of[0] == "[":
            first = table.Vector(offset)
            starts = [table.Indirect(first + 4 * i) for i in range(table.VectorLen(offset))]
            fields[name] = [parse(data, of[1:-1], one) for one in starts]
        elif of in SCHEMA:
            fields[name] = parse(data, of, table.Indirect(at))
        else:
            fields[name] = table.Get(getattr(number_types, f"{of}Flags"), at)
    return fields


def metadata(content: bytes) -> dict[str, Any]:
    """Return the metadata of a file, which must be there once."""
    model = schema.Model.GetRootAs(content, 0)
    entries = [model.Metadata(i) for i in range(model.MetadataLength())]
    (buffer,) = [one.Buffer() for one in entries if one.Name() == b"TFLITE_METADATA"]
    data = model.Buffers(buffer).DataAsNumpy().tobytes()
    assert data[4:8] == b"M001"
    return parse(data, "ModelMetadata")


def archive(content: bytes) -> dict[str, str]:
    with zipfile.ZipFile(io.BytesIO(content)) as files:
        assert files.testzip() is None
        assert {one.compress_type for one in files.infolist()} == {zipfile.ZIP_STORED}
        return {name: files.read(name).decode() for name in files.namelist()}


@cache
def network(kind: str = "UINT8", outputs: int = 1) -> bytes:
    """A file of 4x6 pixels with SOFTMAX outputs of 3 channels."""
    net = Net()
    image = net.tensor((1, 4, 6, 3), kind, name="image")
    last = [net.op("SOFTMAX", [image], (1, 4, 6, 3)) for _ in range(outputs)]
    return set_outputs(net.content(), last)


def test_what_the_schema_reads() -> None:
    content = add_metadata(network(), ModelInfo("model", "A model.", (LABELS,)))
    described = metadata(content)
    assert described["name"] == "model"
    assert described["description"] == "A model."
    assert described["min_parser_version"] == "1.0.0"
    (graph,) = described["subgraphs"]
    (image,), (scores,) = graph["inputs"], graph["outputs"]
    assert image["content"]["kind"] == 2
    assert image["content"]["image"] == {"color_space": 1, "size": {"width": 6, "height": 4}}
    assert image["units"][0]["kind"] == 1
    assert scores["name"] == "scores"
    assert scores["content"]["kind"] == 1
    assert [(one["name"], one["type"]) for one in scores["files"]] == [("labels.txt", 2)]
    assert archive(content) == {"labels.txt": "cat\ndog\nhérisson\n"}


@pytest.mark.parametrize(("kind", "mean", "std"), [("UINT8", 0, 2), ("FLOAT32", 0, 1)])
def test_readers_normalize_to_the_values_of_the_tensor(kind: str, mean: float, std: float) -> None:
    content = add_metadata(network(kind), ModelInfo("model", "", (LABELS,)))
    (image,) = metadata(content)["subgraphs"][0]["inputs"]
    normalization, stats = image["units"][0]["normalization"], image["stats"]
    assert [normalization[one].tolist() for one in ("mean", "std")] == [[mean], [std]]
    assert [stats[one].tolist() for one in ("min", "max")] == [[-mean / std], [(255 - mean) / std]]


def test_equal_labels_share_a_file_and_others_are_apart() -> None:
    sides = ("x", "y", "z")
    outputs = [("a", sides), ("b", LABELS.labels), ("c", sides), ("d", ()), ("e", ("one",))]
    info = ModelInfo("model", "", tuple(OutputInfo(*one) for one in outputs))
    content = add_metadata(network(outputs=5), info)
    described = metadata(content)["subgraphs"][0]["outputs"]
    files = [[file["name"] for file in one.get("files", [])] for one in described]
    # Labels that do not fit the last axis are omitted.
    assert files == [["labels_a.txt"], ["labels_b.txt"], ["labels_a.txt"], [], []]
    assert archive(content) == {
        "labels_a.txt": "x\ny\nz\n",
        "labels_b.txt": "cat\ndog\nhérisson\n",
    }


def test_the_activation_of_a_segmenter_is_a_custom_table() -> None:
    content = add_metadata(network(), ModelInfo("model", "", (LABELS,), "softmax"))
    described = metadata(content)
    (custom,) = described["subgraphs"][0]["custom"]
    data = custom["data"].tobytes()
    assert (custom["name"], data[4:8]) == ("SEGMENTER_METADATA", b"V001")
    assert parse(data, "Segmenter") == {"activation": 2, "min_parser_version": "1.0.0"}
    assert described["min_parser_version"] == "1.5.0"


def test_the_same_bytes_and_the_same_model() -> None:
    info = ModelInfo("model", "", (LABELS,))
    content = add_metadata(network(), info)
    assert add_metadata(network(), info) == content
    assert add_metadata(content, info) == content
    other = add_metadata(content, ModelInfo("other", "", (OutputInfo("scores", ("a", "b", "c")),)))
    assert metadata(other)["name"] == "other"
    assert archive(other) == {"labels.txt": "a\nb\nc\n"}
    before, after = read_graph(network()), read_graph(content)
    assert [one.op for one in after.operators] == [one.op for one in before.operators]
    assert [one.name for one in after.tensors] == [one.name for one in before.tensors]
    assert set_outputs(content, [1]).find(b"PK\x03\x04") == -1


@pytest.mark.parametrize("name", ["mobilenet_v1_0.25_128_quant", "split_concat_edgetpu"])
def test_files_of_others_compile_and_run_as_before(name: str) -> None:
    before = read_pair(name)
    size = len(read_graph(before).outputs)
    outputs = tuple(OutputInfo(f"output {i}") for i in range(size))
    after = add_metadata(before, ModelInfo("model", "", outputs))
    assert forecast(after) == forecast(before)
    assert metadata(after)["name"] == "model"


def test_constants_are_aligned_as_the_schema_demands() -> None:
    net = Net()
    image = net.tensor((1, 8, 8, 3), "UINT8")
    net.op("CONV_2D", [image, net.weights(5, 3, 3, 3), net.bias(5)], (1, 8, 8, 5))
    content = add_metadata(net.content(), ModelInfo("model", "", (OutputInfo("scores"),)))
    model = schema.Model.GetRootAs(content, 0)
    tables = [model.Buffers(i) for i in range(model.BuffersLength())]
    starts = [one._tab.Vector(one._tab.Offset(4)) for one in tables if one.DataLength()]
    assert len(starts) == 3
    assert not any(start % 16 for start in starts)
    assert struct.unpack_from("<I", content, starts[0] - 4) == (5 * 27,)


@pytest.mark.parametrize(
    ("task", "name", "labels"),
    [
        (Classification(["a", "b"]), "", ("a", "b")),
        (Segmentation(["a", "b"]), "", ("a", "b")),
        (Detection(["a", "b"]), "class_8", ("a", "b")),
        (Detection(["a", "b"]), "box_16", ("left", "upper", "right", "lower")),
        (Detection(["a"]), "object_32", ()),
        (Keypoints(["nose"]), "heatmaps", ("nose",)),
        (Keypoints(["nose"]), "offsets", ()),
        (MultiTask({"x": Classification(["a", "b"]), "y": Regression(["z"])}), "y", ("z",)),
        (MultiTask({"x": Keypoints(["nose"])}), "x.heatmaps", ("nose",)),
    ],
)
def test_tasks_name_the_last_axis_of_each_output(
    task: Task, name: str, labels: tuple[str, ...]
) -> None:
    assert tuple(task.output_labels(name)) == labels


def test_litert_runs_the_file() -> None:
    net = Net()
    image = net.tensor((1, 4, 6, 3), "FLOAT32")
    output = net.op("SOFTMAX", [image], (1, 4, 6, 3))
    net.graph.tensors[output].type, net.graph.tensors[output].quantization = 0, None
    content = add_metadata(net.content(), ModelInfo("model", "", (LABELS,)))
    assert start_interpreter(content, "model").get_output_details()[0]["shape"].tolist()[-1] == 3
