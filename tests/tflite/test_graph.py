"""The reader: all that a file holds, and words alone whatever its bytes are."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from digits import Exported
from kerakit import UserError
from kerakit.tflite import graph as reader
from kerakit.tflite.graph import Tensor, read_graph
from kerakit.tflite.runtime import start_interpreter

PAIRS = Path(__file__).parents[1] / "deploy" / "edgetpu" / "pairs"
NAMES = sorted(path.name for path in PAIRS.glob("*.tflite.gz"))
SMALL = ("bright_16x16", "looming_64x64_3x3", "split_concat")


def real_file(name: str) -> bytes:
    return gzip.decompress((PAIRS / name).read_bytes())


def changed(content: bytes, change: Callable[[Any], None]) -> bytes:
    """Return a file after ``change`` was made to its schema.ModelT."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    change(model)
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def numbers(values: Any) -> list[Any]:
    return [] if values is None else list(values)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_and_operators_are_those_of_the_schemas_object_api(name: str) -> None:
    content = real_file(name)
    graph, model = read_graph(content), schema.ModelT.InitFromPackedBuf(content, 0)
    expected = model.subgraphs[0]
    assert len(graph.tensors) == len(expected.tensors)
    for index, (tensor, other) in enumerate(zip(graph.tensors, expected.tensors, strict=True)):
        assert tensor.index == index
        assert tensor.name.encode() == other.name
        assert getattr(schema.TensorType, tensor.type) == other.type
        assert list(tensor.shape) == numbers(other.shape)
        assert list(tensor.shape_signature) == numbers(other.shapeSignature)
        assert tensor.buffer == other.buffer
        data = model.buffers[other.buffer].data
        assert (tensor.data is None) == (data is None or not len(data))
        if tensor.data is not None:
            assert tensor.data.tobytes() == data.tobytes()
        quantization = other.quantization or schema.QuantizationParametersT()
        assert tensor.scales.tolist() == numbers(quantization.scale)
        assert tensor.zero_points.tolist() == numbers(quantization.zeroPoint)
        if tensor.scales.size > 1:
            assert tensor.quantized_dimension == quantization.quantizedDimension
    assert len(graph.operators) == len(expected.operators)
    for operator, one in zip(graph.operators, expected.operators, strict=True):
        code = model.operatorCodes[one.opcodeIndex]
        number = max(code.builtinCode, code.deprecatedBuiltinCode)
        assert getattr(schema.BuiltinOperator, operator.op) == number
        assert [-1 if t is None else t.index for t in operator.inputs] == numbers(one.inputs)
        assert [t.index for t in operator.outputs] == numbers(one.outputs)
        if operator.options is not None:
            assert vars(operator.options) == vars(one.builtinOptions)
    assert [t.index for t in graph.inputs] == numbers(expected.inputs)
    assert [t.index for t in graph.outputs] == numbers(expected.outputs)


def test_constants_are_those_that_litert_reads(exported_digits: Exported) -> None:
    content = exported_digits.int8.read_bytes()
    interpreter = start_interpreter(content, "model.tflite")
    details = {one["index"]: one for one in interpreter.get_tensor_details()}
    constants = [tensor for tensor in read_graph(content).tensors if tensor.is_constant]
    assert {"INT8", "INT32"} <= {tensor.type for tensor in constants}
    assert max(tensor.scales.size for tensor in constants) > 1
    for tensor in constants:
        np.testing.assert_array_equal(tensor.values, interpreter.get_tensor(tensor.index))
        parameters = details[tensor.index]["quantization_parameters"]
        scales, zero_points = parameters["scales"], parameters["zero_points"]
        if not len(scales) or not tensor.shape:
            continue
        assert tensor.quantized_dimension == parameters["quantized_dimension"]
        shape = [1] * len(tensor.shape)
        shape[tensor.quantized_dimension] = -1 if len(scales) > 1 else 1
        expected = (tensor.values - zero_points.reshape(shape)) * scales.reshape(shape)
        np.testing.assert_allclose(tensor.dequantize(), expected, rtol=1e-6)
        rows = tensor.channels
        assert rows.shape == (
            tensor.shape[tensor.quantized_dimension],
            tensor.size // tensor.shape[tensor.quantized_dimension],
        )
        np.testing.assert_array_equal(
            rows[-1], np.take(tensor.values, -1, tensor.quantized_dimension).ravel()
        )


def test_operands_and_fused_activations_of_a_classifier(exported_digits: Exported) -> None:
    operators = read_graph(exported_digits.int8.read_bytes()).operators
    weighted = [
        (one.op, one.fused_activation, one.weighted.weights.shape, one.weighted.bias.shape)
        for one in operators
        if one.weighted is not None and one.weighted.bias is not None
    ]
    assert weighted == [
        ("CONV_2D", "RELU6", (16, 3, 3, 3), (16,)),
        ("DEPTHWISE_CONV_2D", "RELU6", (1, 3, 3, 16), (16,)),
        ("CONV_2D", "NONE", (16, 1, 1, 16), (16,)),
        ("FULLY_CONNECTED", "RELU", (32, 1024), (32,)),
        ("FULLY_CONNECTED", "NONE", (10, 32), (10,)),
    ]
    assert {one.weighted.input.data for one in operators if one.weighted} == {None}
    assert {one.op for one in operators if one.weighted is None} >= {"RESHAPE", "SOFTMAX"}


