"""Several outputs with boxes, masks or keypoints move together, each as if it were alone."""

from __future__ import annotations

from typing import Any

import albumentations as A  # noqa: N812
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kerakit import UserError
from kerakit.data import Warp
from kerakit.data.augment import Augmenter
from kerakit.tasks import (
    Classification,
    Detection,
    Keypoints,
    MultiTask,
    Segmentation,
    Task,
    left_right_pairs,
)

WIDTH, HEIGHT = 64, 48
NAMES = ("left", "right", "top")
TRANSFORMS = [
    lambda: Warp(scale=(0.6, 1.5), translate=0.3, rotate=30),
    lambda: A.Compose([A.D4(p=1), A.Erasing(p=0.5), A.RandomCrop(40, 40)]),
    lambda: A.RandomResizedCrop((HEIGHT, WIDTH), scale=(0.3, 1)),
]


def all_tasks() -> dict[str, Task]:
    pairs = left_right_pairs(NAMES)
    return {
        "cells": Detection(["a", "b"]),
        "kind": Classification(["x", "y"]),
        "ground": Segmentation(["sky", "road", "sea"]),
        "face": Keypoints(NAMES, pairs),
        "signs": Detection(["c"]),
        "owner": Segmentation(["me", "you"]),
        "pose": Keypoints(NAMES, pairs),
    }


def annotate(tasks: dict[str, Task], rng: np.random.Generator) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, task in tasks.items():
        if isinstance(task, Detection):
            corners = np.sort(rng.uniform(0, 48, (rng.integers(5), 2, 2)), axis=1)
            count = len(corners)
            found[name] = {
                "boxes": corners.reshape(-1, 4).astype(np.float32),
                "classes": rng.integers(0, len(task.class_names), count).astype(np.int32),
                "crowd": rng.random(count) < 0.2,
            }
        elif isinstance(task, Segmentation):
            classes = len(task.class_names)
            found[name] = {"mask": rng.integers(0, classes, (HEIGHT, WIDTH)).astype(np.uint8)}
        elif isinstance(task, Keypoints):
            points = rng.uniform(0, 48, (3, 3)).astype(np.float32)
            points[:, 2] = rng.integers(0, 3, 3)
            found[name] = {"keypoints": points}
        else:
            found[name] = np.int32(1)
    return found


def augment(task: Task, annotation: Any, image: Any, transform: Any, seed: int) -> Any:
    pipeline = Augmenter(lambda: A.Compose([transform()]), seed, task.compose_options())
    out = pipeline(0, "key", image=image, **task.followers(annotation))
    return out.pop("image"), task.follow(annotation, out)


@pytest.mark.parametrize("transform", TRANSFORMS)
@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 2**32 - 1), left_out=st.sets(st.sampled_from(sorted(all_tasks()))))
def test_each_output_moves_as_if_it_were_alone(
    transform: Any, seed: int, left_out: set[str]
) -> None:
    tasks = {name: task for name, task in all_tasks().items() if name not in left_out}
    if not tasks:
        return
    rng = np.random.default_rng(seed)
    annotation = annotate(tasks, rng)
    image = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    _, together = augment(MultiTask(tasks), annotation, image, transform, seed)
    assert together.keys() == annotation.keys()
    for name, task in tasks.items():
        if name == "kind":
            assert together[name] is annotation[name]
            continue
        _, alone = augment(task, annotation[name], image, transform, seed)
        assert together[name].keys() == alone.keys()
        for key, value in alone.items():
            found = np.asarray(together[name][key])
            assert found.dtype == np.asarray(value).dtype
            np.testing.assert_array_equal(found, value, err_msg=f"{name} {key}")


class Named(Task):
    """A task with a follower of another name, or other options."""

    def __init__(self, key: str, **options: Any) -> None:
        super().__init__(["a"])
        self.key, self.options = key, options

    def followers(self, annotation: Any) -> dict[str, Any]:
        return {self.key: annotation}

    def compose_options(self) -> dict[str, Any]:
        return self.options


def test_what_cannot_move_together_is_an_error() -> None:
    two = MultiTask({"one": Named("depth"), "other": Named("depth")})
    with pytest.raises(UserError, match=r"outputs one, other have 'depth'.*without --jitter"):
        two.followers({"one": 1, "other": 2})
    rule = {"format": "pascal_voc", "min_visibility": 0.5}
    other = Named("bboxes", bbox_params=rule)
    with pytest.raises(UserError, match="output other has other bbox_params"):
        MultiTask({"cells": Detection(["a"]), "other": other}).compose_options()
    fields = Named("bboxes", bbox_params={**rule, "label_fields": ["names"]})
    with pytest.raises(UserError, match="label_fields"):
        MultiTask({"a": fields, "b": fields}).compose_options()
    assert MultiTask({"a": fields}).compose_options() == fields.options
