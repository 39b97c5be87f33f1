"""A batch size and a learning rate are found by trying, and nothing is left of it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from kerakit.training import tune
from projects import Project


class Batches(keras.utils.Sequence):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> tuple[Any, Any]:
        x = np.random.default_rng(i).standard_normal((32, 4, 4, 3)).astype(np.float32)
        return x, (x.mean(axis=(1, 2, 3)) > 0).astype(np.int32)


def model() -> keras.Model:
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


def test_the_learning_rate_that_is_found_learns_faster_than_a_tenth_or_a_hundred_times_of_it() -> (
    None
):
    tried = model()
    before = tried.get_weights()
    rate = tune.find_learning_rate(tried, compile_with, Batches())
    for a, b in zip(before, tried.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)

    def loss_after(rate: float) -> float:
        trained = model()
        compile_with(trained, keras.optimizers.AdamW(rate))
        return float(trained.fit(Batches(), epochs=8, verbose=0, shuffle=False).history["loss"][-1])

    found = loss_after(rate)
    assert found < loss_after(rate / 10)
    assert found < loss_after(min(1.0, rate * 100))


def test_the_batch_size_ends_where_memory_does(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = model()
    before = tried.get_weights()
    train = tried.train_on_batch

    def with_little_memory(images: Any, *rest: Any, **more: Any) -> Any:
        if len(images) > 64:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 byte")
        return train(images, *rest, **more)

    monkeypatch.setattr(tried, "train_on_batch", with_little_memory)
    monkeypatch.setattr(tune, "WORTH", 0)
    assert tune.find_batch_size(tried, compile_with, lambda count: np.arange(count) % 2) == 64
    for a, b in zip(before, tried.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_another_error_is_not_taken_for_a_lack_of_memory() -> None:
    with pytest.raises(ValueError, match="shape"):
        tune.find_batch_size(model(), compile_with, lambda count: np.zeros((count, 5)))


HALF = """
import runpy, sys
from kerakit.training import tune
tune.has_accelerator = lambda: True  # this CPU passes for a GPU: slow, and the same arithmetic
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
def test_half_precision_trains_what_full_precision_deploys(project: Project) -> None:
    flags = (
        "--model",
        "efficientnet_lite0",
        "--input_size",
        "32,32",
        "--num_epochs",
        1,
        "--mixed_precision",
    )
    result = project.run("train.py", "--save_to", "progress/test", *flags)
    assert result.code == 2
    assert "faster on a GPU only" in result.err
    result = project.run("-c", HALF, "--save_to", "progress/test", *flags)
    assert result.code == 0, result.err
    assert "epoch 21/21" in result.out
    result = project.deploy("--formats", "float32", "--max_drop", 1)
    assert result.code == 0, result.err
