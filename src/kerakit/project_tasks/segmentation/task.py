"""The task: label encoding, head, metrics, decoding. CHANGE: use another or your own task."""

from kerakit import ClassNames
from kerakit.tasks import Segmentation, Task

TASK = Segmentation


def get_task(class_names: ClassNames) -> Task:
    """Return the task for these classes."""
    return TASK(class_names)
