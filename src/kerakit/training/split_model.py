"""Cut a model in two where one tensor carries all that the rest needs: what is below need not be computed each epoch."""

from __future__ import annotations

import keras

from kerakit.errors import UserError

LAYER = "features"
"""The layer of this name ends the backbone: its output is (batch, features), what follows it is the head."""


def split(model: keras.Model, at: str = LAYER) -> tuple[keras.Model, keras.Model]:
    """Return what is below and what is above the output of the layer ``at``, with the same weights.

    Raises:
        UserError: ``model`` has no such layer, or what follows needs more than its output.
    """
    names = [layer.name for layer in model.layers]
    if at not in names:
        raise UserError(
            f"the model {model.name} has no layer named {at!r}. Name the last layer of its backbone so, "
            "or give --schedule scratch."
        )
    if at not in boundaries(model):
        raise UserError(
            f"what follows the layer {at!r} of {model.name} needs the output of other layers too, so it cannot be trained by "
            "itself. Give --schedule scratch."
        )
    border = model.get_layer(at).output
    return keras.Model(model.input, border, name="backbone"), keras.Model(
        border, model.output, name="head"
    )


def below(model: keras.Model, share: float) -> str | None:
    """Return where to cut so that about the first ``share`` of the layers up to "features" are below.

    Returns:
        The name of the last boundary among them; None where there is none.
    """
    names = [layer.name for layer in model.layers]
    limit = round(names.index(LAYER) * share) if LAYER in names else 0
    found = [name for name in boundaries(model) if names.index(name) <= limit]
    return found[-1] if found else None


def boundaries(model: keras.Model) -> list[str]:
    """Return the layers, inputs apart, after which one tensor, their output, is all that the rest needs, in order."""
    made_at: dict[int, int] = {}
    last_use = [0] * len(model.layers)
    for place, layer in enumerate(model.layers):
        for tensor in keras.tree.flatten(layer.input):
            if id(tensor) in made_at:
                last_use[made_at[id(tensor)]] = place
        for tensor in keras.tree.flatten(layer.output):
            made_at[id(tensor)] = place
    found = []
    latest = 0
    for place, layer in enumerate(model.layers):
        one = isinstance(layer.output, keras.KerasTensor) and not isinstance(
            layer, keras.layers.InputLayer
        )
        if one and latest <= place < last_use[place]:
            found.append(layer.name)
        latest = max(latest, last_use[place])
    return found
