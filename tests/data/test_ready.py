"""Sample datasets: labels are where the pixels are, the same at each call."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kerakit.data.ready import write_ready_data
from kerakit.data.ready.cards import BACKGROUND, CARD, DIGITS, INK, draw_scene
from kerakit.data.ready.datasets import CORNERS, MASK_CLASSES

TASKS = ("classification", "detection", "segmentation", "keypoints", "multilabel", "regression")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Path of a dataset of 24 images of each task."""
    root = tmp_path_factory.mktemp("ready")
    return {task: write_ready_data(task, root / task, 24) for task in (*TASKS, "multitask")}


def images(folder: Path) -> list[Image.Image]:
    return [read(path) for path in sorted((folder / "images").glob("*.jpg"))]


def read(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def coco(folder: Path) -> tuple[Any, list[list[Any]]]:
    """Return a COCO file, and its annotations by image."""
    content = json.loads((folder / "annotations.json").read_text())
    return content, [
        [each for each in content["annotations"] if each["image_id"] == image["id"]]
        for image in content["images"]
    ]


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


@given(seed=st.integers(0, 2**32 - 1), angle=st.floats(0, 40))
@settings(max_examples=40, deadline=None)
def test_boxes_and_corners_are_those_of_the_pixels(seed: int, angle: float) -> None:
    scene = draw_scene(np.random.default_rng(seed), 96, [0, 1, 2], (24, 40), angle)
    assert scene.image.shape == (96, 96, 3)
    total = 0.0
    for card in scene.cards:
        x1, y1, x2, y2 = card.box
        assert min(x1, y1) >= 0
        assert max(x2, y2) <= 96
        window = np.zeros((96, 96), bool)
        window[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
        ys, xs = np.nonzero(window & (scene.mask != BACKGROUND))
        found = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
        # The tip of a corner covers less than half of its pixel.
        np.testing.assert_allclose(found, card.box, atol=1.5)
        assert abs(np.linalg.norm(card.corners[1] - card.corners[0]) - card.side) < 1e-6
        assert (scene.mask[window] == INK).sum() > 0.03 * card.side**2
        total += card.side**2
    assert abs((scene.mask != BACKGROUND).sum() - total) < 0.05 * total


def test_boxes(written: dict[str, Path]) -> None:
    content, per_image = coco(written["detection"])
    assert [each["name"] for each in content["categories"]] == list(DIGITS)
    assert len(images(written["detection"])) == len(per_image) == 24
    assert {image.size for image in images(written["detection"])} == {(128, 128)}
    assert min(map(len, per_image)) == 0
    boxes = np.array([each["bbox"] for each in content["annotations"]])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= 128).all()
    assert {each["category_id"] for each in content["annotations"]} == set(range(len(DIGITS)))


def test_masks(written: dict[str, Path]) -> None:
    folder = written["segmentation"]
    assert (folder / "classes.txt").read_text().split() == list(MASK_CLASSES)
    for i, image in enumerate(images(folder)):
        mask = np.asarray(read(folder / "masks" / f"{i:04d}.png"))
        assert mask.dtype == np.uint8
        assert mask.shape == image.size[::-1]
        assert set(np.unique(mask)) == {BACKGROUND, CARD, INK}
        # Paper and ink differ in brightness.
        gray = np.asarray(image.convert("L"), float)
        assert abs(gray[mask == CARD].mean() - gray[mask == INK].mean()) > 5


def test_keypoints(written: dict[str, Path]) -> None:
    content, per_image = coco(written["keypoints"])
    assert content["categories"][0]["keypoints"] == list(CORNERS)
    for (annotation,) in per_image:
        points = np.reshape(annotation["keypoints"], (4, 3))
        assert (points[:, 2] == 2).all()
        top_left, top_right, bottom_right, bottom_left = points[:, :2]
        assert top_left[0] < top_right[0]
        assert bottom_left[0] < bottom_right[0]
        assert top_left[1] < bottom_left[1]
        assert top_right[1] < bottom_right[1]
        x, y, width, height = annotation["bbox"]
        np.testing.assert_allclose(points[:, :2].min(axis=0), [x, y], atol=0.02)
        np.testing.assert_allclose(points[:, :2].max(axis=0), [x + width, y + height], atol=0.02)


def test_tables(written: dict[str, Path]) -> None:
    labels = [row["label"] for row in rows(written["multilabel"])]
    assert "" in labels
    assert {part for label in labels for part in label.split(";")} - {""} == set(DIGITS)
    sizes = np.array([float(row["size"]) for row in rows(written["regression"])])
    assert ((sizes > 0.16) & (sizes < 0.76)).all()
    assert len(set(sizes)) > 20
    both = rows(written["multitask"])
    assert list(both[0]) == ["path", "digit", "size"]
    assert {row["digit"] for row in both} == set(DIGITS)
    for task in ("multilabel", "regression", "multitask"):
        table = written[task]
        assert all((table.parent / row["path"]).is_file() for row in rows(table))


def test_the_same_data_at_each_call(written: dict[str, Path], tmp_path: Path) -> None:
    write_ready_data("detection", tmp_path, 3)
    again = {path.name: path.read_bytes() for path in (tmp_path / "images").iterdir()}
    first = written["detection"] / "images"
    assert again == {name: (first / name).read_bytes() for name in again}
    assert coco(tmp_path)[1] == coco(written["detection"])[1][:3]


def test_digits(written: dict[str, Path]) -> None:
    assert len(list(written["classification"].glob("*/*.png"))) == 24
    with pytest.raises(KeyError):
        write_ready_data("other", written["classification"])
