"""Splitting of a model into backbone and head, at one tensor or several."""

from __future__ import annotations

import inspect
import itertools
from typing import Any, NamedTuple

import keras

from kerakit.architecture import flatten_layers
from kerakit.errors import UserError

FEATURES_LAYER = "features"
"""Name of the last layer of the backbone; the head follows it.

A head on several levels of the backbone also uses outputs of layers before it.
"""


def split_at(model: keras.Model, layer: str = FEATURES_LAYER) -> tuple[keras.Model, keras.Model]:
    """Return the parts of ``model`` below and above a layer, with shared weights.

    Between them are the output of the layer and, for a head on several levels of the backbone, the
    outputs of layers below it that layers above it use: then both parts have a list of tensors.

    Raises:
        UserError: ``model`` has no such layer, or the layers above need the input of the model.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="features"),
    ...                           keras.layers.Dense(1)])
    >>> backbone, head = split_at(model)
    >>> backbone.output_shape, head.input_shape
    ((None, 3), (None, 3))
    """
    if layer not in [each.name for each in model.layers]:
        for outer in model.layers:
            if layer in [leaf.name for leaf in leaf_layers(outer)]:
                raise UserError(
                    f"the layer {layer!r} of {model.name} is inside the nested model "
                    f"{outer.name!r}, so the model cannot be split there. Give the name to a layer "
                    "after the nested model, or use --strategy scratch."
                )
        raise UserError(
            f"the model {model.name} has no layer named {layer!r}. Give the last layer of its "
            "backbone this name, or use --strategy scratch."
        )
    border = _find_border(model, layer)
    # A Sequential model has no ``input`` and ``output`` before it is called.
    inputs, outputs = (
        each[0] if len(each) == 1 else each for each in (model.inputs, model.outputs)
    )
    lower = keras.Model(inputs, border, name="backbone")
    if not isinstance(model, keras.Sequential) and isinstance(model.output, dict):
        outputs = model.output
    try:
        return lower, keras.Model(border, outputs, name="head")
    except ValueError as error:  # a path past the layer, through the output of a nested model
        raise _not_splittable(model, layer) from error


def _find_border(model: keras.Model, layer: str) -> Any:
    """Return the outputs of a layer and of those below it that layers above it use.

    One tensor, or a list in the order of the layers.
    """
    output = model.get_layer(layer).output
    if isinstance(model, keras.Sequential):
        return output
    # Nodes are the calls of layers; a layer may have others, of other models.
    below = _nodes(keras.Model(model.inputs, output))
    made = {id(tensor): tensor for node in below for tensor in node.output_tensors}
    lower = {id(node) for node in below}
    above = [node for node in _nodes(model) if id(node) not in lower]
    used = {id(tensor) for node in above for tensor in node.input_tensors}
    used |= {id(tensor) for tensor in model.outputs}
    if used & {id(tensor) for tensor in model.inputs}:
        raise _not_splittable(model, layer)
    border = [tensor for key, tensor in made.items() if key in used]
    if len(border) == 1 and border[0] is not output:
        raise _not_splittable(model, layer)
    return border[0] if len(border) == 1 else border


def _nodes(model: keras.Model) -> list[Any]:
    """Return the calls of layers of a functional model, from its inputs to its outputs."""
    by_depth = model._nodes_by_depth
    return [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]


def _not_splittable(model: keras.Model, layer: str) -> UserError:
    return UserError(
        f"the layers after {layer!r} of {model.name} need the image itself, so the model cannot be "
        "split there. Use --strategy scratch."
    )


def find_split(model: keras.Model, fraction: float) -> str | None:
    """Return the layer to split at, with about ``fraction`` of the backbone's layers below it.

    Returns:
        The name of the last possible layer among them; None if there is none, or if the place is
        inside a nested model.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="first"),
    ...                           keras.layers.Dense(3, name="features"), keras.layers.Dense(1)])
    >>> find_split(model, 0.5)
    'first'
    """
    names = [layer.name for layer in model.layers]
    if FEATURES_LAYER not in names:
        return None
    sizes = [len(leaf_layers(layer)) for layer in model.layers]
    limit = round(sum(sizes[: names.index(FEATURES_LAYER)]) * fraction)
    if not fraction:
        return None
    # The position of the last leaf of each layer. Sequential models list no InputLayer.
    last = {name: count - 1 for name, count in zip(names, itertools.accumulate(sizes), strict=True)}
    for layer, size in zip(model.layers, sizes, strict=True):
        if isinstance(layer, keras.Model) and last[layer.name] - size < limit < last[layer.name]:
            return None
    # A head on several levels may use outputs of the backbone.
    features = model.get_layer(FEATURES_LAYER).output
    backbone = model if isinstance(model, keras.Sequential) else keras.Model(model.inputs, features)
    found = [
        name
        for name in find_split_layers(backbone)
        if name in last and last[name] <= limit and name != FEATURES_LAYER
    ]
    if limit >= last[FEATURES_LAYER]:
        found.append(FEATURES_LAYER)
    return found[-1] if found else None


def leaf_layers(layer: keras.Layer) -> list[keras.Layer]:
    """Return the layers inside ``layer`` that contain no others, in their order; or ``layer``.

    It enters nested models, wrappers, and the attributes of custom layers.

    >>> inner = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="inside")])
    >>> model = keras.Sequential([inner, keras.layers.Dense(1, name="outside")])
    >>> [leaf.name for leaf in leaf_layers(model)]
    ['inside', 'outside']
    """
    leaves = {id(leaf): leaf for inner in _sublayers(layer) for leaf in leaf_layers(inner)}
    return list(leaves.values()) or [layer]


