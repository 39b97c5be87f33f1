"""Graph partitioning by TensorFlow Lite delegates: the partition that the compiler compiles.

TensorFlow Lite divides the operators into partitions by the order of their data
(``PartitionGraphIntoIndependentNodeSubsets`` in its graph_info.cc). Without
--enable_multiple_subgraphs the compiler keeps the first partition of supported operators.
"""

from __future__ import annotations

from collections.abc import Sequence

from kerakit.tflite.graph import Operator, Tensor

NO, MAYBE, YES = 0.0, 0.5, 1.0


def select_partition(operators: Sequence[Operator], supported: Sequence[float]) -> list[float]:
    """Return which operators are in the first partition of supported operators.

    TensorFlow Lite's rule: a partition begins with the first operator whose inputs are available,
    and holds all operators of the same kind (supported or unsupported) whose inputs come from it or
    from earlier partitions. If the first operator is supported, the result is thus the supported
    operators that depend on supported operators alone. Otherwise it is the second partition, whose
    operators may also depend on those of the first.

    Args:
        operators: in the order of execution.
        supported: per operator NO, MAYBE or YES.

    Returns:
        Per operator NO, YES, or MAYBE if it depends on an operator that may be supported.
    """
    if not operators:
        return []
    if supported[0] == YES:
        return _leading(operators, supported)
    if supported[0] == NO:
        return _following(operators, supported)
    if_supported = _leading(operators, [YES, *supported[1:]])
    if_unsupported = _following(operators, [NO, *supported[1:]])
    pairs = zip(if_supported, if_unsupported, strict=True)
    return [one if one == other else MAYBE for one, other in pairs]


def _leading(operators: Sequence[Operator], supported: Sequence[float]) -> list[float]:
    """Return the operators that depend on supported operators alone."""
    inside: dict[Tensor, float] = {}
    selected = []
    for operator, itself in zip(operators, supported, strict=True):
        selected.append(min(itself, _least(inside, operator)))
        inside.update(dict.fromkeys(operator.outputs, selected[-1]))
    return selected


def _following(operators: Sequence[Operator], supported: Sequence[float]) -> list[float]:
    """Return the supported operators behind the leading unsupported ones."""
    before: dict[Tensor, float] = {}
    either: dict[Tensor, float] = {}
    selected = []
    for operator, itself in zip(operators, supported, strict=True):
        all_before, all_either = _least(before, operator), _least(either, operator)
        is_before = min(YES - itself, all_before)
        # An operator that may be supported is in one of the two partitions either way, if all that
        # it depends on is in the leading one.
        is_either = {YES: all_either, NO: all_before}.get(
            itself, YES if all_before == YES else min(MAYBE, all_either)
        )
        selected.append(min(itself, all_either))
        before.update(dict.fromkeys(operator.outputs, is_before))
        either.update(dict.fromkeys(operator.outputs, is_either))
    return selected


def _least(certainty: dict[Tensor, float], operator: Operator) -> float:
    """Return the least certainty of the inputs; a tensor that no operator outputs is available."""
    return min((certainty.get(tensor, YES) for tensor in operator.activations), default=YES)
