"""The phases of a training. CHANGE: how long, how fast, and which layers learn in each."""

from __future__ import annotations

import sys
from typing import Any, Literal

import keras

import config
import kerakit
import loss
from datagen import BatchGenerator
from kerakit.training.features import LAYER, FeatureBatches, FeatureStore, split

Phase = Literal["head", "finetune", "scratch"]

# The head learns in seconds, since what the backbone says of each image is computed once: as many epochs as do it good.
HEAD_EPOCHS = 40
# With --jitter the backbone sees each training image augmented in this many ways.
HEAD_VIEWS = 4
# Fine-tuning changes what ImageNet taught: smaller steps, and the share of the layers at the end that learn.
FINETUNE_RATE = 0.1
FINETUNE_SHARE = 0.5

VERBOSE = 1 if sys.stdout.isatty() else 2


def of(schedule: str, origin: Literal["imagenet", "checkpoint", "none"]) -> tuple[Phase, ...]:
    """Return the phases of a ``--schedule`` for a model whose weights come from ``origin``.

    "auto" is the head alone on ImageNet weights, and all layers at once otherwise.

    Raises:
        UserError: a head alone has nothing to stand on.
    """
    if schedule == "auto":
        schedule = "head" if origin == "imagenet" else "scratch"
    if schedule != "scratch" and origin == "none":
        raise kerakit.UserError(
            f"--schedule {schedule} trains on what a pretrained model says of the images, and this one starts from nothing. "
            "Leave it away, or give --from_ckpt."
        )
    return {"head": ("head",), "finetune": ("head", "finetune"), "scratch": ("scratch",)}[schedule]  # type: ignore[return-value]


def head(
    model: keras.Model, train_data: BatchGenerator, val_data: BatchGenerator, args: config.TrainConfig, callbacks: list[Any]
) -> int:
    """Train what follows the layer "features" on what the backbone says of the images. Returns the last epoch."""
    backbone, top = split(model)
    store = FeatureStore(backbone, config.CACHE_DIR / "features")
    validation = store.compute(val_data)
    batches = FeatureBatches(store, train_data, views=HEAD_VIEWS if args.jitter else 1)
    top.compile(optimizer(args.learning_rate, HEAD_EPOCHS * len(batches)), **loss.options(top, args))
    callbacks = [batches.follow_epochs(), *callbacks]
    top.fit(batches, validation_data=validation, epochs=HEAD_EPOCHS, callbacks=callbacks, shuffle=False, verbose=VERBOSE)
    return HEAD_EPOCHS


def finetune(
    model: keras.Model,
    train_data: BatchGenerator,
    val_data: BatchGenerator,
    args: config.TrainConfig,
    callbacks: list[Any],
    after: int,
) -> None:
    """Train the head and the upper layers of the backbone on images, after epoch ``after``."""
    names = [layer.name for layer in model.layers]
    frozen = int(names.index(LAYER) * (1 - FINETUNE_SHARE))
    for layer in model.layers:
        # BatchNorm keeps ImageNet's statistics: those of a few batches of few images would be worse.
        layer.trainable = layer.name in names[frozen:] and not isinstance(layer, keras.layers.BatchNormalization)
    _fit(model, train_data, val_data, args, callbacks, args.learning_rate * FINETUNE_RATE, after)


def scratch(
    model: keras.Model, train_data: BatchGenerator, val_data: BatchGenerator, args: config.TrainConfig, callbacks: list[Any]
) -> None:
    """Train all layers on images."""
    _fit(model, train_data, val_data, args, callbacks, args.learning_rate, after=0)


def optimizer(learning_rate: float, steps: int) -> keras.optimizers.Optimizer:
    """Return AdamW whose step size rises over the first twentieth of ``steps``, then falls to 0 as a cosine does."""
    warm_up = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    return keras.optimizers.AdamW(schedule, weight_decay=1e-4, global_clipnorm=1.0)


def _fit(
    model: keras.Model,
    train_data: BatchGenerator,
    val_data: BatchGenerator,
    args: config.TrainConfig,
    callbacks: list[Any],
    learning_rate: float,
    after: int,
) -> None:
    model.compile(optimizer(learning_rate, args.num_epochs * len(train_data)), **loss.options(model, args))
    model.fit(
        train_data,
        validation_data=val_data,
        initial_epoch=after,
        epochs=after + args.num_epochs,
        callbacks=[train_data.follow_epochs(), *callbacks],
        shuffle=False,  # the generator owns the order
        verbose=VERBOSE,
    )
