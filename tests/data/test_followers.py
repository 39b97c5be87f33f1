"""Masks, boxes and keypoints go where the pixels go, through transforms of any origin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import albumentations as A  # noqa: N812
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.data import Recolor, Warp
from kerakit.data.augment import Augmenter, is_mirrored
from kerakit.data.boxes import BBOX_PARAMS, MIN_VISIBLE, clip_boxes, visible_boxes

WIDTH, HEIGHT = 80, 60
OPTIONS = {"bbox_params": BBOX_PARAMS, "keypoint_params": {"format": "xy"}}
seeds = st.integers(0, 2**32 - 1)


def augment(transforms: Any, seed: int = 0, options: Any = OPTIONS, **data: Any) -> dict[str, Any]:
    """Augment data once."""
    pipeline = A.Compose(transforms) if isinstance(transforms, list) else transforms
    return Augmenter(lambda: pipeline, seed, options)(0, "key", **data)


def rectangle(box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Return an image with a white rectangle, its mask, box and corners."""
    x1, y1, x2, y2 = box
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[y1:y2, x1:x2] = 1
    return {
        "image": np.repeat(255 * mask[..., None], 3, axis=2),
        "mask": mask,
        "bboxes": np.array([box], np.float32),
        "keypoints": np.array([(x1, y1), (x2, y2), (x1, y2)], np.float32),
    }


def box_of(mask: Any) -> list[int]:
    """Return the box of the pixels of class 1."""
    ys, xs = np.nonzero(mask == 1)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


BOXES = st.tuples(
    st.integers(0, WIDTH - 12), st.integers(0, HEIGHT - 12), st.integers(4, 12), st.integers(4, 12)
).map(lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]))

EXACT = {
    "flip": [A.HorizontalFlip(p=1)],
    "vertical flip": [A.VerticalFlip(p=1)],
    "90 degrees": [A.RandomRotate90(p=1)],
    "transposed": [A.Transpose(p=1)],
    "crop": [A.RandomCrop(40, 50)],
    "crop and pad": [A.CenterCrop(48, 60), A.PadIfNeeded(HEIGHT, WIDTH)],
    "flip by Warp": [Warp(flip=1)],
    "nested": [A.OneOf([A.Sequential([A.HorizontalFlip(p=1), A.VerticalFlip(p=1)], p=1)], p=1)],
}


@pytest.mark.parametrize("transforms", EXACT.values(), ids=EXACT)
@given(box=BOXES, seed=seeds)
@settings(max_examples=25)
def test_exact_transforms_move_labels_to_the_pixel(
    transforms: Any, box: tuple[int, int, int, int], seed: int
) -> None:
    data = rectangle(box)
    out = augment(transforms, seed, **data)
    area = (out["mask"] == 1).sum() / data["mask"].sum()
    if len(out["bboxes"]):
        np.testing.assert_allclose(out["bboxes"][0], box_of(out["mask"]), atol=1e-4)
    else:
        assert area < 0.5  # a side may have less than two pixels
    np.testing.assert_array_equal(out["mask"] == 1, out["image"][..., 0] == 255)
    if area == 1:
        corners = np.reshape([out["keypoints"].min(axis=0), out["keypoints"].max(axis=0)], -1)
        np.testing.assert_allclose(corners, box_of(out["mask"]), atol=1e-4)


RESAMPLED = {
    "Warp": lambda: Warp(scale=(0.7, 1.4), translate=0.2),
    "Affine": lambda: A.Affine(scale=(0.7, 1.4), translate_percent=0.1, p=1),
    "RandomResizedCrop": lambda: A.RandomResizedCrop((HEIGHT, WIDTH), scale=(0.5, 1)),
    "Resize": lambda: A.Resize(130, 90),
    "CropAndPad": lambda: A.CropAndPad(percent=(-0.2, 0.2)),
}


