"""Shared code of the models with a pretrained backbone."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

import kerakit
from kerakit.tasks import Task


def build(
    application: Callable[..., Any],
    name: str,
    input_shape: tuple[int, int, int],
    task: Task,
    weights: str | None,
    scale: float = 1 / 127.5,
    offset: float = -1,
) -> keras.Model:
    """Return a model for raw pixels: normalization, backbone, and the task's head.

    Args:
        application: function of ``keras.applications``, or one with the same arguments.
        name: name of the model.
        input_shape: (height, width, 3), at least 32 pixels each.
        task: its ``head`` makes the outputs.
        weights: "imagenet", or None for random weights.
        scale: the backbone's input is pixels * scale + offset; by default -1 to 1.
        offset: see ``scale``.
    """
    if min(input_shape[:2]) < 32:
        raise kerakit.UserError(
            f"{name} needs an input_size of at least 32,32, got {input_shape[1]},{input_shape[0]}."
        )
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(scale, offset, name="normalize")(image)
    backbone = application(
        input_shape=input_shape, input_tensor=x, include_top=False, weights=weights
    )
    if weights is None or task.end_to_end:
        # Keras averages over thousands of steps (momentum 0.99 or 0.999), for ImageNet: a short
        # training would be validated with the statistics of its first steps.
        for layer in backbone.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.9
    return keras.Model(image, task.head(backbone.output), name=name)
