"""Checks of model, loss and targets on one batch, before a run folder is written."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError, first_line
from kerakit.extras import BACKENDS
from kerakit.inference import compiled_call, keras_predict_fn
from kerakit.tasks.base import Task, label_lines
from kerakit.weights import check_weights

_OTHER_SHAPES = ("circle", "ctc")
"""Losses of Keras whose targets have another shape than the outputs."""


def check_batch(model: keras.Model, task: Task, batch: tuple[Any, Any]) -> None:
    """Check the outputs of a compiled model for one batch, and its loss against the targets.

    Args:
        model: compiled.
        task: checks the outputs.
        batch: a few images, uint8 (n, height, width, 3), and their targets.

    Raises:
        UserError: a backend that cannot train, invalid outputs, or a loss that does not fit targets
            and outputs.

    >>> from kerakit.tasks import Classification
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, "softmax")])
    >>> model.compile("sgd", "mean_squared_error")
    >>> check_batch(model, Classification(["cat", "dog"]), (np.zeros((3, 2)), np.array([0, 1, 1])))
    Traceback (most recent call last):
    kerakit.errors.UserError: the loss mean_squared_error does not fit targets and outputs: ...
    """
    if (backend := keras.backend.backend()) not in BACKENDS:
        raise UserError(
            f"Keras's backend {backend} cannot train. Set KERAS_BACKEND to tensorflow, jax or "
            "torch."
        )
    # As many images as classes would hide that a loss broadcasts.
    count = len(batch[0]) - (len(batch[0]) == len(label_lines(task)))
    images, targets = keras.tree.map_structure(lambda array: array[:count], batch)
    check_weights(model, f"the model {model.name}")
    outputs = _predict(model, images)
    inference = task.inference_model(model)
    # A list of outputs is that of a task of the owner's own; Sequential models have no structure.
    structure = getattr(model, "output", None)
    if inference is not model or isinstance(structure, dict):
        task.check_outputs(keras_predict_fn(inference)(images))
    else:
        task.check_outputs(outputs[0] if len(outputs) == 1 else outputs)
    given, losses = keras.tree.flatten(targets), keras.tree.flatten(model.loss)
    if len(given) == len(outputs) == len(losses):
        for loss, target, output in zip(losses, given, outputs, strict=True):
            _check_loss(loss, np.asarray(target), output)
    # An error of NumPy, Keras or the owner's loss; none of them has a class of its own.
    try:
        packed = outputs[0]
        if len(outputs) > 1 or isinstance(structure, dict):
            packed = keras.tree.pack_sequence_as(structure, outputs)
        model.compute_loss(images, targets, packed)
    except Exception as error:
        names = ", ".join(map(_name, losses))
        raise UserError(
            f"the loss {names} does not fit targets and outputs: {first_line(error)} "
            f"{_describe(given, outputs)}{_advise(given)}"
        ) from error


def _predict(model: keras.Model, images: Any) -> list[NDArray[Any]]:
    """Return the outputs; of a softmax, any probabilities: the first pass of a model is slow."""
    if len(model.outputs) == 1 and _ends_in_softmax(model):
        shape = (len(images), *model.outputs[0].shape[1:])
        return [np.full(shape, 1 / shape[-1], np.float32)]
    outputs = keras.tree.flatten(compiled_call(model)(images))
    return [keras.ops.convert_to_numpy(output) for output in outputs]


def _ends_in_softmax(model: keras.Model) -> bool:
    last = model.layers[-1]
    if last.output is not model.outputs[0]:
        return False
    if isinstance(last, keras.layers.Softmax) and last.axis == -1:
        return True
    return getattr(last, "activation", None) is keras.activations.softmax


def _check_loss(loss: Any, targets: NDArray[Any], outputs: NDArray[Any]) -> None:
    """Raise UserError if a loss of Keras would broadcast targets and outputs, or cast targets."""
    loss = keras.losses.get(loss) if isinstance(loss, str) else loss
    name = _name(loss)
    home = getattr(loss, "__module__", "").partition(".")[0]
    is_known = home == "keras" or (home == "kerakit" and hasattr(keras.losses, name))
    if not is_known or name.lower() in _OTHER_SHAPES:
        return
    if name.lower().startswith("sparse"):
        shape = targets.shape[:-1] if targets.ndim == outputs.ndim else targets.shape
        fits = targets.dtype.kind in "iub" and shape == outputs.shape[:-1]
        limit = outputs.shape[-1]
        if fits and targets.size and not 0 <= targets.min() <= targets.max() < limit:
            raise UserError(
                f"the loss {name} does not fit targets and outputs: the targets are "
                f"{targets.min()} to {targets.max()}, and {limit} outputs need class indices "
                f"below {limit}."
            )
    else:
        fits = np.squeeze(targets).shape == np.squeeze(outputs).shape
    if not fits:
        raise UserError(
            f"the loss {name} does not fit targets and outputs: {_describe([targets], [outputs])}"
            f"{_advise([targets])}"
        )


def _name(loss: Any) -> str:
    return loss if isinstance(loss, str) else getattr(loss, "__name__", None) or type(loss).__name__


def _describe(targets: list[Any], outputs: list[Any]) -> str:
    """Return dtypes and shapes, without the batch."""
    return (
        f"Targets: {', '.join(map(_describe_array, targets))}; outputs: "
        f"{', '.join(map(_describe_array, outputs))}."
    )


def _describe_array(array: Any) -> str:
    array = np.asarray(array)
    return f"{array.dtype} (batch{''.join(f', {size}' for size in array.shape[1:])})"


def _advise(targets: list[Any]) -> str:
    """Return a loss for the targets of one output."""
    if len(targets) != 1:
        return " Give one --loss per output."
    array = np.asarray(targets[0])
    if array.dtype.kind in "iub":
        return " The targets are class indices: use --loss sparse_categorical_crossentropy."
    if array.ndim > 1:
        return " The targets are soft labels or vectors: use --loss categorical_crossentropy."
    return " The targets are numbers: use --loss mean_absolute_error and one output per image."
