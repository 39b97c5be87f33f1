"""The verdict on speed names what really holds a training back."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import pytest

from kerakit import BatchGenerator, DataReader
from kerakit.data.decode import read_image
from kerakit.training.throughput import SpeedVerdict


class Slow(keras.callbacks.Callback):
    """A step that takes long; not a layer, since TensorFlow may run layers while it waits."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
        time.sleep(self._seconds)


@pytest.mark.parametrize(
    ("reading", "step", "verdict"),
    [(0.02, 0, "Reading holds it back"), (0, 0.05, "The step holds it back")],
)
def test_it_names_the_slower_one(
    photos: Path, capfd: pytest.CaptureFixture[str], reading: float, step: float, verdict: str
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
    more = [Slow(step), SpeedVerdict(generator, cached=False), generator.epoch_callback()]
    model.fit(generator, epochs=2, verbose=0, shuffle=False, callbacks=more)
    generator.close()
    said = capfd.readouterr().out
    assert verdict in said
    assert said.count("speed:") == 1
    assert ("--cache ram" in said) == (reading > 0)
