"""What depends on the machine: 16-bit arithmetic, the batch size; and the learning rate, found by trying a few steps."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from kerakit.errors import UserError

SIZES = (8, 16, 32, 64, 128, 256, 512)
"""The batch sizes that are tried."""
WORTH = 1.1
"""How many times more images a second a doubled batch must bring to be taken."""
STEPS_TIMED = 3

LOWEST, HIGHEST = 1e-6, 1.0
"""The learning rates that the range test goes through."""
RANGE_STEPS = 60
DIVERGED = 4.0
"""The range test ends where the smoothed loss is this many times its lowest."""
SMOOTHING = 0.9

Compile = Callable[[keras.Model, Any], None]


def has_accelerator() -> bool:
    """Whether there is a GPU or TPU that Keras computes on."""
    return any(not device.startswith("cpu") for device in keras.distribution.list_devices())


def use_half_precision(wanted: bool) -> None:
    """Let the models that are built from now on compute in float16, with weights in float32.

    Raises:
        UserError: there is no GPU or TPU. On CPUs it is slower (docs/decisions.md).
    """
    if wanted and not has_accelerator():
        raise UserError(
            "--mixed_precision is faster on a GPU only, and Keras sees none here. Leave it away."
        )
    keras.config.set_dtype_policy("mixed_float16" if wanted else "float32")


def find_batch_size(
    model: keras.Model, compile_with: Compile, targets: Callable[[int], Any]
) -> int:
    """Return the batch size beyond which steps bring hardly more images a second, or do not fit into memory.

    Args:
        model: what is trained.
        compile_with: compiles a model with an optimizer, for a few steps.
        targets: returns that many targets.
    """
    kept = model.get_weights()
    compile_with(model, "sgd")
    best, best_rate = SIZES[0], 0.0
    for size in SIZES:
        images = np.zeros((size, *model.input_shape[1:]), np.float32)
        try:
            model.train_on_batch(images, targets(size))  # traces, and warms up
            start = time.perf_counter()
            for _ in range(STEPS_TIMED):
                model.train_on_batch(images, targets(size))
            rate = STEPS_TIMED * size / (time.perf_counter() - start)
        except Exception as error:
            # The backends' own types of error have only this in common.
            if (
                not isinstance(error, MemoryError)
                and "RESOURCE_EXHAUSTED" not in f"{type(error)} {error}".upper()
            ):
                raise
            break
        if rate < WORTH * best_rate:
            break
        best, best_rate = size, rate
    model.set_weights(kept)
    print(
        f"batch size: {best}, at {best_rate:,.0f} images a second; a larger one brings little more, or does not fit.",
        flush=True,
    )
    return best


def find_learning_rate(model: keras.Model, compile_with: Compile, batches: Any) -> float:
    """Return a tenth of the learning rate at which the loss is lowest while the rate rises (Smith 2017, section 3.3).

    Args:
        model: what is trained.
        compile_with: compiles a model with an optimizer.
        batches: a Sequence of training batches.
    """
    kept = model.get_weights()
    growth = (HIGHEST / LOWEST) ** (1 / RANGE_STEPS)
    rates = keras.optimizers.schedules.ExponentialDecay(LOWEST, 1, growth)
    compile_with(model, keras.optimizers.AdamW(rates, global_clipnorm=1.0))
    smoothed, lowest, best = 0.0, math.inf, LOWEST
    for step in range(RANGE_STEPS):
        loss = float(model.train_on_batch(*batches[step % len(batches)], return_dict=True)["loss"])
        smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss
        corrected = smoothed / (1 - SMOOTHING ** (step + 1))
        if not math.isfinite(loss) or corrected > DIVERGED * lowest:
            break
        if corrected < lowest:
            lowest, best = corrected, LOWEST * growth**step
    model.set_weights(kept)
    print(f"learning rate: {best / 10:.2g}, a tenth of where the loss was lowest.", flush=True)
    return best / 10
