"""Which images ranges are measured on: training images, each once, classes in turn."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import kerakit
from kerakit.deploy.quantization.calibration import (
    Calibration,
    calibration_images,
    in_turn,
    places_in_turn,
)


@given(st.lists(st.sampled_from("abc")))
def test_every_beginning_is_as_balanced_as_can_be(classes: list[str]) -> None:
    places = in_turn(classes)
    assert sorted(places) == list(range(len(classes)))
    counts = Counter(classes)
    taken: Counter[str] = Counter()
    for place in places:
        taken[classes[place]] += 1
        # Nobody is ahead of a class that has some left.
        waiting = [taken[name] for name in counts if taken[name] < counts[name]]
        assert taken[classes[place]] <= min(waiting, default=len(classes)) + 1
    for name in counts:
        of_one = [place for place in places if classes[place] == name]
        assert of_one == sorted(of_one)


def test_they_are_training_images_in_an_order_that_the_seed_decides(photos: Path) -> None:
    for i in range(20):
        (photos / "pear" / f"{i:02d}.png").unlink()
    reader = kerakit.DataReader(photos)
    train = set(reader.indices("train"))
    row_of = {reader.key(i): i for i in range(len(reader))}
    lists = []
    for seed in (0, 0, 1):
        batches = kerakit.BatchGenerator(
            reader, "train", batch_size=1, input_size=(16, 12), seed=seed
        )
        lists.append([batches.keys(int(place))[0] for place in places_in_turn(batches)])
    assert lists[0] == lists[1] != lists[2]
    assert {row_of[key] for key in lists[0]} == train
    pears = sum(reader.target(row) == 1 for row in train)
    assert Counter(reader.target(row_of[key]) for key in lists[0][: 2 * pears]) == {
        0: pears,
        1: pears,
    }


def test_targets_of_any_form_take_turns(photos: Path) -> None:
    class Reader(kerakit.DataReader):
        def target(self, i: int) -> object:  # type: ignore[override]
            return {"label": super().target(i), "box": np.zeros(4)}

    reader = Reader(photos)
    batches = kerakit.BatchGenerator(reader, "train", batch_size=1, input_size=(16, 12))
    keys = [batches.keys(int(place))[0] for place in places_in_turn(batches)[:6]]
    assert Counter(key.split("/")[0] for key in keys) == {"apple": 3, "pear": 3}


def test_the_list_is_told_by_its_hash() -> None:
    class Endless:
        def __len__(self) -> int:
            return 3

        def keys(self, count: int) -> list[str]:
            return ["b.png", "a.png", "ü.png"][:count]

        def __iter__(self) -> object:
            while True:
                yield from (np.full((1, 1, 3), i, np.uint8) for i in range(3))

    for count in (3, 200):
        calibration = calibration_images(Endless(), count)
        assert [int(image[0, 0, 0]) for image in calibration.images()] == [0, 1, 2]
        assert calibration.facts() == {
            "images": 3,
            "sha256": sha256("b.png\na.png\nü.png\n".encode()).hexdigest(),
        }
    assert (
        Calibration(("a.png", "b.png"), lambda: iter(())).sha256
        != Calibration(("b.png", "a.png"), lambda: iter(())).sha256
    )