def _sublayers(layer: keras.Layer) -> list[keras.Layer]:
    if isinstance(layer, keras.Model):
        return list(layer.layers)
    values = keras.tree.flatten(list(vars(layer).values()))
    return [value for value in values if isinstance(value, keras.Layer) and value is not layer]


def backbone_layers(model: keras.Model) -> list[keras.Layer]:
    """Return the leaf layers up to "features"; all leaf layers of a model without such a layer.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="features"),
    ...                           keras.layers.Dense(1)])
    >>> [layer.name for layer in backbone_layers(model)]
    ['features']
    """
    leaves = leaf_layers(model)
    names = [leaf.name for leaf in leaves]
    if FEATURES_LAYER not in names:
        return leaves
    if isinstance(model, keras.Sequential) or FEATURES_LAYER not in [
        one.name for one in model.layers
    ]:
        return leaves[: names.index(FEATURES_LAYER) + 1]
    return leaf_layers(keras.Model(model.inputs, model.get_layer(FEATURES_LAYER).output))


def freeze_lower(model: keras.Model, fraction: float) -> None:
    """Freeze the lower ``fraction`` of the backbone's layers, also inside nested models; print it.

    The backbone ends at the layer "features".

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="first"),
    ...                           keras.layers.Dense(3, name="features"), keras.layers.Dense(1)])
    >>> freeze_lower(model, 1.0)
    frozen: 1 of 3 layers, up to first; ...
    """
    leaves = leaf_layers(model)
    names = [leaf.name for leaf in leaves]
    if FEATURES_LAYER not in names:
        print(
            f"WARNING: {model.name} has no layer {FEATURES_LAYER!r}, so the lower layers of its "
            f"backbone are not frozen: all {len(leaves)} layers are trained, except BatchNorm.",
            flush=True,
        )
        return
    count = round(names.index(FEATURES_LAYER) * fraction)
    for leaf in leaves[:count]:
        leaf.trainable = False
    if count:
        print(
            f"frozen: {count} of {len(leaves)} layers, up to {names[count - 1]}; images pass "
            "through them in each epoch.",
            flush=True,
        )


def find_split_layers(model: keras.Model) -> list[str]:
    """Return the layers, except inputs, whose output is all that the layers after them need."""
    made_at: dict[int, int] = {}
    last_use = [0] * len(model.layers)
    for index, layer in enumerate(model.layers):
        for tensor in keras.tree.flatten(layer.input):
            if id(tensor) in made_at:
                last_use[made_at[id(tensor)]] = index
        for tensor in keras.tree.flatten(layer.output):
            made_at[id(tensor)] = index
    found = []
    latest = 0
    for index, layer in enumerate(model.layers):
        is_input = isinstance(layer, keras.layers.InputLayer)
        has_one_output = isinstance(layer.output, keras.KerasTensor) and not is_input
        if has_one_output and latest <= index < last_use[index]:
            found.append(layer.name)
        latest = max(latest, last_use[index])
    return found


class TrainingLayers(NamedTuple):
    """Names of the layers of a frozen model that compute something else in training.

    Attributes:
        dropout: regularization. Keras's guide on transfer learning turns it off, too:
            ``base_model(x, training=False)``.
        others: augmentation, noise, statistics of the batch, and layers of the owner.
    """

    dropout: list[str]
    others: list[str]


_DROPOUT = (
    *(keras.layers.Dropout, keras.layers.SpatialDropout1D, keras.layers.SpatialDropout2D),
    *(keras.layers.SpatialDropout3D, keras.layers.AlphaDropout, keras.layers.GaussianDropout),
)


def find_training_layers(model: keras.Model) -> TrainingLayers:
    """Return the layers, also of nested models, whose output depends on ``training``.

    BatchNorm counts where it is called with ``training=True``: frozen, it uses its moving averages.

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.RandomFlip(name="flip"),
    ...                           keras.layers.Dropout(0.5, name="drop")])
    >>> find_training_layers(model)
    TrainingLayers(dropout=['drop'], others=['flip'])
    """
    found = TrainingLayers([], [])
    forced = _find_forced(model)
    for layer in flatten_layers(model):
        if isinstance(layer, _DROPOUT) and id(layer) not in forced:
            if layer.rate > 0:
                found.dropout.append(layer.name)
        elif id(layer) in forced or _depends_on_training(layer):
            found.others.append(layer.name)
    return found


def _find_forced(model: keras.Model) -> set[int]:
    """Return the identities of the layers that are called with ``training=True`` in the graph."""
    forced: set[int] = set()
    for layer in flatten_layers(model):
        if any(node.arguments.kwargs.get("training") for node in layer._inbound_nodes):
            inner = (layer, *flatten_layers(layer))
            forced.update(id(one) for one in inner if _takes_training(one))
    return forced


def _takes_training(layer: keras.Layer) -> bool:
    is_stateful = isinstance(layer, (keras.layers.BatchNormalization, *_DROPOUT))
    return is_stateful or _depends_on_training(layer)


def _depends_on_training(layer: keras.Layer) -> bool:
    """Whether a layer, without those inside it, may compute something else in training."""
    if isinstance(layer, (keras.layers.BatchNormalization, *_DROPOUT)):
        return False
    if isinstance(layer, keras.layers.SpectralNormalization):
        return True
    if any(isinstance(value, keras.random.SeedGenerator) for value in vars(layer).values()):
        return True
    if isinstance(layer, keras.layers.Lambda):
        return _has_training_argument(layer.function)
    is_own = type(layer).__module__.split(".")[0] not in ("keras", "kerakit")
    return is_own and _has_training_argument(layer.call)


def _has_training_argument(function: object) -> bool:
    try:
        return callable(function) and "training" in inspect.signature(function).parameters
    except ValueError:
        return False
