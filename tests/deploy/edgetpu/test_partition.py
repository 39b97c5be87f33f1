"""The compiled partition against TensorFlow Lite's own partitioning, on random graphs."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit.deploy.edgetpu.partition import MAYBE, NO, YES, select_partition
from kerakit.tflite.graph import Operator, Tensor


def tensor() -> Tensor:
    return Tensor("", "INT8", (1,), None, np.ones(1, np.float32), np.zeros(1, np.int64), False)


def operator(index: int, inputs: list[Tensor]) -> Operator:
    return Operator(index, "ADD", "", 1, tuple(inputs), (tensor(), tensor()), None)


@st.composite
def graphs(draw: st.DrawFn) -> list[Operator]:
    """Draw operators of two outputs each, which read the graph's input and earlier outputs."""
    made = [tensor()]
    operators = []
    for index in range(draw(st.integers(1, 10))):
        operators.append(operator(index, draw(st.lists(st.sampled_from(made), max_size=3))))
        made += operators[-1].outputs
    return operators


def reference_partition(operators: list[Operator], supported: list[bool]) -> set[int]:
    """Follow PartitionGraphIntoIndependentNodeSubsets of TensorFlow Lite's graph_info.cc."""
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
                kind = supported[i] if kind is None else kind
                if supported[i] == kind:
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
def test_it_is_the_first_partition_of_tensorflow_lite(
    operators: list[Operator], data: st.DataObject
) -> None:
    supported = [data.draw(st.booleans()) for _ in operators]
    found = select_partition(operators, [YES if one else NO for one in supported])
    assert {i for i, inside in enumerate(found) if inside == YES} == reference_partition(
        operators, supported
    )
    assert MAYBE not in found


@settings(max_examples=300, deadline=None)
@given(graphs(), st.data())
def test_certain_verdicts_hold_whichever_way_unknown_operators_go(
    operators: list[Operator], data: st.DataObject
) -> None:
    supported = [data.draw(st.sampled_from([NO, MAYBE, YES, YES])) for _ in operators]
    found = select_partition(operators, supported)
    unknown = [i for i, one in enumerate(supported) if one == MAYBE]
    for ways in itertools.product([NO, YES], repeat=len(unknown)):
        decided = dict(zip(unknown, ways, strict=True))
        real = reference_partition(
            operators, [decided.get(i, one) == YES for i, one in enumerate(supported)]
        )
        for i, inside in enumerate(found):
            assert inside == MAYBE or (inside == YES) == (i in real)


def test_no_operators_make_no_partition() -> None:
    assert select_partition([], []) == []
