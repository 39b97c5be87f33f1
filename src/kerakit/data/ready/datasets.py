"""Sample datasets in the formats of other tools: COCO, masks with classes.txt, tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kerakit.data.digits import write_digits
from kerakit.data.ready.cards import DIGITS, Scene, draw_scene

CORNERS = ("top_left", "top_right", "bottom_right", "bottom_left")
"""Names of the keypoints; in a mirrored image, left and right change their roles."""

MASK_CLASSES = ("background", "card", "ink")
"""Class names of the masks."""


def write_ready_data(task: str, folder: Path, count: int | None = None) -> Path:
    """Write the sample dataset of a task, the same at each call; return its DATA_DIR.

    The images are those of scikit-learn: handwritten digits (see ``write_digits``), for tasks other
    than classification on cards on the photographs china.jpg and flower.jpg.

    Args:
        task: name of the task.
        folder: new or empty folder.
        count: number of images; default: a few hundred, from which a small model learns the task.

    Raises:
        KeyError: a task without a dataset.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = write_ready_data("regression", Path(folder), count=2)
    ...     table.name, table.read_text().splitlines()[:2]
    ('labels.csv', ['path,size', 'images/0000.jpg,0.6450'])
    """
    write, images = _WRITERS[task]
    return write(folder, count or images)


def _write_classification(folder: Path, count: int) -> Path:
    """Write one folder per digit."""
    write_digits(folder, count)
    return folder


def _write_detection(folder: Path, count: int) -> Path:
    """Write cards with boxes in COCO's format; some images have none."""
    annotations = []
    for i, scene in _write_images(folder, count, 128, (0, 1, 2, 2, 3, 3, 4, 4, 5, 5), (24, 44), 10):
        for card in scene.cards:
            x1, y1, x2, y2 = card.box
            annotations.append(
                {
                    "image_id": i,
                    "category_id": card.digit,
                    "bbox": _rounded([x1, y1, x2 - x1, y2 - y1]),
                    "area": round(card.side**2, 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i, "name": name} for i, name in enumerate(DIGITS)]
    _write_coco(folder, count, 128, annotations, categories)
    return folder


def _write_segmentation(folder: Path, count: int) -> Path:
    """Write masks of cards and ink as gray PNG files, and classes.txt."""
    (folder / "masks").mkdir(parents=True)
    for i, scene in _write_images(folder, count, 128, (1, 2, 3), (40, 64), 30):
        Image.fromarray(scene.mask).save(folder / "masks" / f"{i:04d}.png")
    (folder / "classes.txt").write_text("\n".join(MASK_CLASSES) + "\n", encoding="utf-8")
    return folder


def _write_keypoints(folder: Path, count: int) -> Path:
    """Write the corners of one card per image in COCO's format."""
    annotations = []
    for i, scene in _write_images(folder, count, 128, (1,), (44, 80), 35):
        (card,) = scene.cards
        x1, y1, x2, y2 = card.box
        points = np.column_stack([card.corners, np.full(4, 2)])
        annotations.append(
            {
                "image_id": i,
                "category_id": 1,
                "bbox": _rounded([x1, y1, x2 - x1, y2 - y1]),
                "area": round(card.side**2, 2),
                "iscrowd": 0,
                "keypoints": _rounded(points.ravel().tolist()),
                "num_keypoints": len(CORNERS),
            }
        )
    skeleton = [[1, 2], [2, 3], [3, 4], [4, 1]]
    category = {"id": 1, "name": "card", "keypoints": CORNERS, "skeleton": skeleton}
    _write_coco(folder, count, 128, annotations, [category])
    return folder


def _write_multilabel(folder: Path, count: int) -> Path:
    """Write a table of the digits on an image, such as "four;one"; some images have none."""
    rows = [
        (_name(i), ";".join(sorted({DIGITS[card.digit] for card in scene.cards})))
        for i, scene in _write_images(
            folder, count, 128, (0, 1, 1, 1, 2, 2, 2, 2, 2, 2), (52, 66), 10
        )
    ]
    return _write_table(folder, ("path", "label"), rows)


def _write_regression(folder: Path, count: int) -> Path:
    """Write a table of the side of a card, as a fraction of the width of the image."""
    rows = [
        (_name(i), f"{scene.cards[0].side / 128:.4f}")
        for i, scene in _write_images(folder, count, 128, (1,), (24, 96), 20)
    ]
    return _write_table(folder, ("path", "size"), rows)


def _write_multitask(folder: Path, count: int) -> Path:
    """Write a table of the digit on a card, and of its side as in the regression."""
    rows = [
        (_name(i), DIGITS[scene.cards[0].digit], f"{scene.cards[0].side / 128:.4f}")
        for i, scene in _write_images(folder, count, 128, (1,), (48, 104), 10)
    ]
    return _write_table(folder, ("path", "digit", "size"), rows)


_WRITERS: dict[str, tuple[Callable[[Path, int], Path], int]] = {
    "classification": (_write_classification, 1797),
    "detection": (_write_detection, 480),
    "segmentation": (_write_segmentation, 400),
    "keypoints": (_write_keypoints, 480),
    "multilabel": (_write_multilabel, 1200),
    "regression": (_write_regression, 600),
    "multitask": (_write_multitask, 1200),
}
"""Writers, and their numbers of images."""


def _write_images(
    folder: Path,
    count: int,
    size: int,
    cards: Sequence[int],
    sides: tuple[float, float],
    angle: float,
) -> Iterator[tuple[int, Scene]]:
    """Write images, JPEG, and yield the scenes; the number of cards is one of ``cards``."""
    (folder / "images").mkdir(parents=True)
    for i in range(count):
        rng = np.random.default_rng(i)
        digits = rng.integers(len(DIGITS), size=rng.choice(cards))
        scene = draw_scene(rng, size, digits.tolist(), sides, angle)
        # Without chroma subsampling, edges are where the labels are.
        Image.fromarray(scene.image).save(folder / _name(i), quality=95, subsampling=0)
        yield i, scene


def _name(i: int) -> str:
    return f"images/{i:04d}.jpg"


def _rounded(values: Sequence[float] | NDArray[Any]) -> list[float]:
    return [round(value, 2) for value in values]


def _write_coco(
    folder: Path,
    count: int,
    size: int,
    annotations: list[dict[str, Any]],
    categories: list[dict[str, Any]],
) -> None:
    images = [
        {"id": i, "file_name": Path(_name(i)).name, "width": size, "height": size}
        for i in range(count)
    ]
    content = {
        "images": images,
        "annotations": [{"id": i, **each} for i, each in enumerate(annotations, 1)],
        "categories": categories,
    }
    (folder / "annotations.json").write_text(json.dumps(content), encoding="utf-8")


def _write_table(folder: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    table = folder / "labels.csv"
    with table.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
    return table