def test_what_is_not_a_dense_constant_has_no_values() -> None:
    def tensor(**values: Any) -> Tensor:
        none = {"scales": np.ones(0, np.float32), "zero_points": np.zeros(0, np.int64)}
        given = {"data": np.zeros(8, np.uint8), "type": "INT8", "shape": (2, 4), **none, **values}
        return Tensor(name="weights", variable=False, **given)

    assert tensor().values.shape == (2, 4)
    assert tensor(shape=(), type="INT64").channels.tolist() == [[0]]
    for damaged in (tensor(data=None), tensor(type="INT4"), tensor(shape=(3, 4))):
        with pytest.raises(UserError, match="weights"):
            _ = damaged.values
    for count in (2, 3):
        scales = tensor(scales=np.ones(count, np.float32), zero_points=np.zeros(1, np.int64))
        with contextlib.suppress(UserError) if count == 2 else pytest.raises(UserError):
            assert scales.dequantize().tolist() == np.zeros((2, 4)).tolist()


# ------------------------------------------------------------------------------- damaged files


@pytest.mark.parametrize(
    "content", [b"", b"TFL3", b"\x1c\0\0\0TFL3", b"PK\x03\x04 not a model at all"]
)
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="TensorFlow Lite model"):
        read_graph(content)


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_was_cut_off_is_damaged(name: str, fraction: float) -> None:
    content = real_file(name)
    with pytest.raises(UserError, match="damaged"):
        read_graph(content[: int(len(content) * fraction)])


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(SMALL), st.data())
def test_no_damage_ends_in_anything_but_words(name: str, data: st.DataObject) -> None:
    content = bytearray(real_file(f"{name}.tflite.gz"))
    # Half of the changes hit the tables, which stand at both ends, and not the weights.
    indices = st.integers(0, len(content) - 1) | st.integers(0, min(4_000, len(content)) - 1)
    for index in data.draw(st.lists(indices, max_size=6)):
        content[index] = data.draw(st.sampled_from([0, 1, 127, 128, 255]) | st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) or len(content) :]
    with contextlib.suppress(UserError):
        graph = read_graph(bytes(content))
        for operator in graph.operators:
            assert isinstance(operator.fused_activation, str)
            assert operator.weighted is None or operator.weighted.weights.is_constant
        for tensor in graph.tensors:
            assert isinstance(tensor.integers, tuple)
            with contextlib.suppress(UserError):
                assert tensor.channels.size == tensor.size
                assert tensor.dequantize().shape == tensor.shape


def own_output(model: Any) -> None:
    operator = model.subgraphs[0].operators[0]
    operator.inputs = [operator.outputs[0]]


def later_output(model: Any) -> None:
    model.subgraphs[0].operators.reverse()


def no_subgraph(model: Any) -> None:
    model.subgraphs = []


def unknown_tensor(model: Any) -> None:
    model.subgraphs[0].outputs = [1_000]


def unknown_operator(model: Any) -> None:
    model.subgraphs[0].operators[0].opcodeIndex = 9


def unknown_buffer(model: Any) -> None:
    model.subgraphs[0].tensors[0].buffer = 99


def larger_constant(model: Any) -> None:
    tensor = next(t for t in model.subgraphs[0].tensors if model.buffers[t.buffer].data is not None)
    tensor.shape = [5, 5]


def unknown_dimension(model: Any) -> None:
    quantization = model.subgraphs[0].tensors[0].quantization
    quantization.scale, quantization.zeroPoint = [1.0, 2.0], [0, 0]
    quantization.quantizedDimension = 7


def many_dimensions(model: Any) -> None:
    """The product of so many sizes takes minutes."""
    model.subgraphs[0].tensors[0].shape = [2**30] * 33


def long_name_of_an_operator(model: Any) -> None:
    """Each message on one of the operators would repeat it."""
    code = model.operatorCodes[0]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "x" * 201


@pytest.mark.parametrize(
    "change",
    [
        many_dimensions,
        long_name_of_an_operator,
        own_output,
        later_output,
        no_subgraph,
        unknown_tensor,
        unknown_operator,
        unknown_buffer,
        larger_constant,
        unknown_dimension,
    ],
)
def test_contradictions_are_damage(change: Callable[[Any], None]) -> None:
    content = real_file("split_concat.tflite.gz")
    assert read_graph(changed(content, lambda _: None)).operators
    with pytest.raises(UserError, match="damaged"):
        read_graph(changed(content, change))


def test_messages_are_short_whatever_the_names() -> None:
    def long_names(model: Any) -> None:
        larger_constant(model)
        for tensor in model.subgraphs[0].tensors:
            tensor.name = "x" * 100_000

    with pytest.raises(UserError, match=r"x{200} of shape") as error:
        read_graph(changed(real_file("split_concat.tflite.gz"), long_names))
    assert len(str(error.value)) < 1_000


def test_more_entries_than_the_limit_are_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables of a damaged file may overlap, so that a small file has entries without end."""
    content = real_file("split_concat.tflite.gz")

    def long_name(model: Any) -> None:
        model.subgraphs[0].tensors[0].name = "x" * 64 * 200

    monkeypatch.setattr(reader, "_MAX_ENTRIES", 200)
    assert read_graph(content).operators
    with pytest.raises(UserError, match="entries"):
        read_graph(changed(content, long_name))
