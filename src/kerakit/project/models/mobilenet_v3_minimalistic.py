"""MobileNetV3 Large minimalistic: no hard-swish, no squeeze-and-excite."""

from functools import partial

import keras

from kerakit.tasks import Task
from models import _backbone


def construct(
    input_shape: tuple[int, int, int], task: Task, weights: str | None = None
) -> keras.Model:
    """Return the model; ``weights`` is "imagenet" or None."""
    application = partial(
        keras.applications.MobileNetV3Large, minimalistic=True, include_preprocessing=False
    )
    return _backbone.build(application, "mobilenet_v3_minimalistic", input_shape, task, weights)
