"""The task: label encoding, head, metrics, decoding. CHANGE: use another or your own task."""

from kerakit import ClassNames
from kerakit.tasks import Keypoints, Task, left_right_pairs

TASK = Keypoints

# CHANGE: points that are connected by lines in drawings.
SKELETON: tuple[tuple[str, str], ...] = ()


def get_task(class_names: ClassNames) -> Task:
    """Return the task for these points. CHANGE: the pairs that a mirrored image exchanges."""
    return TASK(class_names, pairs=left_right_pairs(class_names), skeleton=SKELETON)
