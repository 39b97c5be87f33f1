"""Strategies become phases."""

from __future__ import annotations

import pytest

from kerakit import UserError
from kerakit.training import select_phases


@pytest.mark.parametrize(
    ("strategy", "weights", "checkpoint", "phases"),
    [
        ("auto", "imagenet", None, ("head", "finetune")),
        ("auto", "none", None, ("scratch",)),
        ("auto", "none", ("head", "finetune"), ("finetune",)),
        ("auto", "none", ("scratch",), ("scratch",)),
        ("auto", "none", (), ("scratch",)),
        ("head", "imagenet", None, ("head",)),
        ("head", "none", ("scratch",), ("head",)),
        ("finetune", "imagenet", None, ("head", "finetune")),
        ("finetune", "none", (), ("finetune",)),
        ("scratch", "imagenet", None, ("scratch",)),
    ],
)
def test_the_phases_of_a_strategy(
    strategy: str, weights: str, checkpoint: tuple[str, ...] | None, phases: tuple[str, ...]
) -> None:
    assert select_phases(strategy, weights, checkpoint) == phases  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", ["head", "finetune"])
def test_a_strategy_that_needs_pretrained_weights(strategy: str) -> None:
    with pytest.raises(UserError, match="--strategy"):
        select_phases(strategy, "none")  # type: ignore[arg-type]


def test_a_task_that_is_trained_end_to_end_has_no_phase_of_the_head_alone() -> None:
    assert select_phases("finetune", "imagenet", None, end_to_end=True) == ("finetune",)
    assert select_phases("head", "imagenet", None, end_to_end=True) == ("head",)
    assert select_phases("auto", "none", None, end_to_end=True) == ("scratch",)
