"""Tasks: label encoding, model head, loss, decoding, metrics and drawing."""

import reprlib
from collections.abc import Mapping
from typing import Any

from kerakit.errors import UserError, first_line
from kerakit.tasks.base import Task
from kerakit.tasks.classification import Classification, ClassPredictions
from kerakit.tasks.detection import Detection, Objects
from kerakit.tasks.keypoints import Keypoints, left_right_pairs
from kerakit.tasks.multilabel import MultiLabel
from kerakit.tasks.multitask import MultiTask
from kerakit.tasks.regression import Regression
from kerakit.tasks.segmentation import Segmentation

__all__ = [
    "ClassPredictions",
    "Classification",
    "Detection",
    "Keypoints",
    "MultiLabel",
    "MultiTask",
    "Objects",
    "Regression",
    "Segmentation",
    "Task",
    "left_right_pairs",
    "make_task",
]

_TASKS: dict[str, type[Task]] = {
    task.name: task
    for task in (Classification, Detection, Keypoints, MultiLabel, Regression, Segmentation)
}


def make_task(spec: Mapping[str, Any]) -> Task:
    """Return the task of the values of ``Task.spec``, such as those of an export's task.json.

    Raises:
        UserError: not a built-in task, or damaged values.

    >>> make_task({"task": "classification", "classes": ["cat", "dog"]}).class_names
    ('cat', 'dog')
    """
    if not isinstance(spec, Mapping):
        raise UserError(f"the task is {spec!r}; expected an object with its values.")
    if spec.get("task") == MultiTask.name and isinstance(spec.get("tasks"), dict):
        return MultiTask({key: _make_one(value) for key, value in spec["tasks"].items()})
    return _make_one(spec)


def _make_one(spec: Any) -> Task:
    values = spec if isinstance(spec, Mapping) else {}
    name, classes = values.get("task"), values.get("classes")
    if (
        not isinstance(name, str)
        or name not in _TASKS
        or not isinstance(classes, list)
        or not all(isinstance(one, str) for one in classes)
    ):
        raise UserError(
            f"the task is {reprlib.repr(name)}; expected one of "
            f"{', '.join([*_TASKS, MultiTask.name])}, with classes. "
            "The predict.py of a project runs tasks of its own."
        )
    try:
        return _TASKS[name](classes).restore(values)
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"the values of the task {name} are damaged: {first_line(error)}."
        ) from None
