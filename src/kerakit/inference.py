"""Inference over batches: the functions that run a model, whatever its runtime."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit import nested, world
from kerakit.errors import JobError

if TYPE_CHECKING:
    import keras

PredictFn = Callable[[NDArray[np.uint8]], Any]
"""uint8 images (n, height, width, 3) to outputs: one float32 array (n, ...), or a dictionary."""

TIMED_RUNS = 30
"""Number of single images of which ``measure_latency_ms`` takes the median."""
WARM_UP_RUNS = 3


def output_names(model: keras.Model) -> tuple[str, ...]:
    """Return the names of several outputs, in the order of exported files; () for one output.

    They are the sorted keys of a dictionary, or the names of the layers that output a list.

    >>> import keras
    >>> x = keras.Input((2,))
    >>> output_names(keras.Model(x, {"b": x, "a": x}))
    ('a', 'b')
    """
    if isinstance(getattr(model, "output", None), dict):
        return tuple(sorted(model.output))
    return tuple(model.output_names) if len(getattr(model, "outputs", None) or ()) > 1 else ()


def name_outputs(values: Any, names: tuple[str, ...]) -> Any:
    """Return outputs as one float32 array, or as a dictionary if there are names.

    Args:
        values: an array, a list of one array per name, or a dictionary.
        names: see ``output_names``.

    >>> name_outputs([[1], [2]], ("a", "b"))
    {'a': array([1.], dtype=float32), 'b': array([2.], dtype=float32)}
    """
    if not names:
        (values,) = values if isinstance(values, (list, tuple)) else (values,)
        return np.asarray(values, np.float32)
    if not isinstance(values, dict):
        values = dict(zip(names, values, strict=True))
    return {name: np.asarray(values[name], np.float32) for name in names}


def keras_predict_fn(model: keras.Model, names: tuple[str, ...] = ()) -> PredictFn:
    """Return the function that runs a Keras model on a batch of images.

    Args:
        model: the model.
        names: names of several outputs; default: those of the model.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    >>> keras_predict_fn(model)(np.zeros((5, 2, 2, 3), np.uint8)).shape
    (5, 12)
    """
    import keras

    names = names or output_names(model)
    is_jax = keras.backend.backend() == "jax"
    run = compiled_call(model) if is_jax else model.predict_on_batch
    return lambda images: name_outputs(run(images), names)


def compiled_call(model: keras.Model) -> Callable[[Any], Any]:
    """Return ``model(images, training=False)`` as one compiled function on JAX.

    There, Keras compiles each operation of such a call, and its ``predict`` deletes the arrays of
    the variables, which the moving averages of an optimizer may share. On other backends: the call.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2, 2, 3)), keras.layers.Flatten()])
    >>> compiled_call(model)(np.zeros((5, 2, 2, 3), np.uint8)).shape[1]
    12
    """
    import keras

    if keras.backend.backend() != "jax":
        return lambda images: model(images, training=False)
    import jax

    def run(variables: Any, images: Any) -> Any:
        return model.stateless_call(*variables, images, training=False)[0]

    compiled, here = jax.jit(run), world.current

    def call(images: Any) -> Any:
        variables = model.trainable_variables, model.non_trainable_variables
        values = [[variable.value for variable in part] for part in variables]
        if here.devices == 1:
            return compiled(values, images)
        # On the devices of this process: the other processes predict other images, or none.
        values = [[here.to_local(value) for value in part] for part in values]
        outputs = compiled(values, jax.tree.map(here.place_local, images))
        return jax.tree.map(np.asarray, outputs)

    return call


def check_finite(outputs: Any) -> Any:
    """Return ``outputs`` (n, ...); raise JobError if some are NaN or infinite.

    >>> check_finite(np.array([[0.5, 0.5], [np.nan, 0]], np.float32))
    Traceback (most recent call last):
    kerakit.errors.JobError: the model outputs NaN or infinite values for 1 of 2 images...
    """
    finite = np.ones(nested.length(outputs), bool)
    for array in nested.arrays(outputs):
        finite &= np.isfinite(array).reshape(len(array), -1).all(axis=1)
    if not finite.all():
        raise JobError(
            f"the model outputs NaN or infinite values for {np.sum(~finite):,} of {len(finite):,} "
            "images of a batch."
        )
    return outputs


def predict_batches(
    predict: PredictFn, batches: Iterable[tuple[Any, Any]], to_all: bool = True
) -> tuple[Any, Any]:
    """Run ``predict`` over batches of (uint8 images, targets).

    Where there are several processes, each predicts whole batches of a generator, one after
    another, as one process alone does: the outputs have the same bits.

    Args:
        predict: runs the model.
        batches: the batches.
        to_all: whether each process gets the outputs of all; otherwise process 0 alone.

    Returns:
        Outputs (n, ...) and targets (n, ...), in the order of the batches.

    Raises:
        JobError: an output is NaN or infinite.
    """
    data: Any = batches
    here = world.current
    is_divided = here.size > 1 and hasattr(data, "whole_batches")
    if is_divided:
        # Where there are more processes than batches, the others predict one for its shapes.
        own = here.batches(len(data)) or range(1)
        batches = data.whole_batches(own.start, own.stop)
    elif hasattr(data, "__getitem__"):
        batches = (data[i] for i in range(len(data)))
    found = [
        (check_finite(predict(images)), nested.map_arrays(np.asarray, targets))
        for images, targets in batches
    ]
    outputs, targets = (nested.concatenate(part) for part in zip(*found, strict=True))
    if is_divided:
        each = [here.batches(len(data), rank) for rank in range(here.size)]
        counts = [sum(map(data.batch_count, batches)) for batches in each]
        own_rows = nested.take((outputs, targets), slice(0, counts[here.rank]))
        outputs, targets = here.gather_rows(own_rows, counts, to_all)
    return outputs, targets


def measure_latency_ms(predict: PredictFn, image: NDArray[np.uint8]) -> float:
    """Return the median latency for one image, uint8 (height, width, 3), in milliseconds."""
    times = []
    for _ in range(WARM_UP_RUNS + TIMED_RUNS):
        start = time.perf_counter()
        predict(image[None])
        times.append(time.perf_counter() - start)
    return statistics.median(times[WARM_UP_RUNS:]) * 1e3
