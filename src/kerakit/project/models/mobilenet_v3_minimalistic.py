"""MobileNetV3 Large, minimalistic: without hard-swish and squeeze-and-excite, of Keras."""

from typing import Any

from models.backbone import classifier


def construct(
    input_shape: tuple[int, int, int], num_classes: int, weights: str | None = None
) -> Any:
    """Return a ``keras.Model`` with MobileNetV3 Large below and a layer of probabilities on top.

    Args:
        input_shape: (height, width, 3), at least 32 pixels each.
        num_classes: how many probabilities to give.
        weights: "imagenet", or None for random ones.
    """
    from functools import partial

    import keras

    application = partial(
        keras.applications.MobileNetV3Large, minimalistic=True, include_preprocessing=False
    )
    return classifier(application, "mobilenet_v3_minimalistic", input_shape, num_classes, weights)
