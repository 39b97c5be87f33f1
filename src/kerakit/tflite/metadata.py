"""TensorFlow Lite Metadata: labels, normalization and meaning of the tensors, inside the file.

Readers are MediaPipe Tasks, Android Studio and the metadata extractors of Java and C++. A file has
a flatbuffer named "TFLITE_METADATA", and behind the model a zip archive with the label files. The
numbers of fields are those of MediaPipe's metadata_schema.fbs, whose package is too large to
depend on.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kerakit.tflite.edit import pack_model, unpack_model
from kerakit.tflite.graph import Tensor, read_graph

_FIELD, _IDENTIFIER = "TFLITE_METADATA", b"M001"
_VERSION, _VERSION_OF_CUSTOM = "1.0.0", "1.5.0"
"""Oldest metadata parsers that read these fields; custom ones are of 1.5.0."""

_FEATURE_PROPERTIES, _IMAGE_PROPERTIES, _RGB = 1, 2, 1
_NORMALIZATION = 1
_AXIS_LABELS = 2
_ACTIVATIONS = ("none", "sigmoid", "softmax")
_SEGMENTER, _SEGMENTER_IDENTIFIER = "SEGMENTER_METADATA", b"V001"

_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest date of a zip archive: equal models have equal bytes."""


@dataclass(frozen=True)
class OutputInfo:
    """Meaning of an output tensor.

    Attributes:
        name: its name.
        labels: names along its last axis; () without names.
    """

    name: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelInfo:
    """Meaning of a model of images.

    Attributes:
        name: name of the model.
        description: one sentence.
        outputs: in the order of the file.
        activation: "softmax" or "sigmoid" if readers must apply it to scores per pixel; "none".
    """

    name: str
    description: str
    outputs: tuple[OutputInfo, ...]
    activation: str = "none"


def add_metadata(content: bytes, info: ModelInfo) -> bytes:
    """Return a TensorFlow Lite file with metadata, in place of what it had.

    Labels of an output whose last axis has another size are omitted. Operators, tensors and
    constants do not change.

    Args:
        content: a file with one input, RGB pixels from 0 to 255.
        info: one entry per output.
    """
    from ai_edge_litert import schema_py_generated as schema

    graph = read_graph(content)
    labels = _label_files(info.outputs, graph.outputs)
    model = unpack_model(content)
    entries = [one for one in model.metadata or () if one.name == _FIELD.encode()]
    if not entries:
        entries = [schema.MetadataT()]
        entries[0].name, entries[0].buffer = _FIELD, len(model.buffers)
        model.buffers.append(schema.BufferT())
        model.metadata = [*(model.metadata or ()), *entries]
    described = _metadata(info, graph.inputs[0], labels)
    model.buffers[entries[0].buffer].data = np.frombuffer(described, np.uint8)
    packed = pack_model(model)
    return _append_files(packed, labels.values()) if labels else packed


def _label_files(
    outputs: Sequence[OutputInfo], tensors: Sequence[Tensor]
) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Return file name and labels by the names of the outputs; equal labels share a file."""
    labeled = {
        one.name: one.labels
        for one, tensor in zip(outputs, tensors, strict=True)
        if one.labels and tensor.shape[-1:] == (len(one.labels),)
    }
    owners = {labels: name for name, labels in reversed(labeled.items())}
    names = {
        labels: "labels.txt" if len(owners) == 1 else f"labels_{owner}.txt"
        for labels, owner in owners.items()
    }
    return {name: (names[labels], labels) for name, labels in labeled.items()}


def _append_files(content: bytes, files: Any) -> bytes:
    """Return the content followed by an uncompressed zip archive, as MediaPipe expects it."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, labels in dict(files).items():
            entry = zipfile.ZipInfo(name, _ZIP_DATE)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # of Unix, everywhere
            archive.writestr(entry, "".join(f"{label}\n" for label in labels).encode())
    return stream.getvalue()


def _metadata(
    info: ModelInfo, image: Tensor, labels: Mapping[str, tuple[str, tuple[str, ...]]]
) -> bytes:
    """Return the flatbuffer."""
    writer = _Tables()
    outputs = [_describe_output(writer, one, labels.get(one.name)) for one in info.outputs]
    subgraph = {2: writer.tables([_describe_input(writer, image)]), 3: writer.tables(outputs)}
    version = _VERSION
    if info.activation != "none":
        version = _VERSION_OF_CUSTOM
        subgraph[9] = writer.tables([_describe_activation(writer, info.activation)])
    root = {
        0: writer.text(info.name),
        1: writer.text(info.description),
        3: writer.tables([writer.table(10, subgraph)]),
        7: writer.text(version),
    }
    return writer.finish(writer.table(8, root), _IDENTIFIER)


