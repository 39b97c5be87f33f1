"""Metrics of detection: COCO's, by faster-coco-eval, and those at a score threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.device.detection import overlaps

MIN_OVERLAP = 0.5
"""Intersection over union from which an object is found, for metrics at a threshold."""

AREAS = ("small", "medium", "large")
"""COCO's sizes of objects: up to 32 by 32, up to 96 by 96, and more pixels."""


@dataclass(frozen=True)
class CocoResult:
    """COCO's precision and recall; -1 where there are no objects.

    Attributes:
        precision: (10 overlaps from 0.5 to 0.95, 101 recalls from 0 to 1, classes, 4 areas: all,
            small, medium, large).
        recall: highest recall, (10 overlaps, classes, 4 areas).
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]

    def summary(self) -> dict[str, float]:
        """Return map50, map, recall, and map_small, map_medium and map_large where they exist."""
        values = {
            "map50": _mean(self.precision[0, :, :, 0]),
            "map": _mean(self.precision[:, :, :, 0]),
            "recall": _mean(self.recall[:, :, 0]),
        }
        values |= {
            f"map_{area}": _mean(self.precision[:, :, :, 1 + i]) for i, area in enumerate(AREAS)
        }
        return {
            name: value or 0.0
            for name, value in values.items()
            if value is not None or name in ("map50", "map", "recall")
        }

    def average_precision(self, overlap: float | None = None) -> list[float | None]:
        """Return the average precision per class at 0.5 or, by default, of all overlaps."""
        chosen = self.precision if overlap is None else self.precision[:1]
        return [_mean(chosen[:, :, i, 0]) for i in range(chosen.shape[2])]

    def curves(self, class_names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
        """Return the precision at 101 recalls and an overlap of 0.5, by the class's name."""
        return {
            name: self.precision[0, :, i, 0]
            for i, name in enumerate(class_names)
            if (self.precision[0, :, i, 0] >= 0).any()
        }


def evaluate_coco(
    predictions: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]], classes: int
) -> CocoResult:
    """Return COCO's metrics of the objects of images.

    Args:
        predictions: per image (objects, 6): x1, y1, x2, y2 in pixels, score, class.
        targets: per image (boxes, 6): class, x1, y1, x2, y2 in pixels, and 1 for an object, -1 for
            a crowd, 0 for padding.
        classes: number of classes.

    >>> box = [0, 0, 10, 10]
    >>> found, true = np.array([[*box, 0.9, 0]]), np.array([[0, *box, 1]])
    >>> evaluate_coco([found], [true], 1).summary()["map50"]
    1.0
    """
    from faster_coco_eval import COCO, COCOeval_faster

    rows = np.concatenate(
        [
            np.column_stack([np.full(len(each), i), each])[each[:, 5] != 0]
            for i, each in enumerate(targets)
        ]
    ).astype(np.float64)
    sizes = rows[:, 4:6] - rows[:, 2:4]
    annotations = [
        {
            "id": i + 1,
            "image_id": int(row[0]),
            "category_id": int(row[1]),
            "bbox": [row[2], row[3], *size],
            "area": float(size[0] * size[1]),
            "iscrowd": int(row[6] < 0),
        }
        for i, (row, size) in enumerate(zip(rows.tolist(), sizes.tolist(), strict=True))
    ]
    results = np.concatenate(
        [np.column_stack([np.full(len(each), i), each]) for i, each in enumerate(predictions)]
    ).astype(np.float64)
    shape = 10, 101, classes, 4
    if not len(rows):
        return CocoResult(np.full(shape, -1.0), np.full((shape[0], *shape[2:]), -1.0))
    if not len(results):
        results = np.array([[0, 0, 0, 0, 0, 0, int(rows[0, 1])]], np.float64)  # counts as none
    results[:, 3:5] -= results[:, 1:3]
    truth = COCO(
        {
            "images": [{"id": i} for i in range(len(targets))],
            "categories": [{"id": i, "name": str(i)} for i in range(classes)],
            "annotations": annotations,
        }
    )
    found = truth.loadRes(results)
    evaluation = COCOeval_faster(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    return CocoResult(evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1])


@dataclass(frozen=True)
class Matches:
    """Predictions matched to true objects; those inside crowds, and crowds, are left out.

    Attributes:
        images: index of the image of each prediction, int64 (predictions,).
        scores: float32 (predictions,).
        classes: int64 (predictions,).
        correct: whether it is matched, bool (predictions,).
        objects: number of true objects per image and class, int64 (images, classes).
    """

    images: NDArray[np.int64]
    scores: NDArray[np.float32]
    classes: NDArray[np.int64]
    correct: NDArray[np.bool_]
    objects: NDArray[np.int64]

    def count_objects(self, classes: int) -> NDArray[np.int64]:
        """Return the number of true objects per class, int64 (classes,)."""
        counts = np.zeros(classes, np.int64)
        counts[: self.objects.shape[1]] = self.objects.sum(axis=0)
        return counts

    def count_errors(self, images: int) -> NDArray[np.int64]:
        """Return the number of false and missed objects per image, int64 (images,)."""
        found = np.bincount(self.images[self.correct], minlength=images)
        false = np.bincount(self.images[~self.correct], minlength=images)
        errors: NDArray[np.int64] = false + self.objects.sum(axis=1) - found
        return errors


