"""Build a model from the project's ``construct`` function; find out which weights it starts from."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

from kerakit.errors import UserError, WeightsNotFoundError

Weights = Literal["auto", "imagenet", "none"]


def build(
    construct: Callable[..., Any],
    input_size: tuple[int, int],
    num_classes: int,
    weights: Weights = "none",
) -> tuple[Any, Literal["imagenet", "none"]]:
    """Call ``construct(input_shape, num_classes)``, with ``weights="imagenet"`` where that is asked for and possible.

    A ``construct`` without a parameter ``weights`` has no pretrained weights.

    Args:
        construct: one of the project's models.
        input_size: (width, height) in pixels.
        num_classes: how many classes to tell apart.
        weights: "imagenet" (an error where they cannot be had), "none", or "auto": ImageNet's, or else a loud line and none.

    Returns:
        The ``keras.Model``, and which weights it starts from.

    Raises:
        UserError: "imagenet" was asked for and cannot be had.
    """
    input_shape = (input_size[1], input_size[0], 3)
    name = construct.__module__.rsplit(".", 1)[-1]
    if weights == "none":
        return construct(input_shape, num_classes), "none"
    if "weights" not in inspect.signature(construct).parameters:
        if weights == "imagenet":
            raise UserError(
                f"the model {name} has no ImageNet weights. Leave --weights away, or choose another --model."
            )
        print(f"{name} has no ImageNet weights: training from scratch.", flush=True)
        return construct(input_shape, num_classes), "none"
    try:
        return construct(input_shape, num_classes, weights="imagenet"), "imagenet"
    except WeightsNotFoundError as error:
        reason = str(error)
    except Exception as error:
        # Keras raises a bare Exception where a download fails; anything else is not about fetching.
        if "URL fetch failure" not in str(error):
            raise
        reason = f"no connection to the internet: {str(error).rsplit('--', 1)[-1].strip()}"
    if weights == "imagenet":
        raise UserError(
            f"the ImageNet weights of {name} cannot be fetched ({reason}). "
            "Mend that, or give --weights none to train from scratch."
        )
    print(
        f"WARNING: the ImageNet weights of {name} cannot be fetched ({reason}): TRAINING FROM SCRATCH.",
        flush=True,
    )
    return construct(input_shape, num_classes), "none"
