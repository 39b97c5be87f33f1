"""ResNet-50 V2, of Keras."""

from typing import Any

from models.backbone import classifier


def construct(
    input_shape: tuple[int, int, int], num_classes: int, weights: str | None = None
) -> Any:
    """Return a ``keras.Model`` with ResNet-50 V2 below and a layer of probabilities on top.

    Args:
        input_shape: (height, width, 3), at least 32 pixels each.
        num_classes: how many probabilities to give.
        weights: "imagenet", or None for random ones.
    """
    import keras

    application = keras.applications.ResNet50V2
    return classifier(application, "resnet50_v2", input_shape, num_classes, weights)
