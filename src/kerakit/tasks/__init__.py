"""Tasks: label encoding, model head, loss, decoding, metrics and drawing."""

from kerakit.tasks.base import Task
from kerakit.tasks.classification import Classification, ClassPredictions

__all__ = ["ClassPredictions", "Classification", "Task"]
