"""The writer: what is edited changes, and every other bit of the file stays."""

from __future__ import annotations

import gzip
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import flatbuffers
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

from kerakit import UserError
from kerakit.tflite.convert import convert_float
from kerakit.tflite.edit import set_constants, set_inputs, set_outputs, set_ranges
from kerakit.tflite.graph import Tensor, read_graph
from kerakit.tflite.runtime import start_interpreter

PAIRS = Path(__file__).parents[1] / "deploy" / "edgetpu" / "pairs"


@cache
def shared() -> bytes:
    """A float32 file in which several biases of zeros share one buffer, as TensorFlow writes it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    for _ in range(3):
        x = layers.SeparableConv2D(4, 3, padding="same", activation="relu6")(x)
    return convert_float(keras.Model(image, layers.Dense(4)(layers.Flatten()(x))))


@cache
def quantized() -> bytes:
    """An int8 file, whose biases of zeros are tensors of their own but share one buffer."""
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    graph = read_graph(shared())
    computed = [*graph.inputs, *(one.outputs[0] for one in graph.operators)]
    prepared = set_ranges(shared(), {tensor.index: (-6.0, 6.0) for tensor in computed})
    return bytes(mlir_quantize(prepared, input_data_type=tf.uint8, output_data_type=tf.uint8))


@cache
def content_of(name: str) -> bytes:
    files = {"shared": shared, "quantized": quantized}
    if name in files:
        return files[name]()
    return gzip.decompress((PAIRS / f"{name}.tflite.gz").read_bytes())


FILES = ("shared", "quantized", "split_concat", "bright_16x16")


def unpacked(content: bytes) -> dict[str, Any]:
    """Return all that a file holds, with the data of buffers in place of their indices."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    data = [None if one.data is None else bytes(one.data) for one in model.buffers]
    tensors = [tensor for graph in model.subgraphs for tensor in graph.tensors]
    for holder in tensors + (model.metadata or []):
        holder.buffer = data[holder.buffer]
    model.buffers = None
    fields: dict[str, Any] = plain(model)
    return fields


def plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.tobytes()]
    if isinstance(value, list):
        return [plain(one) for one in value]
    return {k: plain(v) for k, v in vars(value).items()} if hasattr(value, "__dict__") else value


def constants(content: bytes) -> list[Tensor]:
    return [one for one in read_graph(content).tensors if one.is_constant]


def users(content: bytes) -> Counter[int]:
    """Return how many tensors and metadata have each buffer."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    found = Counter(one.buffer for graph in model.subgraphs for one in graph.tensors)
    return found + Counter(one.buffer for one in model.metadata or ())


def test_the_converter_shares_a_buffer_among_biases() -> None:
    biases = [one for one in constants(quantized()) if one.type == "INT32" and one.shape == (4,)]
    assert len({one.buffer for one in biases}) < len(biases)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(FILES), st.data())
def test_edited_constants_change_and_all_else_is_bit_identical(
    name: str, data: st.DataObject
) -> None:
    content = content_of(name)
    every = constants(content)
    edited = data.draw(st.lists(st.sampled_from(every), unique=True, max_size=len(every)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    new = {}
    for tensor in edited:
        raw = rng.integers(0, 256, len(tensor.values.tobytes()), np.uint8)
        new[tensor.index] = raw.view(tensor.values.dtype).reshape(tensor.shape)
    result = set_constants(content, new)
    expected = unpacked(content)
    for index, values in new.items():
        expected["subgraphs"][0]["tensors"][index]["buffer"] = values.tobytes()
    assert unpacked(result) == expected
    counts = users(result)
    assert all(counts[one.buffer] == 1 for one in constants(result) if one.index in new)
    read_graph(result)


@cache
def with_shared_tensors() -> bytes:
    """The quantized file; operators with biases of equal shape use one tensor."""
    model = schema.ModelT.InitFromPackedBuf(quantized(), 0)
    graph = model.subgraphs[0]
    biases: dict[tuple[int, ...], int] = {}
    for operator in graph.operators:
        if operator.inputs is not None and len(operator.inputs) == 3:
            bias = int(operator.inputs[2])
            first = biases.setdefault(tuple(graph.tensors[bias].shape), bias)
            operator.inputs = np.array([*operator.inputs[:2], first], np.int32)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def with_operands(content: bytes) -> dict[str, Any]:
    """Return all that a file holds, with tensors in place of the indices of operators' inputs."""
    fields = unpacked(content)
    (graph,) = fields["subgraphs"]
    for operator in graph["operators"]:
        indices = np.frombuffer(operator["inputs"][1], operator["inputs"][0])
        operator["inputs"] = [
            dict(graph["tensors"][index]) if index >= 0 else None for index in indices
        ]
    del graph["tensors"]
    return fields


