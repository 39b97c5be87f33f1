"""Strategies become phases; class weights balance the classes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kerakit import UserError
from kerakit.data import DataReader
from kerakit.training import compute_class_weights, select_phases
from projects import write_image


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


def test_class_weights_make_classes_count_the_same(tmp_path: Path) -> None:
    for i in range(40):
        write_image(tmp_path / ("rare" if i % 8 == 0 else "common") / f"{i}.png", i)
    reader = DataReader(tmp_path)
    weights, counts = compute_class_weights(reader), reader.counts("train")
    totals = [weights[i] * count for i, count in enumerate(counts)]
    assert np.allclose(totals, totals[0])
    assert np.isclose(sum(totals), counts.sum())
