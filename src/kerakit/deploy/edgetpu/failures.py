"""Graphs on which ``edgetpu_compiler`` is known to fail as a whole, without naming an operator.

Other graphs with the same patterns compile, so these are warnings, not verdicts.
"""

from __future__ import annotations

from collections.abc import Sequence

from kerakit.deploy.edgetpu.verdicts import ISSUE
from kerakit.tflite.graph import Operator

_WORKING_SET = 6 * 2**20
"""Inputs and outputs of one operator, in bytes: 3 tensors of 256x256x32 in the SiLU of yolov5s."""


def find_likely_failures(operators: Sequence[Operator]) -> list[str]:
    """Return a warning per pattern, with its first operator, its source and what to do.

    Args:
        operators: those that may be mapped, in the order of execution.
    """
    return [*_find_large_activations(operators), *_find_padded_sums(operators)]


def _find_large_activations(operators: Sequence[Operator]) -> list[str]:
    sizes = {
        one: sum(tensor.size for tensor in (*one.activations, *one.outputs)) for one in operators
    }
    largest = max(operators, key=sizes.__getitem__, default=None)
    if largest is None or sizes[largest] < _WORKING_SET:
        return []
    return [
        f"operator {largest.index}, {largest.op}, reads and writes "
        f"{sizes[largest] / 2**20:.1f} MiB of activations, and the chip has 8 MiB. The compiler "
        'may fail: "Compilation failed due to large activation tensors in model". Use smaller '
        f"images. [{ISSUE}449 (yolov5s of 512x512 pixels), #439, #60]"
    ]


def _find_padded_sums(operators: Sequence[Operator]) -> list[str]:
    """Find an ADD of a feature map whose height or width was padded; channels do no harm."""
    padded = {
        tensor
        for one in operators
        if one.op == "PAD" and (paddings := one.input(1)) and any(paddings.integers[:-2])
        for tensor in one.outputs
    }
    for one in operators:
        if one.op == "ADD" and any(tensor in padded for tensor in one.activations):
            return [
                f"operator {one.index}, ADD, adds the output of a PAD of height or width. The "
                'compiler may fail: "Compilation failed!", without a reason. Choose an input size '
                f"that needs no padding, or crop the other operand. [{ISSUE}690]"
            ]
    return []
