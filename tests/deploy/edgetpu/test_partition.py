"""Which operators are compiled: against TensorFlow Lite's own way of dividing a graph, on random graphs."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit.deploy.edgetpu.partition import MAYBE, NO, YES, first_part
from kerakit.tflite.graph import Operator, Tensor


def tensor() -> Tensor:
    return Tensor("", "INT8", (1,), None, np.ones(1, np.float32), np.zeros(1, np.int64), False)


def operator(index: int, inputs: list[Tensor]) -> Operator:
    return Operator(index, "ADD", "", 1, tuple(inputs), (tensor(), tensor()), None)


@st.composite
def graphs(draw: st.DrawFn) -> list[Operator]:
    """Operators of two outputs each, which read the graph's inputs and what operators before them made."""
    made = [tensor()]
    operators = []
    for index in range(draw(st.integers(1, 10))):
        operators.append(operator(index, draw(st.lists(st.sampled_from(made), max_size=3))))
        made += operators[-1].outputs
    return operators


def divided(operators: list[Operator], taken: list[bool]) -> set[int]:
    """As PartitionGraphIntoIndependentNodeSubsets of TensorFlow Lite's graph_info.cc does it, set after set."""
    unmade = {one for operator in operators for one in operator.outputs}
    waiting = list(range(len(operators)))
    while waiting:
        kind: bool | None = None
        found: list[int] = []
        while True:
            before = len(found)
            for i in list(waiting):
                if any(one in unmade for one in operators[i].inputs):
                    continue
                kind = taken[i] if kind is None else kind
                if taken[i] == kind:
                    found.append(i)
                    waiting.remove(i)
                    unmade -= set(operators[i].outputs)
            if len(found) == before:
                break
        if kind:
            return set(found)
    return set()


@settings(max_examples=300, deadline=None)
@given(graphs(), st.data())
def test_it_is_the_first_set_of_tensorflow_lite(
    operators: list[Operator], data: st.DataObject
) -> None:
    taken = [data.draw(st.booleans()) for _ in operators]
    found = first_part(operators, [YES if one else NO for one in taken])
    assert {i for i, inside in enumerate(found) if inside == YES} == divided(operators, taken)
    assert MAYBE not in found


@settings(max_examples=300, deadline=None)
@given(graphs(), st.data())
def test_what_is_said_of_unknown_ones_holds_whichever_way_they_go(
    operators: list[Operator], data: st.DataObject
) -> None:
    taken = [data.draw(st.sampled_from([NO, MAYBE, YES, YES])) for _ in operators]
    found = first_part(operators, taken)
    unknown = [i for i, one in enumerate(taken) if one == MAYBE]
    for ways in itertools.product([NO, YES], repeat=len(unknown)):
        decided = dict(zip(unknown, ways, strict=True))
        real = divided(operators, [decided.get(i, one) == YES for i, one in enumerate(taken)])
        for i, inside in enumerate(found):
            assert inside == MAYBE or (inside == YES) == (i in real)


def test_no_operators_make_no_part() -> None:
    assert first_part([], []) == []
