"""What holds a training back: reading the images, or the step."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from kerakit.data.generator import BatchGenerator

WAITING = 0.2
"""The share of the first epoch spent waiting for batches from which on reading is what holds it back."""


class SpeedVerdict(keras.callbacks.Callback):
    """Say after the first epoch how many images a second are read and how many the step takes, and what to change.

    Args:
        generator: what is trained on.
        cached: whether decoded images are kept.
    """

    def __init__(self, generator: BatchGenerator, cached: bool) -> None:
        super().__init__()
        self._generator = generator
        self._cached = cached
        self._steps: list[float] = []
        self._said = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Start the clock."""
        self._begin = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Start the step's clock."""
        self._step = time.perf_counter()
        # The first steps trace the model and fill the queues.
        if batch == 2:
            self._generator.timer.reset()
            self._begin = self._step

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Stop it; after the last step of the first epoch, say what was seen."""
        self._steps.append(time.perf_counter() - self._step)
        if batch + 1 == len(self._generator) and not self._said and len(self._steps) > 4:
            self._said = True
            print(self._verdict(time.perf_counter() - self._begin), flush=True)

    def _verdict(self, seconds: float) -> str:
        generator, clock = self._generator, self._generator.timer
        # A step whose batch was there already took what steps take; others waited.
        step = generator.batch_size / float(np.quantile(self._steps[2:], 0.1))
        read = clock.images * generator.threads / max(clock.reading, 1e-9)
        now = (len(self._steps) - 2) * generator.batch_size / seconds
        if clock.waiting < WAITING * seconds:
            return (
                f"\nspeed: {now:,.0f} images a second. The step holds it back: it takes {step:,.0f}, while {read:,.0f} could "
                "be read. Faster: a smaller --model or --input_size, or a GPU."
            )
        advice = [] if self._cached else ["--cache ram, or disk where memory is short"]
        advice += ["a lighter get_aug_pipeline"] if generator.strength else []
        return (
            f"\nspeed: {now:,.0f} images a second. Reading holds it back: it gives {read:,.0f}, the step would take "
            f"{step:,.0f}. Faster: {', '.join([*advice, 'images that are stored at about the --input_size'])}."
        )
