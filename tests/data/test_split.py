"""The split is a function of (seed, names, classes), stratified and stable."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.data import DataReader, data_warnings
from kerakit.data.split import MODES, assign
from projects import write_image

ratios = st.floats(0.01, 0.99)
seeds = st.integers(0, 2**32 - 1)
datasets = st.dictionaries(st.binary(min_size=1), st.integers(0, 4), min_size=1, max_size=60)
grouped = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), min_size=1, max_size=60)
"""Pairs of group and class."""


def split(images: dict[bytes, int], seed: int = 0, ratio: float = 0.8) -> dict[bytes, str]:
    drawn = assign(pa.array(images), np.array([*images.values()], np.int32), seed, ratio)
    return {name: MODES[i] for name, i in zip(images, drawn, strict=True)}


@given(images=datasets, seed=seeds, ratio=ratios)
def test_fractions_are_those_requested_within_one_image_per_class(
    images: dict[bytes, int], seed: int, ratio: float
) -> None:
    sides = split(images, seed, ratio)
    for each, n in Counter(images.values()).items():
        counts = Counter(sides[name] for name, of in images.items() if of == each)
        assert counts["train"] >= 1
        assert abs(counts["train"] - ratio * n) <= 1
        assert abs(counts["val"] - (1 - ratio) / 2 * n) <= 1
        assert abs(counts["test"] - (1 - ratio) / 2 * n) <= 1
        assert n == 1 or ratio * n > n - 0.002 or counts["val"] >= 1


@given(images=datasets, new=st.binary(min_size=1), of=st.integers(0, 4), seed=seeds, ratio=ratios)
def test_an_added_image_moves_at_most_one_image_per_border_of_its_class(
    images: dict[bytes, int], new: bytes, of: int, seed: int, ratio: float
) -> None:
    images.pop(new, None)
    if not images:
        return
    before, after = split(images, seed, ratio), split({**images, new: of}, seed, ratio)
    moved = [name for name in images if before[name] != after[name]]
    assert all(images[name] == of for name in moved)
    borders = Counter(frozenset({before[name], after[name]}) for name in moved)
    assert set(borders) <= {frozenset({"train", "val"}), frozenset({"val", "test"})}
    assert not borders or max(borders.values()) == 1


@given(images=datasets, seed=seeds, two=st.tuples(ratios, ratios).map(sorted))
def test_a_larger_ratio_takes_no_image_from_training(
    images: dict[bytes, int], seed: int, two: list[float]
) -> None:
    smaller, larger = split(images, seed, two[0]), split(images, seed, two[1])
    assert all(larger[name] == "train" for name in images if smaller[name] == "train")


@given(images=datasets, seed=seeds, shuffled=st.randoms())
def test_the_order_of_the_images_does_not_matter(
    images: dict[bytes, int], seed: int, shuffled: object
) -> None:
    names = list(images)
    shuffled.shuffle(names)  # type: ignore[attr-defined]
    assert split({name: images[name] for name in names}, seed) == split(images, seed)


@given(rows=grouped, seed=seeds, ratio=ratios, excluded=st.sets(st.integers(0, 59)))
def test_groups_stay_together_and_every_class_has_a_training_image(
    rows: list[tuple[int, int]], seed: int, ratio: float, excluded: set[int]
) -> None:
    names = pa.array([b"%d" % group for group, _ in rows])
    classes = np.array([of for _, of in rows], np.int32)
    usable = np.array([i not in excluded for i in range(len(rows))])
    sides = assign(names, classes, seed, ratio, usable)
    for group in {group for group, _ in rows}:
        assert len({sides[i] for i, row in enumerate(rows) if row[0] == group}) == 1
    assert set(classes[usable & (sides == 0)]) == set(classes[usable])


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=30), seed=seeds, ratio=ratios)
def test_groups_of_one_class_follow_the_ratio_within_a_group(
    sizes: list[int], seed: int, ratio: float
) -> None:
    names = pa.array([b"%d" % group for group, size in enumerate(sizes) for _ in range(size)])
    sides = assign(names, np.zeros(len(names), np.int32), seed, ratio)
    train = int((sides == 0).sum())
    assert train in sizes or abs(train - ratio * len(names)) <= max(sizes) / 2 + 1


@given(images=datasets, seed=seeds, excluded=st.sets(st.integers(0, 59), max_size=5))
def test_an_exclusion_moves_no_image_except_into_a_class_without_training_images(
    images: dict[bytes, int], seed: int, excluded: set[int]
) -> None:
    classes = np.array([*images.values()], np.int32)
    usable = np.array([i not in excluded for i in range(len(images))])
    without = assign(pa.array(images), classes, seed, 0.8, usable)
    sides = assign(pa.array(images), classes, seed, 0.8)
    for each in classes[usable & (sides != without)]:
        assert not (usable & (classes == each) & (sides == 0)).any()


def test_the_split_of_a_dataset_never_changes() -> None:
    """Else a model trained yesterday would be tested on what it was trained on."""
    images = {b"hat/%d.jpg" % i: i % 2 for i in range(20)}
    assert "".join(side[:2] for side in split(images, 0, 0.6).values()) == (
        "vatetetrvavatrtetrtrtrvatrtrtrtrtrtrtetr"
    )


def test_seeds_differ() -> None:
    images = {b"hat/%d.jpg" % i: 0 for i in range(50)}
    assert len({tuple(split(images, seed, 0.6).values()) for seed in range(10)}) == 10


def test_classes_with_few_images_have_training_images(tmp_path: Path) -> None:
    for k in range(12):
        write_image(tmp_path / f"rare_{k:02d}" / "only.png", k)
        write_image(tmp_path / f"two_{k:02d}" / "1.png", 100 + k)
        write_image(tmp_path / f"two_{k:02d}" / "2.png", 200 + k)
    for i in range(40):
        write_image(tmp_path / "sparrow" / f"{i:02d}.png", 300 + i)
    reader = DataReader(tmp_path)
    assert reader.counts("train").min() == 1
    assert reader.counts("train").max() == 32
    (val, test) = data_warnings(reader)
    assert val.startswith("12 classes ('rare_00', 'rare_01', 'rare_02' and 9 more): no validation")
    assert test.startswith("24 classes")


def test_images_of_a_group_with_a_given_split_follow_it(tmp_path: Path) -> None:
    rows = [
        f"{g}-{i}.png,{'ab'[i % 2]},{'test' if i == 0 and g < 9 else ''},{g}"
        for g in range(20)
        for i in range(6)
    ]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["path,label,split,group", *rows]))
    reader = DataReader(table)
    sides = {reader.key(i): mode for mode in MODES for i in reader.indices(mode)}
    assert all(sides[f"{g}-{i}.png"] == "test" for g in range(9) for i in range(6))


def test_a_class_whose_images_are_all_held_out_is_an_error(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,label,split\n1.png,a,train\n2.png,b,val\n3.png,c,val\n4.png,d,train\n")
    with pytest.raises(UserError, match=r"2 classes \('b', 'c'\) in .*: no training images"):
        DataReader(table)