@settings(max_examples=40, deadline=None)
@given(st.booleans(), st.data())
def test_edited_inputs_change_for_their_operator_alone(shared: bool, data: st.DataObject) -> None:
    content = with_shared_tensors() if shared else quantized()
    every = [
        (operator.index, position)
        for operator in read_graph(content).operators
        for position, tensor in enumerate(operator.inputs)
        if tensor is not None and tensor.is_constant
    ]
    edited = data.draw(st.lists(st.sampled_from(every), unique=True, max_size=len(every)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    operators, expected, new = read_graph(content).operators, with_operands(content), {}
    for index, position in edited:
        old = operators[index].inputs[position]
        assert old is not None
        raw = rng.integers(0, 256, len(old.values.tobytes()), np.uint8)
        new[index, position] = raw.view(old.values.dtype).reshape(old.shape)
        inputs = expected["subgraphs"][0]["operators"][index]["inputs"]
        inputs[position]["buffer"] = raw.tobytes()
    result = set_inputs(content, new)
    assert with_operands(result) == expected
    tensors = [read_graph(result).operators[index].inputs[position] for index, position in edited]
    assert len({one.buffer for one in tensors if one}) == len(edited)


def test_an_input_that_is_omitted_or_computed_is_refused() -> None:
    values = np.zeros((1, 8, 8, 3), np.float32)
    with pytest.raises(UserError, match="constant"):
        set_inputs(shared(), {(0, 0): values})


def test_constants_of_another_type_or_shape_are_refused() -> None:
    graph = read_graph(shared())
    bias = next(one for one in graph.tensors if one.type == "FLOAT32" and one.shape == (4,))
    with pytest.raises(ValueError, match="float64"):
        set_constants(shared(), {bias.index: np.zeros(4)})
    with pytest.raises(ValueError, match=r"\(5,\)"):
        set_constants(shared(), {bias.index: np.zeros(5, np.float32)})
    with pytest.raises(UserError, match="constant"):
        set_constants(shared(), {graph.inputs[0].index: np.zeros((1, 8, 8, 3), np.float32)})


def with_signature(content: bytes) -> bytes:
    """Return a file whose signature names its output."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    output = schema.TensorMapT(name="scores", tensorIndex=int(model.subgraphs[0].outputs[0]))
    model.signatureDefs = [schema.SignatureDefT(inputs=[], outputs=[output], signatureKey="main")]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_outputs_are_those_that_were_set(data: st.DataObject) -> None:
    content = with_signature(shared())
    computed = [one.outputs[0] for one in read_graph(content).operators]
    chosen = data.draw(st.lists(st.sampled_from(computed), min_size=1, unique=True))
    result = set_outputs(content, [one.index for one in chosen])
    expected = unpacked(content)
    assert expected["signatureDefs"]
    expected["signatureDefs"] = None
    expected["subgraphs"][0]["outputs"] = plain(np.array([one.index for one in chosen], np.int32))
    assert unpacked(result) == expected
    details = start_interpreter(result, "edited").get_output_details()
    assert [one["index"] for one in details] == [one.index for one in chosen]


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_ranges_are_those_that_were_set(data: st.DataObject) -> None:
    content = shared()
    indices = range(len(read_graph(content).tensors))
    limit = st.floats(-1e6, 1e6, width=32)
    ranges = data.draw(st.dictionaries(st.sampled_from(indices), st.tuples(limit, limit)))
    result = set_ranges(content, ranges)
    expected = unpacked(content)
    for index, (low, high) in ranges.items():
        quantization = schema.QuantizationParametersT()
        quantization.min, quantization.max = (
            np.array([low], np.float32),
            np.array([high], np.float32),
        )
        expected["subgraphs"][0]["tensors"][index]["quantization"] = plain(quantization)
    assert unpacked(result) == expected
