"""Feature levels of a backbone, and a feature pyramid on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import layers

from kerakit.errors import UserError

STRIDES = (8, 16, 32)
"""Strides of the levels of a detector: pixels of the image per row and column of features."""

FILTERS = 96
"""Number of channels of the pyramid."""


def feature_levels(features: Any, strides: Sequence[int] = STRIDES, prefix: str = "") -> list[Any]:
    """Return the tensor of each stride that the rest of the backbone depends on.

    Of several tensors of one size it is the last one of which everything after it is computed, so
    neither a shortcut nor the middle of a block. Strides beyond that of ``features`` are computed
    by added convolutions.

    Args:
        features: features of a backbone, (batch, height, width, channels).
        strides: ascending; each twice the one before it.
        prefix: of the names of added layers.

    Raises:
        UserError: ``features`` has no height and width, or a stride is missing in the backbone.

    >>> image = keras.Input((64, 96, 3))
    >>> x = image
    >>> for filters in (8, 16, 24):
    ...     x = layers.Conv2D(filters, 3, strides=2, padding="same")(x)
    >>> [level.shape for level in feature_levels(x, (4, 8, 16))]
    [(None, 16, 24, 16), (None, 8, 12, 24), (None, 4, 6, 96)]
    """
    if len(features.shape) != 4:
        raise UserError(
            f"the features of the model have the shape {features.shape}; this task expects (batch, "
            "height, width, channels). Call task.head before pooling."
        )
    image = find_input(features)
    height, width = image.shape[1:3]
    borders = _find_borders(image, features)
    found: list[Any] = []
    for stride in strides:
        # Backbones round odd sizes up or down.
        fitting = [
            each
            for each in borders
            if abs(each.shape[1] * stride - height) < stride
            and abs(each.shape[2] * stride - width) < stride
        ]
        if not fitting:
            break
        found.append(fitting[-1])
    if not found:
        raise UserError(
            f"the backbone has no features of stride {strides[0]}: its input has the height and "
            f"width {height},{width}, its last features "
            f"{features.shape[1]},{features.shape[2]}. Use another model; a nested "
            "keras.Model hides its inner features: call its layers on the image instead "
            "(input_tensor of keras.applications)."
        )
    found[-1] = _mark(found[-1])
    for stride in strides[len(found) :]:
        found.append(conv_unit(found[-1], FILTERS, 3, f"{prefix}level_{stride}", strides=2))
    return found


def feature_pyramid(levels: Sequence[Any], filters: int = FILTERS, prefix: str = "") -> list[Any]:
    """Return levels of equal channels that include the context of the coarser ones.

    Feature pyramid network (Lin et al. 2017, arXiv:1612.03144) with nearest-neighbor resizing and
    separable convolutions, which int8 and the Edge TPU support.

    Args:
        levels: from fine to coarse.
        filters: number of channels of each result.
        prefix: of the names of the layers.

    >>> fine, coarse = keras.Input((8, 12, 24)), keras.Input((4, 6, 40))
    >>> [level.shape for level in feature_pyramid([fine, coarse], 16)]
    [(None, 8, 12, 16), (None, 4, 6, 16)]
    """
    count = len(levels)
    x = None
    found = []
    for index in reversed(range(count)):
        lateral = conv_unit(levels[index], filters, 1, f"{prefix}lateral_{index}")
        if x is None:
            x = lateral
        else:
            above = upsample(x, lateral.shape[1:3], f"{prefix}upsample_{index}")
            x = layers.Add(name=f"{prefix}merge_{index}")([above, lateral])
            x = separable_unit(x, filters, f"{prefix}pyramid_{index}")
        found.append(x)
    return found[::-1]


def conv_unit(x: Any, filters: int, kernel: int, name: str, strides: int = 1) -> Any:
    """Return convolution, batch normalization and ReLU6 of ``x``.

    >>> conv_unit(keras.Input((8, 8, 3)), 4, 3, "unit", strides=2).shape
    (None, 4, 4, 4)
    """
    x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False, name=f"{name}_conv")(x)
    # Keras's momentum of 0.99 averages over more steps than a short training has.
    x = layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=f"{name}_bn")(x)
    return layers.ReLU(6, name=f"{name}_relu")(x)


def separable_unit(x: Any, filters: int, name: str, kernel: int = 3) -> Any:
    """Return depthwise convolution and pointwise convolution of ``x``, normalized, with ReLU6.

    >>> separable_unit(keras.Input((8, 8, 3)), 4, "separable").shape
    (None, 8, 8, 4)
    """
    x = layers.DepthwiseConv2D(kernel, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
    return conv_unit(x, filters, 1, name)


def upsample(x: Any, size: tuple[int, int], name: str) -> Any:
    """Return ``x`` resized to (height, width) by nearest neighbor, one operator in TensorFlow Lite.

    ``keras.layers.UpSampling2D`` repeats rows and columns instead, which becomes many operators.

    >>> upsample(keras.Input((4, 6, 3)), (8, 12), "up").shape
    (None, 8, 12, 3)
    """
    if tuple(x.shape[1:3]) == tuple(size):
        return x
    return layers.Resizing(*size, interpolation="nearest", name=name)(x)


def _mark(features: Any) -> Any:
    """Return a tensor as the output of a layer "features": training splits the model there.

    Heads of several tasks on one backbone share the layer.
    """
    for node in features._keras_history.operation._outbound_nodes:
        if node.operation.name == "features":
            return node.output_tensors[0]
    return layers.Identity(name="features")(features)


def find_input(tensor: Any) -> Any:
    """Return the image that ``tensor`` is computed from.

    ``keras.utils.get_source_inputs`` follows each path, whose number doubles with each shortcut.

    >>> image = keras.Input((8, 8, 3))
    >>> find_input(layers.Conv2D(4, 3)(image)) is image
    True
    """
    (image,) = (one for one in _ancestors(tensor) if not _inputs(one))
    return image


def find_tensors(output: Any, names: Sequence[str]) -> list[Any]:
    """Return the outputs of the layers of these names that ``output`` is computed from.

    A layer of a model that was split has an output in each part; ``layer.output`` is the first.

    >>> image = keras.Input((2,))
    >>> x = layers.Dense(3, name="inner")(image)
    >>> find_tensors(layers.Dense(4)(x), ["inner"])[0] is x
    True
    """
    found: dict[str, Any] = {}
    for tensor in _ancestors(output):
        found.setdefault(tensor._keras_history.operation.name, tensor)
    return [found[name] for name in names]


def _ancestors(tensor: Any) -> Iterator[Any]:
    """Yield ``tensor`` and the tensors that it is computed from, each once."""
    pending, seen = [tensor], {id(tensor)}
    while pending:
        one = pending.pop()
        yield one
        for each in _inputs(one):
            if id(each) not in seen:
                seen.add(id(each))
                pending.append(each)


def _inputs(tensor: Any) -> list[Any]:
    operation, node_index, _ = tensor._keras_history
    inputs: list[Any] = operation._inbound_nodes[node_index].input_tensors
    return inputs


def _find_borders(image: Any, features: Any) -> list[Any]:
    """Return the tensors between ``image`` and ``features`` that all later ones depend on."""
    model = keras.Model(image, features)
    made_at: dict[int, int] = {}
    outputs: list[Any] = []
    last_use: list[int] = []
    for operation in model.operations:
        # An operation that is used at several places has no single input and output.
        if len(operation._inbound_nodes) != 1:
            continue
        node = operation._inbound_nodes[0]
        index = len(outputs)
        for tensor in node.input_tensors:
            if id(tensor) in made_at:
                last_use[made_at[id(tensor)]] = index
        for tensor in node.output_tensors:
            made_at[id(tensor)] = index
        outputs.append(node.output_tensors)
        last_use.append(index)
    found = []
    latest = 0
    for index, tensors in enumerate(outputs):
        is_border = len(tensors) == 1 and latest <= index
        if is_border and len(tensors[0].shape) == 4 and tensors[0] is not image:
            found.append(tensors[0])
        latest = max(latest, last_use[index])
    return found
