"""Warp moves pixels, masks, boxes and keypoints alike; Recolor is the matrix that it says."""

from __future__ import annotations

import math
from typing import Any

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit.data.transforms import Recolor, Warp

grounds = st.integers(0, 2**32 - 1)


def warp(seed: int, keypoint_format: str = "xy", **data: Any) -> dict[str, Any]:
    """Warp with large ranges; nothing is dropped."""
    pipeline = A.Compose(
        [Warp(flip=0.5, scale=(0.7, 1.4), translate=0.2, rotate=40)],
        bbox_params=A.BboxParams(
            "pascal_voc",
            label_fields=[],
            clip=False,
            filter_invalid_bboxes=False,
            check_each_transform=False,
        ),
        keypoint_params=A.KeypointParams(
            keypoint_format, remove_invisible=False, angle_in_degrees=True
        ),
    )
    pipeline.set_random_seed(seed)
    warped: dict[str, Any] = pipeline(**data)
    return warped


@given(seed=grounds, x=st.integers(25, 54), y=st.integers(20, 39))
def test_keypoint_mask_and_box_go_where_the_pixels_go(seed: int, x: int, y: int) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    cv2.circle(image, (x, y), 3, (255, 255, 255), -1)
    mask = image[..., 0] // 255
    box = [x - 3, y - 3, x + 4, y + 4]
    out = warp(seed, image=image, mask=mask, keypoints=[(x, y)], bboxes=[box])
    (px, py), (left, top, right, bottom) = out["keypoints"][0], out["bboxes"][0]
    if not (5 <= px < 75 and 5 <= py < 55):
        return  # at the edge, where boxes are cut
    assert left < px < right
    assert top < py < bottom
    window = np.s_[round(py) - 4 : round(py) + 5, round(px) - 4 : round(px) + 5]
    ys, xs = np.nonzero(out["mask"][window] == 1)
    assert len(ys)
    assert abs(xs.mean() - 4 + round(px) - px) < 1.2
    assert abs(ys.mean() - 4 + round(py) - py) < 1.2
    assert out["image"][round(py), round(px)].min() > 200
    rows, columns = np.nonzero(out["mask"] == 1)
    near = (abs(columns - px) < 8) & (abs(rows - py) < 8)
    assert columns[near].min() >= left - 1
    assert columns[near].max() + 1 <= right + 1
    assert rows[near].min() >= top - 1
    assert rows[near].max() + 1 <= bottom + 1


def test_no_ranges_change_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 40, 3)).astype(np.uint8)
    out = A.Compose([Warp(flip=0), Recolor()])(image=image)["image"]
    np.testing.assert_array_equal(out, image)


def test_a_flip_is_a_mirror_to_the_pixel() -> None:
    image = np.random.default_rng(0).integers(0, 256, (31, 40, 3)).astype(np.uint8)
    pipeline = A.Compose(
        [Warp(flip=1)],
        bbox_params=A.BboxParams("pascal_voc", label_fields=[]),
        keypoint_params=A.KeypointParams("xyas", angle_in_degrees=True),
    )
    out = pipeline(
        image=image, mask=image[..., :1], bboxes=[(3, 4, 10, 20)], keypoints=[(3, 4, 30, 2)]
    )
    np.testing.assert_array_equal(out["image"], image[:, ::-1])
    np.testing.assert_array_equal(out["mask"], image[:, ::-1, :1])
    assert out["bboxes"][0] == pytest.approx((30, 4, 37, 20))
    assert out["keypoints"][0] == pytest.approx((36, 4, 150, 2))


def test_a_float_image_is_warped_too() -> None:
    image = np.random.default_rng(0).random((31, 40, 3)).astype(np.float32)
    np.testing.assert_allclose(
        A.Compose([Warp(flip=1)])(image=image)["image"], image[:, ::-1], atol=1e-6
    )


@given(seed=grounds, gray=st.integers(0, 255))
def test_gray_has_no_hue_and_no_saturation(seed: int, gray: int) -> None:
    pipeline = A.Compose([Recolor(saturation=0.9, hue=180)])
    pipeline.set_random_seed(seed)
    image = np.full((4, 4, 3), gray, np.uint8)
    assert abs(pipeline(image=image)["image"].astype(int) - gray).max() <= 1


@given(seed=grounds)
def test_the_colors_stay_in_the_ranges_asked_for(seed: int) -> None:
    image = np.random.default_rng(seed).integers(60, 196, (8, 8, 3)).astype(np.uint8)
    values = image.astype(float)

    def change(**ranges: float) -> Any:
        pipeline = A.Compose([Recolor(**ranges)])
        pipeline.set_random_seed(seed)
        return pipeline(image=image)["image"].astype(float)

    shift = change(brightness=0.2) - values
    assert np.ptp(shift) == 0
    assert abs(shift[0, 0, 0]) <= 51.5
    factor = (change(contrast=0.2) - 127.5) @ np.ones(3) / ((values - 127.5) @ np.ones(3) + 1e-9)
    far = abs(values.sum(-1) - 382.5) > 60
    assert np.all((factor[far] > 0.77) & (factor[far] < 1.23))
    luma = np.array([0.299, 0.587, 0.114])
    for ranges in ({"saturation": 0.2}, {"hue": 10.0}):
        changed = change(**ranges)
        inside = ((changed > 0) & (changed < 255)).all(-1)
        assert np.abs((changed - values) @ luma)[inside].max(initial=0) <= 1


def test_a_hue_of_120_degrees_is_a_turn_of_the_chroma() -> None:
    turn = Recolor(hue=120)
    turn.py_random.uniform = lambda _, high: high
    matrix = turn.get_params()["matrix"][:, :3]
    np.testing.assert_allclose(np.linalg.matrix_power(matrix, 3), np.eye(3), atol=1e-9)
    assert math.isclose(np.linalg.det(matrix), 1, abs_tol=1e-9)
