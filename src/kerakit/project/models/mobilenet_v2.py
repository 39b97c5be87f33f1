"""MobileNet V2, from Keras's applications: ReLU6 throughout, so that all of it maps to the Edge TPU."""

from typing import Any

import kerakit


def construct(input_shape: tuple[int, int, int], num_classes: int, weights: str | None = None) -> Any:
    """Return a ``keras.Model``.

    Args:
        input_shape: (height, width, 3), at least 32 pixels each.
        num_classes: how many probabilities to give.
        weights: "imagenet", or None for random ones.
    """
    import keras
    from keras import layers

    if min(input_shape[:2]) < 32:
        raise kerakit.UserError(f"mobilenet_v2 takes an input_size of at least 32,32, got {input_shape[1]},{input_shape[0]}.")
    image = keras.Input(input_shape, name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1, name="normalise")(image)
    backbone = keras.applications.MobileNetV2(input_shape, input_tensor=x, include_top=False, weights=weights)
    if weights is None:
        # Keras averages over thousands of steps (0.99, 0.999), for ImageNet: a short training would be validated with
        # the statistics of its first steps.
        for layer in backbone.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = 0.9
    x = layers.GlobalAveragePooling2D()(backbone.output)
    x = layers.Dropout(0.2)(x)
    return keras.Model(image, layers.Dense(num_classes, activation="softmax", name="probabilities")(x), name="mobilenet_v2")