def match(predictions: Sequence[NDArray[Any]], targets: Sequence[NDArray[Any]]) -> Matches:
    """Match predictions to true objects of their class, the highest score first.

    Each prediction is matched to the free object that it overlaps most, by at least MIN_OVERLAP.

    Args:
        predictions: per image (objects, 6): sides, score, class; the highest score first.
        targets: per image (boxes, 6): class, sides in the same unit, 1 or -1 for a crowd.
    """
    parts = []
    count = 1 + max((int(each[:, 0].max()) for each in targets if len(each)), default=0)
    objects = np.zeros((len(targets), count), np.int64)
    for i, (found, true) in enumerate(zip(predictions, targets, strict=True)):
        is_crowd = true[:, 5] < 0
        objects[i] = np.bincount(true[~is_crowd, 0].astype(int), minlength=count)
        same = found[:, None, 5] == true[None, :, 0]
        overlap = np.where(same, overlaps(found, true[:, 1:5]), 0)
        overlap[:, is_crowd] = 0
        correct = np.zeros(len(found), bool)
        for row in np.flatnonzero((overlap >= MIN_OVERLAP).any(axis=1)):
            best = int(overlap[row].argmax())
            if overlap[row, best] >= MIN_OVERLAP:
                correct[row] = True
                overlap[:, best] = 0
        ignored = ~correct & (_inside(found, true[is_crowd, 1:5]) & same[:, is_crowd]).any(axis=1)
        part = np.column_stack([np.full(len(found), i), found[:, 4], found[:, 5], correct])
        parts.append(part[~ignored])
    rows = np.concatenate(parts) if parts else np.zeros((0, 4))
    return Matches(
        rows[:, 0].astype(np.int64),
        rows[:, 1].astype(np.float32),
        rows[:, 2].astype(np.int64),
        rows[:, 3] > 0,
        objects,
    )


def _inside(found: NDArray[Any], crowds: NDArray[Any]) -> NDArray[np.bool_]:
    """Return whether at least half of each box is inside each crowd, (n, m)."""
    width = np.minimum(found[:, None, 2], crowds[None, :, 2]) - np.maximum(
        found[:, None, 0], crowds[None, :, 0]
    )
    height = np.minimum(found[:, None, 3], crowds[None, :, 3]) - np.maximum(
        found[:, None, 1], crowds[None, :, 1]
    )
    area = (found[:, 2] - found[:, 0]) * (found[:, 3] - found[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    inside: NDArray[np.bool_] = shared >= MIN_OVERLAP * area[:, None]
    return inside


def at_threshold(matches: Matches, classes: int, threshold: float) -> dict[str, list[float | None]]:
    """Return precision, recall and F1 per class of the predictions that reach a score.

    None where there is no true object, or, for precision, no prediction.
    """
    shown = matches.scores >= threshold
    found = np.bincount(matches.classes[shown & matches.correct], minlength=classes)
    predicted = np.bincount(matches.classes[shown], minlength=classes)
    true = matches.count_objects(classes)

    def ratio(one: Any, other: Any) -> float | None:
        return float(one / other) if other else None

    return {
        "precision": [ratio(found[i], predicted[i]) for i in range(classes)],
        "recall": [ratio(found[i], true[i]) for i in range(classes)],
        "f1": [
            ratio(2 * found[i], predicted[i] + true[i]) if true[i] else None for i in range(classes)
        ],
    }


def best_threshold(matches: Matches, classes: int, default: float) -> float:
    """Return the score that maximizes the mean F1 of the classes, in steps of 0.01.

    The middle one of several; ``default`` if no true object is found.
    """
    steps = np.arange(2, 99) / 100
    mean_f1 = np.array(
        [
            np.mean([f1 for f1 in at_threshold(matches, classes, step)["f1"] if f1 is not None])
            if matches.objects.sum()
            else 0.0
            for step in steps
        ]
    )
    if not mean_f1.max() > 0:
        return default
    best = np.flatnonzero(mean_f1 >= mean_f1.max() - 1e-9)
    return float(steps[best[len(best) // 2]])


def _mean(values: NDArray[Any]) -> float | None:
    known = values[values >= 0]
    return float(known.mean()) if known.size else None