@pytest.mark.parametrize("make", RESAMPLED.values(), ids=RESAMPLED)
@given(box=BOXES, seed=seeds)
@settings(max_examples=25)
def test_the_box_of_the_mask_is_the_box(
    make: Callable[[], Any], box: tuple[int, int, int, int], seed: int
) -> None:
    out = augment([make()], seed, **rectangle(box))
    if not len(out["bboxes"]):
        return
    np.testing.assert_allclose(out["bboxes"][0], box_of(out["mask"]), atol=1.01)
    height, width = out["mask"].shape
    if (out["bboxes"] > 1).all() and (out["bboxes"] < [width, height] * 2).all():
        np.testing.assert_allclose(out["keypoints"].min(axis=0), out["bboxes"][0, :2], atol=1.01)


@given(seed=seeds, box=BOXES, angle=st.floats(0, 2 * np.pi), radius=st.floats(0, 1))
def test_keypoints_of_the_inscribed_ellipse_stay_inside_the_box(
    seed: int, box: tuple[int, int, int, int], angle: float, radius: float
) -> None:
    x1, y1, x2, y2 = box
    data = rectangle(box)
    center, half = np.array([x1 + x2, y1 + y2]) / 2, np.array([x2 - x1, y2 - y1]) / 2
    point = center + radius * half * [np.cos(angle), np.sin(angle)]
    data["keypoints"] = np.array([point], np.float32)
    out = augment([Warp(scale=(0.7, 1.4), translate=0.2, rotate=180)], seed, **data)
    x, y = out["keypoints"][0]
    if len(out["bboxes"]) and 0 <= x <= WIDTH and 0 <= y <= HEIGHT:
        left, top, right, bottom = out["bboxes"][0] + [-1e-3, -1e-3, 1e-3, 1e-3]
        assert left <= x <= right
        assert top <= y <= bottom


@pytest.mark.parametrize(
    "transforms",
    [[A.HorizontalFlip(p=1)] * 2, [A.Transpose(p=1)] * 2, [Warp(flip=1), Warp(flip=1)]],
)
@given(box=BOXES)
@settings(max_examples=20)
def test_round_trips(transforms: Any, box: tuple[int, int, int, int]) -> None:
    data = rectangle(box)
    out = augment(transforms, **data)
    for name, value in data.items():
        np.testing.assert_allclose(out[name], value, atol=1e-4, err_msg=name)


def test_a_rotated_box_is_that_of_its_ellipse() -> None:
    warp = Warp(flip=0, rotate=45)
    for seed in range(10):  # a circle remains; the box around the corners would grow by 41 %
        out = augment([warp], seed, **rectangle((30, 20, 50, 40)))
        np.testing.assert_allclose(out["bboxes"], [[30, 20, 50, 40]], atol=1e-4)


