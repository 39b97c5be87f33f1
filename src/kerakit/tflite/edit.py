"""The writer of TensorFlow Lite files: edits that leave the rest of the file unchanged."""

from __future__ import annotations

import copy
import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.tflite.graph import read_graph


def set_outputs(content: bytes, tensors: Sequence[int]) -> bytes:
    """Return a file whose outputs are ``tensors``, by their indices; its signatures are dropped."""
    model = unpack_model(content)
    model.subgraphs[0].outputs = np.array(tensors, np.int32)
    model.signatureDefs = None
    return pack_model(model)


def set_ranges(content: bytes, ranges: Mapping[int, tuple[float, float]]) -> bytes:
    """Return a file with the range of values of tensors, as TensorFlow's calibrator records it.

    Args:
        content: a float32 file.
        ranges: minimum and maximum by tensor index.
    """
    from ai_edge_litert import schema_py_generated as schema

    model = unpack_model(content)
    for index, limits in ranges.items():
        quantization = schema.QuantizationParametersT()
        quantization.min, quantization.max = (np.array([limit], np.float32) for limit in limits)
        model.subgraphs[0].tensors[index].quantization = quantization
    return pack_model(model)


def set_constants(content: bytes, constants: Mapping[int, NDArray[Any]]) -> bytes:
    """Return a file with new values of constant tensors.

    A buffer that other tensors or metadata share keeps its data, and the tensor gets a new one:
    TensorFlow's converter stores equal constants once.

    Args:
        content: the file.
        constants: stored values by tensor index, in the tensor's type and shape.

    Raises:
        UserError: a tensor is not a dense constant.
        ValueError: a tensor has another type or shape.
    """
    from ai_edge_litert import schema_py_generated as schema

    tensors = read_graph(content).tensors
    model = unpack_model(content)
    users = Counter(tensor.buffer for graph in model.subgraphs for tensor in graph.tensors)
    users.update(metadata.buffer for metadata in model.metadata or ())
    users.update(model.metadataBuffer if model.metadataBuffer is not None else ())
    for index, values in constants.items():
        old, tensor = tensors[index].values, model.subgraphs[0].tensors[index]
        if values.dtype != old.dtype or values.shape != old.shape:
            raise ValueError(
                f"tensor {index} is {old.dtype} {old.shape}, not {values.dtype} {values.shape}"
            )
        if users[tensor.buffer] > 1:
            users[tensor.buffer] -= 1
            tensor.buffer = len(model.buffers)
            users[tensor.buffer] = 1
            model.buffers.append(schema.BufferT())
        model.buffers[tensor.buffer].data = np.frombuffer(values.tobytes(), np.uint8)
    return pack_model(model)


def set_inputs(content: bytes, constants: Mapping[tuple[int, int], NDArray[Any]]) -> bytes:
    """Return a file with new values of constant inputs of operators.

    A tensor that other inputs share keeps its values, and the operator gets a copy of it.

    Args:
        content: the file.
        constants: stored values by operator index and position among its inputs, as in
            ``set_constants``.

    Raises:
        UserError: an input is not a dense constant.
        ValueError: an input is omitted, or has another type or shape.
    """
    model = unpack_model(content)
    graph = model.subgraphs[0]
    users = Counter(int(index) for operator in graph.operators for index in operator.inputs)
    users.update(int(index) for index in graph.outputs)
    by_tensor = {}
    for (operator, position), values in constants.items():
        inputs = np.array(graph.operators[operator].inputs, np.int32)
        index = int(inputs[position])
        if index < 0:
            raise ValueError(f"operator {operator} has no input {position}")
        if users[index] > 1:
            users[index] -= 1
            inputs[position] = len(graph.tensors)
            graph.operators[operator].inputs = inputs
            graph.tensors.append(copy.copy(graph.tensors[index]))
            index = len(graph.tensors) - 1
        by_tensor[index] = values
    return set_constants(pack_model(model), by_tensor)


def unpack_model(content: bytes) -> Any:
    """Return a file as the schema's objects; what follows the model, such as labels, is dropped."""
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(content, 0)


def pack_model(model: Any) -> bytes:
    """Return the file of the schema's objects."""
    builder = _builder_class()(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


@functools.cache
def _builder_class() -> Any:
    import flatbuffers

    class Builder(flatbuffers.Builder):
        """Aligns data to 16 bytes, as ``force_align`` of the schema demands; Python ignores it."""

        def StartVector(self, size: int, count: int, alignment: int) -> Any:  # noqa: N802
            return super().StartVector(size, count, 16 if size == 1 else alignment)

    return Builder
