"""MobileNet V2, from Keras's applications: ReLU6 throughout, so that all of it maps to the Edge TPU."""

from typing import Any

from models.backbone import classifier


def construct(
    input_shape: tuple[int, int, int], num_classes: int, weights: str | None = None
) -> Any:
    """Return a ``keras.Model``.

    Args:
        input_shape: (height, width, 3), at least 32 pixels each.
        num_classes: how many probabilities to give.
        weights: "imagenet", or None for random ones.
    """
    import keras

    return classifier(
        keras.applications.MobileNetV2, "mobilenet_v2", input_shape, num_classes, weights
    )
