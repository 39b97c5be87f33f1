"""Calibration images: training images, each once, class-balanced."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerakit.data import BatchGenerator, DataReader
from kerakit.deploy import Calibration, select_calibration_images


class Endless:
    """Three images without end, as ``ImageGenerator`` yields them."""

    def __len__(self) -> int:
        return 3

    def keys(self, count: int) -> list[str]:
        return ["b.png", "a.png", "ü.png"][:count]

    def __iter__(self) -> Iterator[Any]:
        while True:
            yield from (np.full((1, 1, 3), i, np.uint8) for i in range(3))


def test_the_order_is_of_training_images_and_decided_by_the_seed(photos: Path) -> None:
    for i in range(20):
        (photos / "pear" / f"{i:02d}.png").unlink()
    reader = DataReader(photos)
    train = set(reader.indices("train"))
    index_of = {reader.key(i): i for i in range(len(reader))}
    lists = []
    for seed in (0, 0, 1):
        batches = BatchGenerator(reader, "train", batch_size=1, input_size=(16, 12), seed=seed)
        order = batches.class_balanced_order().tolist()
        lists.append([batches.sample_key(0, index) for index in order])
    assert lists[0] == lists[1] != lists[2]
    assert {index_of[key] for key in lists[0]} == train
    pears = sum(reader.target(i) == 1 for i in train)
    first = Counter(reader.target(index_of[key]) for key in lists[0][: 2 * pears])
    assert first == {0: pears, 1: pears}


def test_targets_of_any_form_are_balanced(photos: Path) -> None:
    class Reader(DataReader):
        def target(self, i: int) -> object:  # type: ignore[override]
            return {"label": super().target(i), "box": np.zeros(4)}

    batches = BatchGenerator(Reader(photos), "train", batch_size=1, input_size=(16, 12))
    keys = [batches.sample_key(0, index) for index in batches.class_balanced_order()[:6].tolist()]
    assert Counter(key.split("/")[0] for key in keys) == {"apple": 3, "pear": 3}


@pytest.mark.parametrize("count", [3, 200])
def test_each_image_is_used_once_and_the_list_has_a_hash(count: int) -> None:
    calibration = select_calibration_images(Endless(), count)
    assert [int(image[0, 0, 0]) for image in calibration.images()] == [0, 1, 2]
    # A second pass sees the same images.
    assert [int(image[0, 0, 0]) for image in calibration.images()] == [0, 1, 2]
    keys = "b.png\na.png\nü.png\n".encode()
    assert calibration.to_json() == {"images": 3, "sha256": sha256(keys).hexdigest()}
    assert calibration.doubled is None


def test_twice_as_many_images_begin_with_the_same() -> None:
    calibration = select_calibration_images(Endless(), 1)
    assert calibration.keys == ("b.png",)
    assert calibration.doubled is not None
    doubled = calibration.doubled()
    assert doubled.keys == ("b.png", "a.png")
    assert doubled.doubled is not None
    assert doubled.doubled().keys == ("b.png", "a.png", "ü.png")


def test_the_hash_depends_on_the_order() -> None:
    first, second = (Calibration(keys, lambda: iter(())) for keys in (("a", "b"), ("b", "a")))
    assert first.sha256 != second.sha256
