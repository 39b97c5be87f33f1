"""Variables are created before the first step, which is then traced once, to the same weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kerakit.training import build_variables


class Counted(keras.Model):
    """Counts how often its step is traced."""

    traces = 0

    def train_step(self, data: Any) -> Any:
        self.traces += 1
        return super().train_step(data)


def make_model(kind: str, policy: str) -> Counted:
    keras.utils.set_random_seed(0)
    x = keras.Input((3,))
    layers = [keras.layers.Dense(2, dtype=policy, name=name)(x) for name in "ba"]
    outputs: dict[str, Any] = {
        "one": layers[0],
        "list": layers,
        "dict": dict(zip("ba", layers, strict=True)),
    }
    model = Counted(x, outputs[kind])
    count = 1 if kind == "one" else 2
    optimizer = keras.optimizers.Adam(use_ema=True)
    if policy == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    one: list[Any] = [["mse"] * count, [["mae"]] * count]
    losses: Any
    losses, metrics = (
        (dict(zip("ba", each, strict=True)) for each in one) if kind == "dict" else one
    )
    model.compile(optimizer, losses[0] if kind == "one" else losses, metrics=metrics)
    return model


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("kind", ["one", "list", "dict"])
def test_a_step_is_traced_once(kind: str, policy: str) -> None:
    x = np.random.default_rng(0).random((8, 3), np.float32)
    targets: Any = {
        "one": x[:, :2],
        "list": (x[:, :2], x[:, 1:]),
        "dict": {"a": x[:, :2], "b": x[:, 1:]},
    }
    results = []
    for is_built in (True, False):
        model = make_model(kind, policy)
        if is_built:
            build_variables(model, targets[kind])
            assert all(float(value) == 0 for value in model.get_metrics_result().values())
        history = model.fit(x, targets[kind], batch_size=4, epochs=2, verbose=0).history
        assert model.traces == (1 if is_built else 2)
        results.append((history, model.get_weights()))
    (history, weights), (history_of_keras, weights_of_keras) = results
    assert history == history_of_keras
    for a, b in zip(weights, weights_of_keras, strict=True):
        np.testing.assert_array_equal(a, b)
