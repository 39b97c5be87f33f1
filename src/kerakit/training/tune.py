"""Choices that depend on the machine or the data: mixed precision, batch size, learning rate."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerakit import world
from kerakit.errors import UserError
from kerakit.machine import has_accelerator
from kerakit.training.backend_state import build_variables

BATCH_SIZES = (8, 16, 32, 64, 128, 256, 512)
"""Candidates of ``find_batch_size``."""
MIN_SPEEDUP = 1.1
"""Smallest gain in throughput for which the next larger batch size is chosen."""
TIMED_STEPS = 3

MIN_RATE, MAX_RATE = 1e-6, 1.0
"""Learning rates at both ends of the range test."""
RANGE_STEPS = 60
DIVERGED = 4.0
"""The range test ends where the smoothed loss exceeds this multiple of its minimum."""
SMOOTHING = 0.9

CompileFn = Callable[[keras.Model, Any], None]
"""Compiles a model with an optimizer."""


def set_mixed_precision(enabled: bool) -> None:
    """Set float16 computation with float32 weights for models that are built from now on.

    Raises:
        UserError: there is no GPU or TPU; mixed precision is slower on CPUs.

    >>> set_mixed_precision(False)
    """
    if enabled and not has_accelerator():
        raise UserError("--mixed_precision is faster on GPUs only, and Keras sees none. Omit it.")
    keras.config.set_dtype_policy("mixed_float16" if enabled else "float32")


def find_batch_size(model: keras.Model, compile_with: CompileFn, batch: tuple[Any, Any]) -> int:
    """Return the smallest batch size with near-peak throughput that fits into memory.

    Args:
        model: the model to train; its weights are restored.
        compile_with: compiles a model with an optimizer.
        batch: images and targets of any batch size, which are repeated.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> batch = np.zeros((4, 2)), np.zeros((4, 1))
    >>> find_batch_size(model, lambda part, by: part.compile(by, "mse"), batch) in BATCH_SIZES
    batch size: ..., ... images/s
    True
    """
    weights = model.get_weights()
    compile_with(model, "sgd")
    build_variables(model, batch[1])
    best, best_rate = BATCH_SIZES[0], 0.0
    for size in BATCH_SIZES:
        # np.resize repeats the samples.
        images, targets = keras.tree.map_structure(
            lambda array: np.resize(array, (size, *np.shape(array)[1:])),  # noqa: B023
            batch,
        )
        try:
            model.train_on_batch(images, targets)  # traces, and warms up
            start = time.perf_counter()
            for _ in range(TIMED_STEPS):
                model.train_on_batch(images, targets)
            rate = world.current.from_main(TIMED_STEPS * size / (time.perf_counter() - start))
        except Exception as error:
            # The backends' own error types have only this in common.
            exhausted = "RESOURCE_EXHAUSTED" in f"{type(error)} {error}".upper()
            if not isinstance(error, MemoryError) and not exhausted:
                raise
            break
        if rate < MIN_SPEEDUP * best_rate:
            break
        best, best_rate = size, rate
    model.set_weights(weights)
    print(f"batch size: {best}, {best_rate:,.0f} images/s", flush=True)
    return best


def find_learning_rate(model: keras.Model, compile_with: CompileFn, batches: Any) -> float:
    """Return a learning rate by a range test (Smith 2017, section 3.3).

    The learning rate rises exponentially over RANGE_STEPS steps; the result is a tenth of the
    learning rate at the minimum of the smoothed loss.

    Args:
        model: the model to train; its weights are restored.
        compile_with: compiles a model with an optimizer.
        batches: a ``keras.utils.PyDataset`` of training batches.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> batches = [(np.ones((4, 2)), np.ones((4, 1)))]
    >>> rate = find_learning_rate(model, lambda part, by: part.compile(by, "mse"), batches)
    learning rate: ...
    >>> 0 < rate < 1
    True
    """
    weights = model.get_weights()
    growth = (MAX_RATE / MIN_RATE) ** (1 / RANGE_STEPS)
    rates = keras.optimizers.schedules.ExponentialDecay(MIN_RATE, 1, growth)
    compile_with(model, keras.optimizers.AdamW(rates, global_clipnorm=1.0))
    if hasattr(batches, "epoch"):
        batches.epoch = 0  # the same batches before and after a resume
    build_variables(model, batches[0][1])
    smoothed, lowest, best = 0.0, math.inf, MIN_RATE
    for step in range(RANGE_STEPS):
        batch = batches[step % len(batches)]
        loss = float(model.train_on_batch(*batch, return_dict=True)["loss"])
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss
        corrected = smoothed / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or corrected > DIVERGED * lowest:
            break
        if corrected < lowest:
            lowest, best = corrected, MIN_RATE * growth**step
    model.set_weights(weights)
    print(f"learning rate: {best / 10:.2g} (range test)", flush=True)
    return best / 10
