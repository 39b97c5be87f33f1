"""MixUp and CutMix: pixels and labels of each image come from two images in equal proportion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.data import BatchGenerator, DataReader, Mix
from kerakit.tasks import (
    Classification,
    Detection,
    Keypoints,
    MultiLabel,
    MultiTask,
    Regression,
    Segmentation,
    Task,
)
from projects import Project

seeds = st.integers(0, 2**32 - 1)


def batch(count: int = 6, size: tuple[int, int] = (9, 13)) -> tuple[Any, Any]:
    """Images of one value each: image i is 40 * i; its class is i."""
    values = 40 * np.arange(count, dtype=np.uint8)
    return np.broadcast_to(values[:, None, None, None], (count, *size, 3)).copy(), np.arange(
        count, dtype=np.int32
    )


@given(seed=seeds, alpha=st.floats(0.05, 5))
def test_mixup_blends_pixels_in_the_proportion_of_the_labels(seed: int, alpha: float) -> None:
    images, targets = batch()
    mixed, labels = Mix(6, mixup=alpha)(images, targets, seed)
    assert mixed.dtype == np.uint8
    assert labels.dtype == np.float32
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)
    assert (np.count_nonzero(labels, axis=1) <= 2).all()
    np.testing.assert_allclose(mixed[:, 0, 0, 0], labels @ (40.0 * np.arange(6)), atol=0.51)


@given(seed=seeds, alpha=st.floats(0.05, 5))
def test_cutmix_counts_the_pixels_that_it_pasted(seed: int, alpha: float) -> None:
    images, targets = batch()
    mixed, labels = Mix(6, cutmix=alpha)(images, targets, seed)
    for n in range(6):
        counted = np.array([(mixed[n, ..., 0] == 40 * k).mean() for k in range(6)])
        np.testing.assert_allclose(counted, labels[n], atol=1e-6)


def test_both_take_turns_by_chance() -> None:
    images, targets = batch()
    of_two_values = [
        len(np.unique(Mix(6, 1, 1)(images, targets, seed)[0][0])) for seed in range(60)
    ]
    assert {1, 2} <= set(of_two_values)


def test_the_same_bits_for_any_number_of_threads_and_other_ones_each_epoch(photos: Path) -> None:
    reader = DataReader(photos)

    def epoch(threads: int, number: int) -> Any:
        generator = BatchGenerator(
            reader, "train", 8, (20, 16), threads=threads, mix=Mix(2, 0.4, 1)
        )
        generator.epoch = number
        batches = [generator[i] for i in range(len(generator))]
        generator.close()
        return [np.concatenate(part) for part in zip(*batches, strict=True)]

    for a, b in zip(epoch(1, 1), epoch(4, 1), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(epoch(1, 1)[1], epoch(1, 2)[1])


def test_validation_is_not_mixed_but_has_the_form(photos: Path) -> None:
    reader = DataReader(photos)
    images, labels = BatchGenerator(reader, "val", 4, (20, 16), mix=Mix(2, 1, 1))[0]
    plain, targets = BatchGenerator(reader, "val", 4, (20, 16))[0]
    np.testing.assert_array_equal(images, plain)
    np.testing.assert_array_equal(labels, np.eye(2)[targets])


def test_other_targets_are_refused() -> None:
    with pytest.raises(UserError, match="one class"):
        Mix(3, 1)(batch(3)[0], np.zeros((3, 4), np.float32), 0)


TARGETS: list[tuple[Task, Any, tuple[str, ...]]] = [
    (Classification(list("abcdef")), np.arange(6, dtype=np.int32), ("mixup", "cutmix")),
    (MultiLabel(list("ab")), np.eye(6, 2, dtype=np.float32), ("mixup", "cutmix")),
    (Regression(["size"]), np.arange(6, dtype=np.float32)[:, None], ("mixup",)),
    (Detection(["a"]), np.zeros((6, 2, 6), np.float32), ()),
    (Segmentation(["a", "b"]), np.zeros((6, 9, 13), np.uint8), ()),
    (Keypoints(["a"]), np.zeros((6, 1, 3), np.float32), ()),
    (
        MultiTask({"x": Classification(list("abcdef")), "y": Regression(["size"])}),
        {"x": np.arange(6, dtype=np.int32), "y": np.arange(6, dtype=np.float32)[:, None]},
        ("mixup",),
    ),
]


@pytest.mark.parametrize("method", ["mixup", "cutmix"])
@pytest.mark.parametrize(
    ("task", "targets", "methods"), TARGETS, ids=[task.name for task, *_ in TARGETS]
)
def test_each_task_blends_its_targets_or_says_that_it_cannot(
    task: Task, targets: Any, methods: tuple[str, ...], method: str
) -> None:
    assert task.mix_methods == methods
    mix = Mix(task.soft_targets, **{method: 1.0})
    images, _ = batch()
    if method not in methods:
        with pytest.raises(UserError, match=f"--{method} blends labels, which the task .* cannot"):
            mix(images, targets, 0)
        return
    mixed, blended = mix(images, targets, 0)
    # Image i has the value 40 i: what its target is blended from, too.
    parts = mixed.mean(axis=(1, 2, 3)) / 40
    soft = blended if isinstance(blended, dict) else {task.name: blended}
    for name, values in soft.items():
        assert values.dtype == np.float32
        expected = parts if name in ("regression", "y") else None
        if values.shape[1] == 6:
            values, expected = values @ np.arange(6), parts
        if expected is not None:
            np.testing.assert_allclose(np.ravel(values), expected, atol=0.02)


def test_training_with_both_flags(project: Project) -> None:
    result = project.train("--mixup", 0.2, "--cutmix", 1, "--drop_last", "--batch_size", 9)
    assert result.code == 0, result.err
    assert (project.path / "progress/test/plots/train_batch.png").is_file()