@pytest.mark.parametrize(("cut", "remains"), [(15, True), (17, False)])
def test_a_box_of_less_than_a_fifth_is_dropped(cut: int, remains: bool) -> None:
    assert MIN_VISIBLE == 0.2
    crop = A.Crop(x_min=20 + cut, y_min=0, x_max=WIDTH, y_max=HEIGHT)
    out = augment([crop], **rectangle((20, 10, 40, 30)))
    assert len(out["bboxes"]) == remains
    # In two steps, too, of which each leaves more.
    crops = [A.Crop(20 + cut // 2, 0, WIDTH, HEIGHT), A.Crop(cut - cut // 2, 0, 40, HEIGHT)]
    out = augment(crops, **rectangle((20, 10, 40, 30)))
    assert len(out["bboxes"]) == remains


def test_pixels_that_were_cut_away_do_not_return_with_a_padding() -> None:
    there_and_back = [A.Crop(30, 0, WIDTH, HEIGHT), A.PadIfNeeded(HEIGHT, WIDTH)]
    out = augment(there_and_back, **rectangle((20, 10, 40, 30)))
    np.testing.assert_allclose(out["bboxes"], [box_of(out["mask"])])


def test_rows_and_labels_remain_with_their_boxes() -> None:
    data = rectangle((0, 0, 8, 8))
    data["bboxes"] = np.array(
        [[0, 0, 8, 8, 7], [50, 30, 60, 40, 8], [0, 20, 10, 30, 9], [70, 50, 80, 60, 10]], np.float32
    )
    data["names"] = ["cut", "b", "cut too", "d"]
    options = {"bbox_params": {**BBOX_PARAMS, "label_fields": ["names"]}}
    del data["keypoints"]
    out = augment([A.Crop(20, 0, WIDTH, HEIGHT)], options=options, **data)
    assert out["bboxes"].tolist() == [[30, 30, 40, 40, 8], [50, 50, 60, 60, 10]]
    assert list(out["names"]) == ["b", "d"]
    assert out["bboxes"].dtype == np.float32


def test_images_without_objects() -> None:
    data = rectangle((0, 0, 8, 8))
    for empty in (np.zeros((0, 4), np.float32), np.zeros((0, 5), np.float32)):
        data["bboxes"], data["keypoints"] = empty, np.zeros((0, 2), np.float32)
        out = augment([Warp(rotate=20), A.Erasing(p=1), A.RandomCrop(40, 50)], **data)
        assert out["bboxes"].shape == empty.shape
        assert out["keypoints"].shape == (0, 2)


def test_erasing_moves_no_box_and_drops_those_that_it_covers() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    boxes = np.array([[10.3, 10.2, 20.9, 20.7], [60, 40, 70, 50]], np.float32)
    seen = set()
    for seed in range(40):
        out = augment([A.Erasing(scale=(0.1, 0.2), fill=255, p=1)], seed, image=image, bboxes=boxes)
        hole = out["image"][..., 0] == 255
        covered = hole[40:50, 60:70].mean()
        assert ([60, 40, 70, 50] in out["bboxes"].tolist()) == (covered <= 0.8)
        assert all(box in boxes.tolist() for box in out["bboxes"].tolist())
        seen.add(covered > 0.8)
    assert seen == {True, False}


@pytest.mark.parametrize(
    "transform",
    [
        Warp(flip=0, scale=(0.5, 0.5)),
        A.Affine(scale=0.5, p=1),
        A.PadIfNeeded(120, 160),
        A.SafeRotate((45, 45), p=1),
        A.OneOf([A.Affine(scale=0.5, p=1)], p=1),
    ],
)
@pytest.mark.parametrize("options", [{}, OPTIONS])
def test_added_pixels_of_a_mask_have_no_class(transform: Any, options: Any) -> None:
    image, mask = np.full((HEIGHT, WIDTH, 3), 9, np.uint8), np.full((HEIGHT, WIDTH), 3, np.uint8)
    out = augment([transform], options=options, image=image, mask=mask)["mask"]
    assert set(np.unique(out)) == {3, 255}
    assert out[0, 0] == 255


def test_objects_are_not_reflected_at_the_border() -> None:
    data = rectangle((0, 20, 10, 30))
    shrink = [Warp(flip=0, scale=(0.5, 0.5))]
    out = augment(shrink, **data)
    box = box_of(out["mask"])
    assert (out["image"][:, : box[0] - 1] == 114).all()
    # Without objects, reflected pixels are more like photos than a flat color.
    assert 255 in augment(shrink, options={}, image=data["image"])["image"][:, : box[0] - 1]


def test_the_owner_s_thresholds_replace_the_rule() -> None:
    own = A.Compose(
        [A.Crop(30, 0, WIDTH, HEIGHT)],
        bbox_params=A.BboxParams("pascal_voc", label_fields=["x"], min_visibility=0.6),
    )
    assert not len(augment(own, **rectangle((20, 10, 40, 30)))["bboxes"])


def test_the_same_images_with_and_without_boxes() -> None:
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    transforms = [A.HorizontalFlip(), Recolor(hue=20), A.OneOf([A.Blur(), A.GaussNoise()], p=0.5)]
    for seed in range(20):
        plain = augment(A.Compose(transforms, p=0.7), seed, {}, image=image)["image"]
        followed = augment(
            A.Compose(transforms, p=0.7), seed, image=image, bboxes=[[1, 2, 30, 40]]
        )["image"]
        np.testing.assert_array_equal(plain, followed)


def test_errors() -> None:
    data = rectangle((0, 0, 8, 8))
    with pytest.raises(UserError, match="'coco'; expected 'pascal_voc'"):
        augment([A.HorizontalFlip()], options={"bbox_params": {"format": "coco"}}, **data)
    with pytest.raises(UserError, match="RandomGridShuffle tears objects apart"):
        augment([A.RandomGridShuffle()], **data)
    reflect = A.Affine(translate_px=20, border_mode=cv2.BORDER_REFLECT_101, p=1)
    with pytest.raises(UserError, match=r"made \d+ keypoints of 3.*BORDER_CONSTANT"):
        augment([reflect], **data)


@pytest.mark.parametrize("element", range(8))
def test_mirrored_images_are_recognized(element: int) -> None:
    points = np.array([[3, 4], [9, 5], [4, 20]])
    turned = points @ np.linalg.matrix_power([[0, -1], [1, 0]], element % 4)
    assert not is_mirrored(points, turned)
    assert is_mirrored(points, turned * [-1, 1])


@given(boxes=st.lists(st.tuples(*[st.integers(-400, 1200)] * 4), max_size=8))
def test_clipped_boxes_are_inside_and_not_larger(boxes: Any) -> None:
    corners = np.sort(np.array(boxes, np.float64).reshape(-1, 2, 2) / 8, axis=1).reshape(-1, 4)
    clipped, left = clip_boxes(corners, 100, 80)
    assert (clipped >= 0).all()
    assert (clipped <= [100, 80, 100, 80]).all()
    assert ((left >= 0) & (left <= 1 + 1e-9)).all()
    assert visible_boxes(clipped, left).shape == (len(boxes),)
    again, whole = clip_boxes(clipped, 100, 80)
    np.testing.assert_array_equal(again, clipped)
    assert np.isin(whole, [0, 1]).all()


DISTORTIONS = {
    "elastic": lambda: A.ElasticTransform(alpha=200, sigma=8, p=1),
    "grid": lambda: A.GridDistortion(distort_limit=0.3, p=1),
    "optical": lambda: A.OpticalDistortion(distort_limit=0.4, p=1),
    "thin-plate spline": lambda: A.ThinPlateSpline(scale_range=(0.1, 0.2), p=1),
    "perspective": lambda: A.Perspective(scale=(0.05, 0.1), p=1),
}


@pytest.mark.parametrize("make", DISTORTIONS.values(), ids=DISTORTIONS)
@given(seed=seeds, x=st.integers(4, WIDTH - 4), y=st.integers(4, HEIGHT - 4))
@settings(max_examples=25, deadline=None)
def test_distortions_move_keypoints_with_their_pixels(
    make: Callable[[], Any], seed: int, x: int, y: int
) -> None:
    """Also where a map folds, and a pixel appears twice. No keypoint is lost."""
    data = rectangle((x - 3, y - 3, x + 3, y + 3))
    data["mask"] = rectangle((x - 1, y - 1, x + 1, y + 1))["mask"]
    corners = np.array([[0, 0], [WIDTH, 0], [0, HEIGHT], [-5, 20]], np.float32)
    data["keypoints"] = np.concatenate([np.array([[x, y]], np.float32), corners])
    out = augment([make()], seed, **data)
    assert out["keypoints"].shape == (5, 2)
    assert np.isfinite(out["keypoints"]).all()
    column, row = (out["keypoints"][0] - 0.5).round().astype(int)
    is_visible = (out["mask"] == 1).any()  # a map that folds may move the point past the border
    if is_visible and 0 <= column < WIDTH and 0 <= row < HEIGHT:
        assert out["image"][max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].max() > 100


@pytest.mark.parametrize("make", DISTORTIONS.values(), ids=DISTORTIONS)
@given(seed=seeds, box=BOXES)
@settings(max_examples=15, deadline=None)
def test_the_box_of_a_distorted_object_is_that_of_its_pixels(
    make: Callable[[], Any], seed: int, box: tuple[int, int, int, int]
) -> None:
    out = augment([make()], seed, **rectangle(box))
    if len(out["bboxes"]) and (out["mask"] == 1).any():
        # Splines bend the most between two corners of a box.
        limit = 6 if isinstance(make(), A.ThinPlateSpline) else 3
        np.testing.assert_allclose(out["bboxes"][0], box_of(out["mask"]), atol=limit)
