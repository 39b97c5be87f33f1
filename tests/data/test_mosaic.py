"""Mosaics: boxes are where the pixels are, and each mosaic is a function of its seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit.data.mosaic import Mosaic

WIDTH, HEIGHT = 64, 48
seeds = st.integers(0, 2**64 - 1)
candidates = np.arange(100)


def load(i: int) -> tuple[Any, dict[str, Any]]:
    """Return an image of the value 2 i with two rectangles of 2 i + 1, and a crowd."""
    rng = np.random.default_rng(i)
    x, y = rng.integers(0, 20, 2)
    boxes = np.array([[x, y, x + 10, y + 8], [x + 24, y + 16, x + 40, y + 20]], np.float32)
    image = np.full((HEIGHT, WIDTH, 3), 2 * i, np.uint8)
    for x1, y1, x2, y2 in boxes.astype(int):
        image[y1:y2, x1:x2] = 2 * i + 1
    return image, {
        "boxes": boxes,
        "classes": np.array([i, i], np.int32),
        "crowd": np.array([False, True]),
    }


@given(seed=seeds, index=st.integers(0, 99))
@settings(max_examples=60)
def test_each_box_is_around_its_pixels(seed: int, index: int) -> None:
    image, out = Mosaic(1)(load, index, candidates, seed)
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert len(out["boxes"]) == len(out["classes"]) == len(out["crowd"])
    assert out["boxes"].dtype == np.float32
    assert out["classes"].dtype == np.int32
    assert (out["boxes"] >= 0).all()
    assert (out["boxes"] <= [WIDTH, HEIGHT, WIDTH, HEIGHT]).all()
    for (x1, y1, x2, y2), i in zip(out["boxes"], out["classes"], strict=True):
        inner = image[round(y1 + 1) : round(y2 - 1), round(x1 + 1) : round(x2 - 1), 0]
        assert (inner == 2 * i + 1).all()
    values = set(np.unique(image) // 2)
    assert values <= set(candidates)
    assert len(values) <= 4
    assert index in values


@given(seed=seeds)
@settings(max_examples=20)
def test_a_function_of_the_seed(seed: int) -> None:
    one, other = (Mosaic(0.5)(load, 3, candidates, seed) for _ in range(2))
    np.testing.assert_array_equal(one[0], other[0])
    np.testing.assert_array_equal(one[1]["boxes"], other[1]["boxes"])
    assert not np.array_equal(
        Mosaic(1)(load, 3, candidates, seed)[0],
        Mosaic(1)(load, 3, candidates, (seed + 1) % 2**64)[0],
    )


def test_the_probability() -> None:
    alone = [len(np.unique(Mosaic(0.3)(load, 3, candidates, seed)[0])) == 2 for seed in range(1000)]
    assert np.mean(alone) == pytest.approx(0.7, abs=0.05)


def test_images_without_objects() -> None:
    def empty(i: int) -> tuple[Any, dict[str, Any]]:
        image, annotation = load(i)
        return image, {name: values[:0] for name, values in annotation.items()}

    out = Mosaic(1)(empty, 3, candidates, 0)[1]
    assert {name: values.shape for name, values in out.items()} == {
        "boxes": (0, 4),
        "classes": (0,),
        "crowd": (0,),
    }


def test_the_last_epochs_have_none() -> None:
    mosaic = Mosaic(0.5, epochs=10)
    assert [mosaic.is_active(epoch) for epoch in (0, 9, 10, 11)] == [True, True, False, False]
    assert Mosaic(0.5).is_active(1000)
    assert not Mosaic(0).is_active(0)


def test_annotations_of_the_reader_stay_as_they_are() -> None:
    kept = {i: load(i) for i in range(3)}
    Mosaic(1)(kept.__getitem__, 0, np.array([1, 2]), 0)
    for i, (image, annotation) in kept.items():
        np.testing.assert_array_equal(image, load(i)[0])
        np.testing.assert_array_equal(annotation["boxes"], load(i)[1]["boxes"])
