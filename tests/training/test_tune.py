"""Batch size and learning rate are found on real steps, and the weights are restored."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kerakit.training import tune
from projects import Project


class Batches(keras.utils.PyDataset):
    def __init__(self) -> None:
        super().__init__()

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        x = np.random.default_rng(i).standard_normal((32, 4, 4, 3)).astype(np.float32)
        return x, (x.mean(axis=(1, 2, 3)) > 0).astype(np.int32)


def make_model() -> keras.Model:
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4, 4, 3)),
        keras.layers.Flatten(),
        keras.layers.Dense(16, "relu"),
        keras.layers.Dense(2, "softmax"),
    ]
    return keras.Sequential(layers)


def compile_with(model: keras.Model, optimizer: Any) -> None:
    model.compile(optimizer, "sparse_categorical_crossentropy")


def expect_weights(model: keras.Model, weights: list[Any]) -> None:
    for a, b in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_found_learning_rate_beats_a_smaller_and_a_larger_one() -> None:
    model = make_model()
    weights = model.get_weights()
    rate = tune.find_learning_rate(model, compile_with, Batches())
    expect_weights(model, weights)

    def loss_after(rate: float) -> float:
        trained = make_model()
        compile_with(trained, keras.optimizers.AdamW(rate))
        return float(trained.fit(Batches(), epochs=8, verbose=0, shuffle=False).history["loss"][-1])

    found = loss_after(rate)
    assert found < loss_after(rate / 10)
    assert found < loss_after(min(1.0, rate * 100))


def test_the_batch_size_is_limited_by_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    weights = model.get_weights()
    train = model.train_on_batch

    def with_little_memory(images: Any, *rest: Any, **more: Any) -> Any:
        if len(images) > 64:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte")
        return train(images, *rest, **more)

    monkeypatch.setattr(model, "train_on_batch", with_little_memory)
    monkeypatch.setattr(tune, "MIN_SPEEDUP", 0)
    assert tune.find_batch_size(model, compile_with, Batches()[0]) == 64
    expect_weights(model, weights)


def test_another_error_is_not_a_lack_of_memory() -> None:
    with pytest.raises(ValueError, match="shape"):
        tune.find_batch_size(make_model(), compile_with, (Batches()[0][0], np.zeros((32, 5))))


FAKE_GPU = """
import runpy, sys
from kerakit import machine
machine.has_accelerator = lambda: True  # slow on this CPU, and the same arithmetic
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_a_model_of_mixed_precision_is_exported_in_float32(project: Project) -> None:
    size = ("--model", "efficientnet_lite0", "--input_size", "32,32")
    flags = (*size, "--num_epochs", 1, "--head_epochs", 2, "--mixed_precision")
    result = project.run("train.py", "--save_to", "progress/test", *flags)
    assert result.code == 2
    assert "--mixed_precision" in result.err
    result = project.run("-c", FAKE_GPU, "--save_to", "progress/test", *flags)
    assert result.code == 0, result.err
    assert "epoch 3/3" in result.out
    result = project.deploy("--formats", "float32", "--max_drop", 1)
    assert result.code == 0, result.err
