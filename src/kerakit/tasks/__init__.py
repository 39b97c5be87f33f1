"""Tasks: what a label is, from its encoding to its metrics."""

from kerakit.tasks.base import Task
from kerakit.tasks.classification import Classification, ClassPredictions

__all__ = ["ClassPredictions", "Classification", "Task"]
