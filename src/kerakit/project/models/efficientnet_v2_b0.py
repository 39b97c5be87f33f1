"""EfficientNetV2-B0, of Keras."""

from typing import Any

from models.backbone import classifier


def construct(
    input_shape: tuple[int, int, int], num_classes: int, weights: str | None = None
) -> Any:
    """Return a ``keras.Model`` with EfficientNetV2-B0 below and a layer of probabilities on top.

    Args:
        input_shape: (height, width, 3), at least 32 pixels each.
        num_classes: how many probabilities to give.
        weights: "imagenet", or None for random ones.
    """
    from functools import partial

    import keras

    application = partial(keras.applications.EfficientNetV2B0, include_preprocessing=False)
    return classifier(application, "efficientnet_v2_b0", input_shape, num_classes, weights)
