"""The task: label encoding, heads, metrics, decoding of several outputs."""

from kerakit import ClassNames
from kerakit.tasks import Classification, MultiTask, Regression, Task

# CHANGE: the task of each column of labels of the table, by the name of the column.
OUTPUTS: dict[str, type[Task]] = {"digit": Classification, "size": Regression}

TASK = MultiTask.of(OUTPUTS)


def get_task(class_names: ClassNames) -> Task:
    """Return the task; ``class_names`` are those of each output."""
    names = class_names if isinstance(class_names, dict) else {}
    return TASK({name: task(names.get(name, ())) for name, task in OUTPUTS.items()})
