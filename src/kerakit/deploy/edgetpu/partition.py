"""Which operators one delegate of TensorFlow Lite gets, of those that it takes: the part that ``edgetpu_compiler`` compiles.

TensorFlow Lite divides the operators into sets by the order of their data (``PartitionGraphIntoIndependentNodeSubsets`` in its
graph_info.cc). Without --enable_multiple_subgraphs the compiler keeps the first set of operators that the Edge TPU takes.
"""

from __future__ import annotations

from collections.abc import Sequence

from kerakit.tflite.graph import Operator, Tensor

NO, MAYBE, YES = 0.0, 0.5, 1.0


def first_part(operators: Sequence[Operator], taken: Sequence[float]) -> list[float]:
    """Say which operators are in the first set of those that the Edge TPU takes.

    TensorFlow Lite's rule: a set begins with the first operator that is ready, and holds all of the same kind (taken, or not)
    whose inputs come from it or from the sets before. The first set is thus what is taken together with all that it comes
    from; or else, where the first operator is not taken, the second set is, which may come from the first as well.

    Args:
        operators: in the order of execution.
        taken: for each 0 (no), 0.5 (unknown) or 1 (yes): whether the Edge TPU takes it for itself.

    Returns:
        For each 0, 0.5 or 1: whether it is in that set, as far as that is known.
    """
    if not operators:
        return []
    if taken[0] == YES:
        return _leading(operators, taken)
    if taken[0] == NO:
        return _following(operators, taken)
    with_it, without = (
        _leading(operators, [YES, *taken[1:]]),
        _following(operators, [NO, *taken[1:]]),
    )
    return [one if one == other else MAYBE for one, other in zip(with_it, without, strict=True)]


def _leading(operators: Sequence[Operator], taken: Sequence[float]) -> list[float]:
    """Say what is taken together with all that it comes from."""
    inside: dict[Tensor, float] = {}
    found = []
    for operator, itself in zip(operators, taken, strict=True):
        found.append(min(itself, _least(inside, operator)))
        inside.update(dict.fromkeys(operator.outputs, found[-1]))
    return found


def _following(operators: Sequence[Operator], taken: Sequence[float]) -> list[float]:
    """Say what is taken and comes from what is taken, or from the operators that are left out before."""
    before: dict[Tensor, float] = {}
    either: dict[Tensor, float] = {}
    found = []
    for operator, itself in zip(operators, taken, strict=True):
        all_before, all_either = _least(before, operator), _least(either, operator)
        is_before = min(YES - itself, all_before)
        # Of an operator that may go either way: whichever way it goes, it is in one of the two if all before it is left out.
        is_either = {YES: all_either, NO: all_before}.get(
            itself, YES if all_before == YES else min(MAYBE, all_either)
        )
        found.append(min(itself, all_either))
        before.update(dict.fromkeys(operator.outputs, is_before))
        either.update(dict.fromkeys(operator.outputs, is_either))
    return found


def _least(of: dict[Tensor, float], operator: Operator) -> float:
    """Return the least certainty among what makes the inputs of ``operator``; what nothing makes is there from the start."""
    return min((of.get(tensor, YES) for tensor in operator.activations), default=YES)
