"""State of Keras's backend: variables, random generators; and names that depend on the process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError
from kerakit.state_folder import SavedState


def to_numpy(variable: Any) -> NDArray[Any]:
    """Return a copy of a variable; types that NumPy lacks, such as bfloat16, as raw bytes."""
    array = np.array(keras.ops.convert_to_numpy(variable))
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def build_variables(model: keras.Model, targets: Any) -> None:
    """Create the variables of optimizer and metrics before ``fit``, on TensorFlow.

    A step that creates variables is traced twice, which takes about a third of the start of a
    training. On other backends, Keras creates them itself.

    Args:
        model: compiled.
        targets: of any batch.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse", metrics=["mae"])
    >>> build_variables(model, np.zeros((4, 1)))
    >>> model.optimizer.built or keras.backend.backend() != "tensorflow"
    True
    """
    if keras.backend.backend() != "tensorflow":
        return
    model.optimizer.build(model.trainable_variables)
    count = len(keras.tree.flatten(targets)[0])
    shapes = [(count, *output.shape[1:]) for output in model.outputs]
    if any(None in shape for shape in shapes):
        return  # the first step creates those of metrics
    zeros = [
        keras.ops.zeros(shape, output.dtype)
        for shape, output in zip(shapes, model.outputs, strict=True)
    ]
    outputs = keras.tree.pack_sequence_as(getattr(model, "output", zeros[0]), zeros)
    model.compute_loss(None, targets, outputs, training=False)
    model.compute_metrics(None, targets, outputs)
    model.reset_metrics()


def collect_generators() -> dict[str, NDArray[Any]]:
    """Return the states of torch's generators, which Dropout without a seed uses on that backend.

    All other random numbers of Keras are a function of its variables.
    """
    if keras.backend.backend() != "torch":
        return {}
    import torch

    states = [torch.get_rng_state(), *torch.cuda.get_rng_state_all()]
    return {f"generator/{i}": np.array(state.numpy()) for i, state in enumerate(states)}


def restore_generators(arrays: Mapping[str, NDArray[Any]]) -> None:
    """Continue the generators of ``collect_generators``, on the same devices."""
    if keras.backend.backend() != "torch" or "generator/0" not in arrays:
        return
    import torch

    torch.set_rng_state(torch.from_numpy(arrays["generator/0"]))
    for i in range(torch.cuda.device_count()):
        if f"generator/{i + 1}" in arrays:
            torch.cuda.set_rng_state(torch.from_numpy(arrays[f"generator/{i + 1}"]), i)


def restore_variables(group: str, variables: Sequence[Any], saved: SavedState) -> None:
    """Set variables to those of a saved state.

    Raises:
        UserError: numbers or shapes of the variables differ.
    """
    names = sorted(name for name in saved.arrays if name.startswith(f"{group}/"))
    arrays = [saved.arrays[name] for name in names]
    shapes = [tuple(array.shape) for array in arrays]
    if shapes != [tuple(variable.shape) for variable in variables]:
        raise UserError(
            f"the saved state {saved.path} does not fit: it has {len(arrays)} variables of the "
            f"{group}, this training {len(variables)}, or their shapes differ. Undo changes of "
            "models/, loss.py and train.py, or start a new run with another --save_to."
        )
    for variable, array in zip(variables, arrays, strict=True):
        current = keras.ops.convert_to_numpy(variable).dtype
        variable.assign(array.view(current) if current.kind == "V" else array)


def name_optimizer(optimizer: Any) -> None:
    """Give an optimizer a name that does not depend on how many there were in this process.

    Keras numbers the names, and writes them into checkpoints: in a process that continues with the
    second phase, the files had other bytes.

    >>> optimizers = [keras.optimizers.SGD() for _ in range(2)]
    >>> for optimizer in optimizers:
    ...     name_optimizer(optimizer)
    >>> optimizers[1].name
    'SGD'
    """
    while optimizer is not None:
        optimizer.name = type(optimizer).__name__
        optimizer = getattr(optimizer, "inner_optimizer", None)  # of mixed precision
