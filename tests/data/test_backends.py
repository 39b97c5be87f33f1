"""A real fit consumes the generator's batches, each once and in order, on every backend."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from fork_server import ForkServer
from kerakit.data import BatchGenerator, DataReader
from projects import Project

EPOCHS = 3


@pytest.mark.parametrize(
    "backend", ["tensorflow", "jax", pytest.param("torch", marks=pytest.mark.slow)]
)
def test_fit_consumes_each_batch_once_and_in_order(
    photos: Path, backend: str, server: ForkServer
) -> None:
    script, folder = Path(__file__).with_name("fit_trace.py"), photos.parent
    if backend == "tensorflow":
        done = server.run(folder, str(script), photos, EPOCHS)
    else:
        environment = {**os.environ, "KERAS_BACKEND": backend}
        done = Project(folder).run(str(script), photos, EPOCHS, environment=environment)
    assert done.code == 0, done.err
    traced = json.loads(done.out.splitlines()[-1])
    assert traced["backend"] == backend
    reader = DataReader(photos)
    reader.target = lambda i: np.float32(i + 1)  # type: ignore[method-assign,assignment,return-value]
    generator = BatchGenerator(reader, "train", 8, (20, 16), seed=7)
    expected = []
    for epoch in range(EPOCHS):
        generator.epoch = epoch
        for images, targets in (generator[i] for i in range(len(generator))):
            expected.append(-(targets[:, None] * images.mean(axis=(1, 2)) / 255).mean(axis=0))
    generator.close()
    assert len(expected) == EPOCHS * len(generator)
    np.testing.assert_allclose(traced["steps"], expected, rtol=1e-3, atol=2e-3)
    assert len({tuple(np.round(step, 2)) for step in expected}) == len(expected)
