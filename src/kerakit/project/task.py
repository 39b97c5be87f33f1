"""The task: label encoding, head, metrics, decoding. CHANGE: use another or your own task."""

from collections.abc import Sequence

from kerakit.tasks import Classification, Task


def get_task(class_names: Sequence[str]) -> Task:
    """Return the task for these classes."""
    return Classification(class_names)
