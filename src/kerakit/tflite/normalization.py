"""Normalization of pixels in the scale and zero point of the input, instead of in operators.

A model begins with real = scale * pixel + offset. A quantized input tensor has such a formula of
its own, scale * (byte - zero_point), so the int8 file needs no operators for it and still takes raw
bytes. Its zero point is an integer: the rest, half a step for pixels from -1 to 1, moves into the
biases of the first convolutions. Where a convolution pads its border with zeros, the bias counts
that rest for padded pixels, too: an error of at most half a step of the input per padded weight.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from kerakit.tflite.edit import pack_model, set_inputs, unpack_model
from kerakit.tflite.graph import Graph, Operator, Tensor, read_graph

_LARGEST_REST = 0.5
"""Largest difference of the zero point to an integer, in steps, that biases may absorb."""

_ROUNDING = 1e-3
"""Difference of a zero point to an integer, in steps, that comes from float32 constants."""

_WEIGHT_AXES = {"CONV_2D": (1, 2, 3), "DEPTHWISE_CONV_2D": (0, 1, 2)}
"""Axes of the weights that one output channel sums over."""


@dataclass(frozen=True)
class NormalizedInput:
    """A float32 file whose input is scale * (pixel - zero_point).

    Attributes:
        content: the file.
        scale: real value of a step of the pixels.
        zero_point: the pixel whose real value is 0.
        tensor: index of the input.
        replaced: index of the tensor in the original file that the input replaces.
        shift: what was added to the values of that tensor, and subtracted by biases.
    """

    content: bytes
    scale: float
    zero_point: int
    tensor: int
    replaced: int
    shift: float

    @property
    def limits(self) -> tuple[float, float]:
        """Real values of the pixels 0 and 255."""
        return self.scale * (0 - self.zero_point), self.scale * (255 - self.zero_point)


def fold_normalization(content: bytes) -> NormalizedInput:
    """Return a float32 file without the operators that normalize its pixels.

    The operators stay, with scale 1 and zero point 0, if they treat color channels differently, if
    0 is not among the real values of pixels, or if biases would have to change that other operators
    than convolutions lack.

    Args:
        content: a file with one input, pixels from 0 to 255.
    """
    graph = read_graph(content)
    (image,) = graph.inputs
    unchanged = NormalizedInput(content, 1.0, 0, image.index, image.index, 0.0)
    scale, offset, last, operators = _leading_formula(graph, image)
    if last in (image, *graph.outputs) or not 0 < scale < math.inf or not math.isfinite(offset):
        return unchanged
    exact = -offset / scale
    # Of two integers that are as near, the lower one: it is that of TensorFlow's quantizer.
    zero_point = min(max(math.ceil(round(exact, 3) - 0.5), 0), 255)
    rest = zero_point - exact
    if abs(rest) > _LARGEST_REST + _ROUNDING:
        return unchanged
    if abs(rest) > _ROUNDING:
        convolutions = _convolutions(graph, last)
        if convolutions is None:
            return unchanged
        content = _add_to_biases(content, convolutions, rest * scale)
    else:
        rest = 0.0
    content = _without(content, operators, last, image)
    return NormalizedInput(content, scale, zero_point, image.index, last.index, -rest * scale)


def _leading_formula(graph: Graph, image: Tensor) -> tuple[float, float, Tensor, list[Operator]]:
    """Return scale and offset of the first operators, their result, and these operators."""
    scale, offset, last, operators = 1.0, 0.0, image, list[Operator]()
    while last not in graph.outputs:
        users = _users(graph, last)
        if len(users) != 1 or users[0].fused_activation != "NONE":
            break
        (operator,) = users
        number = _scalar(operator, last)
        if number is None or operator.outputs[0].shape != last.shape:
            break
        if operator.op == "MUL":
            scale, offset = scale * number, offset * number
        elif operator.op == "ADD":
            offset += number
        elif operator.op == "SUB" and operator.inputs[0] is last:
            offset -= number
        else:
            break
        operators.append(operator)
        last = operator.outputs[0]
    return scale, offset, last, operators


def _scalar(operator: Operator, tensor: Tensor) -> float | None:
    """Return the constant that an operator combines ``tensor`` with, if it is one number."""
    if len(operator.inputs) != 2:
        return None
    others = [one for one in operator.inputs if one is not tensor]
    if len(others) != 1 or others[0] is None or not others[0].is_constant:
        return None
    if others[0].type != "FLOAT32" or others[0].size != 1:
        return None
    return float(others[0].values.reshape(-1)[0])


def _users(graph: Graph, tensor: Tensor) -> list[Operator]:
    return [one for one in graph.operators if tensor in one.inputs]


def _convolutions(graph: Graph, tensor: Tensor) -> list[Operator] | None:
    """Return the convolutions with constants that read a tensor, also behind padding with zeros.

    None if anything else reads it.
    """
    found: list[Operator] = []
    for operator in _users(graph, tensor):
        behind = [operator]
        if operator.op == "PAD" and operator.outputs[0] not in graph.outputs:
            behind = _users(graph, operator.outputs[0])
        for one in behind:
            operands = one.weighted
            if one.op not in _WEIGHT_AXES or operands is None or operands.bias is None:
                return None
            if operands.weights.type != "FLOAT32" or not operands.bias.is_constant:
                return None
            found.append(one)
    return found


def _add_to_biases(content: bytes, convolutions: list[Operator], shift: float) -> bytes:
    """Return a file whose convolutions compute for x what they computed for x + shift."""
    constants = {}
    for one in convolutions:
        assert one.weighted is not None and one.weighted.bias is not None  # noqa: S101, PT018
        weights = one.weighted.weights.values.astype(np.float64)
        bias = one.weighted.bias.values + shift * weights.sum(axis=_WEIGHT_AXES[one.op])
        constants[one.index, 2] = bias.astype(np.float32)
    return set_inputs(content, constants)


def _without(content: bytes, operators: list[Operator], last: Tensor, image: Tensor) -> bytes:
    """Return a file without ``operators``; what read their result reads the image."""
    model = unpack_model(content)
    graph = model.subgraphs[0]
    removed = {one.index for one in operators}
    graph.operators = [one for i, one in enumerate(graph.operators) if i not in removed]
    for one in graph.operators:
        inputs = np.array(one.inputs, np.int32)
        one.inputs = np.where(inputs == last.index, image.index, inputs).astype(np.int32)
    return pack_model(model)
