"""MobileNet V2: ReLU6 only, so that every operator maps to the Edge TPU."""

import keras

from kerakit.tasks import Task
from models import _backbone


def construct(
    input_shape: tuple[int, int, int], task: Task, weights: str | None = None
) -> keras.Model:
    """Return the model; ``weights`` is "imagenet" or None."""
    application = keras.applications.MobileNetV2
    return _backbone.build(application, "mobilenet_v2", input_shape, task, weights)
