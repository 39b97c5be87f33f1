"""Followers of several tasks: what augmentation moves together with one image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError

if TYPE_CHECKING:
    from kerakit.tasks.base import Task

_TASK = 4
"""Column of merged boxes with the number of their task."""


def merge_followers(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the followers of several tasks as those of one.

    Args:
        found: ``Task.followers`` by the name of the task. Names that occur in one task stay; masks
            of several tasks become the list ``masks``, keypoints and boxes one table each, in which
            the fifth column of a box is the number of its task.

    Raises:
        UserError: several tasks have other followers of the same name.

    >>> masks = [np.zeros((2, 2)), np.ones((2, 2))]
    >>> merged = merge_followers({"a": {"mask": masks[0]}, "b": {"mask": masks[1]}})
    >>> list(merged), len(merged["masks"])
    (['masks'], 2)
    """
    merged: dict[str, Any] = {}
    for key, count in _count(found).items():
        values = {name: one[key] for name, one in found.items() if key in one}
        if count == 1:
            (merged[key],) = values.values()
        elif key == "mask":
            merged["masks"] = list(values.values())
        elif key == "keypoints":
            merged[key] = np.concatenate([points[:, :2] for points in values.values()])
        elif key == "bboxes":
            numbers = list(found)
            merged[key] = _merge_boxes({numbers.index(name): one for name, one in values.items()})
        else:
            raise UserError(
                f"the outputs {', '.join(values)} have {key!r}, which augmentation cannot move for "
                "several outputs. Train without --jitter, or in two projects."
            )
    return merged


def split_followers(
    found: Mapping[str, Mapping[str, Any]], augmented: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return augmented followers by the names of their tasks.

    Args:
        found: as of ``merge_followers``.
        augmented: what it returned, after augmentation.

    >>> found = {"a": {"mask": np.zeros((2, 2))}, "b": {"mask": np.ones((2, 2))}}
    >>> sorted(split_followers(found, merge_followers(found)))
    ['a', 'b']
    """
    counts, masks, points = _count(found), iter(augmented.get("masks", ())), 0
    split: dict[str, dict[str, Any]] = {}
    for number, (name, before) in enumerate(found.items()):
        own = split[name] = {}
        for key, value in before.items():
            if counts[key] == 1:
                own[key] = augmented[key]
            elif key == "mask":
                own[key] = next(masks)
            elif key == "keypoints":
                own[key] = augmented[key][points : points + len(value)]
                points += len(value)
            else:
                own[key] = _split_boxes(augmented[key], number, np.shape(value)[-1])
    return split


def merge_options(tasks: Mapping[str, Task]) -> dict[str, Any]:
    """Return ``compose_options`` of several tasks.

    Raises:
        UserError: they differ, or boxes of several tasks have label fields.

    >>> from kerakit.tasks import Classification, Detection
    >>> sorted(merge_options({"kind": Classification(["a", "b"]), "cells": Detection(["c"])}))
    ['bbox_params']
    """
    options: dict[str, Any] = {}
    for name, task in tasks.items():
        for key, value in task.compose_options().items():
            own = _as_dict(value)
            if key in options and (_as_dict(options[key]) != own or own.get("label_fields")):
                raise UserError(
                    f"the output {name} has other {key} than another output, or label_fields. "
                    "Several outputs share one rule, and labels of boxes are further columns."
                )
            options[key] = value
    return options


def _count(found: Mapping[str, Mapping[str, Any]]) -> Counter[str]:
    return Counter(key for one in found.values() for key in one)


def _merge_boxes(tables: Mapping[int, Any]) -> NDArray[np.float32]:
    """Return boxes of several tasks: four sides, the number of the task, its further columns."""
    width = max(np.shape(table)[-1] for table in tables.values())
    merged = []
    for number, values in tables.items():
        table = np.asarray(values, np.float32)
        rows = np.zeros((len(table), width + 1), np.float32)
        rows[:, :_TASK], rows[:, _TASK] = table[:, :_TASK], number
        rows[:, _TASK + 1 : table.shape[1] + 1] = table[:, _TASK:]
        merged.append(rows)
    return np.concatenate(merged)


def _split_boxes(merged: Any, number: int, width: int) -> NDArray[np.float32]:
    """Return the boxes of a task, with its ``width`` columns."""
    own = np.asarray(merged, np.float32)
    own = own[own[:, _TASK] == number]
    return np.concatenate([own[:, :_TASK], own[:, _TASK + 1 : width + 1]], axis=1)


def _as_dict(options: Any) -> dict[str, Any]:
    """Return parameters of albumentations as a dictionary."""
    return dict(options) if isinstance(options, Mapping) else dict(vars(options))
