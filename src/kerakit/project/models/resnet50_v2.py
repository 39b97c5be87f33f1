"""ResNet-50 V2."""

import keras

from kerakit.tasks import Task
from models import _backbone


def construct(
    input_shape: tuple[int, int, int], task: Task, weights: str | None = None
) -> keras.Model:
    """Return the model; ``weights`` is "imagenet" or None."""
    application = keras.applications.ResNet50V2
    return _backbone.build(application, "resnet50_v2", input_shape, task, weights)
