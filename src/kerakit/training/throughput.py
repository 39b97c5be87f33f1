"""Training throughput: compute-bound or input-bound."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np

from kerakit import world
from kerakit.data.generator import BatchGenerator

INPUT_BOUND = 0.2
"""Smallest fraction of the epoch spent waiting for batches that counts as input-bound."""


class ThroughputMonitor(keras.callbacks.Callback):
    """Prints the throughput, the bottleneck and a way to speed up training after the first epoch.

    Args:
        generator: the training batches.

    Attributes:
        is_paused: whether the steps of the current epoch are not measured.

    >>> ThroughputMonitor(generator=None).on_epoch_begin(0)
    """

    def __init__(self, generator: BatchGenerator) -> None:
        super().__init__()
        self._generator = generator
        self._steps: list[float] = []
        self._is_reported = False
        self.is_paused = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Start the timer of the epoch."""
        self._epoch_start = time.perf_counter()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Start the timer of the step."""
        self._step_start = time.perf_counter()
        # The first steps trace the model and fill the queues.
        if batch == 2:
            self._generator.timer.reset()
            self._epoch_start = self._step_start

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        """Stop it; report after the last step of the first epoch."""
        if self.is_paused:
            return
        self._steps.append(time.perf_counter() - self._step_start)
        is_last = batch + 1 == len(self._generator)
        if is_last and not self._is_reported and len(self._steps) > 4:
            self._is_reported = True
            print(self._report(time.perf_counter() - self._epoch_start), flush=True)

    def _report(self, seconds: float) -> str:
        generator, timer = self._generator, self._generator.timer
        steps = self._steps[2:]
        rate = len(steps) * generator.batch_size / seconds
        now = f"\nthroughput: {rate:,.0f} images/s"
        # The fastest steps found their batch ready, so they took as long as the model does.
        model = generator.batch_size / float(np.quantile(steps, 0.1))
        pipeline = timer.images * generator.threads / max(timer.reading, 1e-9)
        pipeline *= world.current.size
        is_waiting = timer.waiting >= INPUT_BOUND * seconds
        # Batches that were read before the measurement hide a slow pipeline, so both must agree.
        if timer.images == 0 or is_waiting != (pipeline < model):
            return f"{now}. The epoch was too short to find the bottleneck."
        rates = f"(model {model:,.0f} images/s, input pipeline {pipeline:,.0f} images/s)"
        if not is_waiting:
            return (
                f"{now}, compute-bound {rates}. Faster: a smaller --model or --input_size, or a "
                "GPU."
            )
        advice = [] if generator.is_cached else ["--cache ram, or disk where memory is short"]
        advice += ["a simpler get_aug_pipeline"] if generator.strength else []
        advice += ["images stored at about the --input_size"]
        return f"{now}, input-bound {rates}. Faster: {', '.join(advice)}."