def _describe_input(writer: _Tables, image: Tensor) -> int:
    """Return the table of the input: RGB, and the values that its type stores for pixels.

    Readers compute (pixel - mean) / std, and quantize the result where the tensor is quantized.
    """
    mean, std = 0.0, 1.0
    if image.scales.size == 1 and image.type != "FLOAT32":
        mean, std = float(image.zero_points[0]), 1 / float(image.scales[0])
    height, width = image.shape[1:3]
    size = writer.table(2, {}, {0: ("Uint32", width), 1: ("Uint32", height)})
    content = {1: writer.table(2, {1: size}, {0: ("Int8", _RGB)})}
    normalization = writer.table(2, {0: writer.floats([mean]), 1: writer.floats([std])})
    unit = writer.table(2, {1: normalization}, {0: ("Uint8", _NORMALIZATION)})
    stats = {0: writer.floats([(255 - mean) / std]), 1: writer.floats([(0 - mean) / std])}
    fields = {
        0: writer.text("image"),
        1: writer.text(f"RGB image of {width}x{height} pixels, values from 0 to 255."),
        3: writer.table(3, content, {0: ("Uint8", _IMAGE_PROPERTIES)}),
        4: writer.tables([unit]),
        5: writer.table(2, stats),
    }
    return writer.table(7, fields)


def _describe_output(
    writer: _Tables, output: OutputInfo, labels: tuple[str, tuple[str, ...]] | None
) -> int:
    content = {1: writer.table(0, {})}
    fields = {
        0: writer.text(output.name),
        3: writer.table(3, content, {0: ("Uint8", _FEATURE_PROPERTIES)}),
    }
    if labels is not None:
        texts = {0: writer.text(labels[0]), 1: writer.text("Names along the last axis.")}
        fields[6] = writer.tables([writer.table(5, texts, {2: ("Int8", _AXIS_LABELS)})])
    return writer.table(7, fields)


def _describe_activation(writer: _Tables, activation: str) -> int:
    """Return the custom table by which MediaPipe's ImageSegmenter knows the activation."""
    options = _Tables()
    fields = {1: options.text(_VERSION)}
    kind = {0: ("Int8", _ACTIVATIONS.index(activation))}
    data = options.finish(options.table(2, fields, kind), _SEGMENTER_IDENTIFIER)
    return writer.table(2, {0: writer.text(_SEGMENTER), 1: writer.data(data)})


class _Tables:
    """A flatbuffer under construction: children first, tables by the numbers of their fields."""

    def __init__(self) -> None:
        import flatbuffers

        self._builder = flatbuffers.Builder(1024)

    def text(self, value: str) -> int:
        return int(self._builder.CreateString(value))

    def floats(self, values: Sequence[float]) -> int:
        return int(self._builder.CreateNumpyVector(np.asarray(values, np.float32)))

    def data(self, value: bytes) -> int:
        """Return a vector of bytes that is a flatbuffer of its own."""
        self._builder.StartVector(1, len(value), 16)
        self._builder.head -= len(value)
        self._builder.Bytes[self._builder.head : self._builder.head + len(value)] = value
        return int(self._builder.EndVector())

    def tables(self, offsets: Sequence[int]) -> int:
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def table(
        self,
        count: int,
        children: Mapping[int, int],
        numbers: Mapping[int, tuple[str, int]] | None = None,
    ) -> int:
        """Return a table.

        Args:
            count: number of fields in the schema.
            children: offsets of texts, vectors and tables.
            numbers: type and value of other fields.
        """
        self._builder.StartObject(count)
        for field, offset in children.items():
            self._builder.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, (kind, value) in (numbers or {}).items():
            getattr(self._builder, f"Prepend{kind}Slot")(field, value, 0)
        return int(self._builder.EndObject())

    def finish(self, root: int, identifier: bytes) -> bytes:
        self._builder.Finish(root, file_identifier=identifier)
        return bytes(self._builder.Output())
