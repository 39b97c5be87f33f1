"""What the models on a pretrained network share: pixels in, probabilities out."""

from collections.abc import Callable
from typing import Any

import kerakit


def classifier(
    application: Callable[..., Any],
    name: str,
    input_shape: tuple[int, int, int],
    num_classes: int,
    weights: str | None,
    scale: float = 1 / 127.5,
    offset: float = -1,
) -> Any:
    """Return a ``keras.Model`` of raw pixels, ``application`` without its top, and a layer of probabilities.

    Args:
        application: one of ``keras.applications``, or a function like them.
        name: of the model.
        input_shape: (height, width, 3), at least 32 pixels each.
        num_classes: how many probabilities to give.
        weights: "imagenet", or None for random ones.
        scale: of pixels; ``application`` is given pixels times ``scale`` plus ``offset``, by default values from -1 to 1.
        offset: see there.
    """
    import keras
    from keras import layers

    if min(input_shape[:2]) < 32:
        raise kerakit.UserError(
            f"{name} takes an input_size of at least 32,32, got {input_shape[1]},{input_shape[0]}."
        )
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(scale, offset, name="normalise")(image)
    backbone = application(
        input_shape=input_shape, input_tensor=x, include_top=False, weights=weights
    )
    if weights is None:
        # Keras averages over thousands of steps (0.99, 0.999), for ImageNet: a short training would be validated with
        # the statistics of its first steps.
        for layer in backbone.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.9
    # What comes before "features" is the backbone, what follows the head: see phases.py.
    x = layers.GlobalAveragePooling2D(name="features")(backbone.output)
    x = layers.Dropout(0.2)(x)
    # In float32 whatever the rest computes in (--mixed_precision): probabilities below 6e-8 would be 0.
    x = layers.Dense(num_classes, activation="softmax", name="probabilities", dtype="float32")(x)
    return keras.Model(image, x, name=name)
