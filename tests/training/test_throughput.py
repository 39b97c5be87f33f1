"""The throughput report names the real bottleneck."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import pytest

from kerakit.data import BatchGenerator, DataReader, read_image
from kerakit.training import ThroughputMonitor


class Slow(keras.callbacks.Callback):
    """A long step; not a layer, since TensorFlow may run layers while it waits."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
        time.sleep(self._seconds)


@pytest.mark.parametrize(
    ("reading", "step", "bottleneck"), [(0.02, 0, "input-bound"), (0, 0.05, "compute-bound")]
)
def test_the_bottleneck(
    photos: Path, capfd: pytest.CaptureFixture[str], reading: float, step: float, bottleneck: str
) -> None:
    def read(path: Path) -> Any:
        time.sleep(reading)
        return read_image(path, (20, 16))

    generator = BatchGenerator(DataReader(photos), "train", 4, (20, 16), threads=1, read=read)
    layers = [
        keras.Input((16, 20, 3)),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, "softmax"),
    ]
    model = keras.Sequential(layers)
    model.compile("sgd", "sparse_categorical_crossentropy")
    cb = [Slow(step), ThroughputMonitor(generator), generator.epoch_callback()]
    model.fit(generator, epochs=2, verbose=0, shuffle=False, callbacks=cb)
    generator.close()
    output = capfd.readouterr().out
    assert bottleneck in output
    assert output.count("throughput:") == 1


@pytest.mark.parametrize(
    ("images", "reading", "waiting", "step", "line"),
    [
        (0, 0.0, 0.0, 0.01, "too short"),  # all batches were read before
        (40, 1.0, 0.0, 0.01, "too short"),  # a slow pipeline that was ahead
        (40, 0.01, 0.5, 0.01, "too short"),  # a fast pipeline that was late
        (40, 1.0, 0.5, 0.01, "input-bound"),
        (40, 0.01, 0.0, 0.01, "compute-bound"),
    ],
)
def test_a_bottleneck_is_named_where_rates_and_waiting_agree(
    photos: Path, images: int, reading: float, waiting: float, step: float, line: str
) -> None:
    generator = BatchGenerator(DataReader(photos), "train", 4, (20, 16), threads=1)
    timer = generator.timer
    timer.images, timer.reading, timer.waiting = images, reading, waiting
    monitor = ThroughputMonitor(generator)
    monitor._steps = [step] * 12
    assert line in monitor._report(1.0)
