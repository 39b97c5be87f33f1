"""EfficientNetV2-B0."""

from functools import partial

import keras

from kerakit.tasks import Task
from models import _backbone


def construct(
    input_shape: tuple[int, int, int], task: Task, weights: str | None = None
) -> keras.Model:
    """Return the model; ``weights`` is "imagenet" or None."""
    application = partial(keras.applications.EfficientNetV2B0, include_preprocessing=False)
    return _backbone.build(application, "efficientnet_v2_b0", input_shape, task, weights)
