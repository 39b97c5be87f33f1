"""The phases of a training. CHANGE: how long, how fast, and which layers learn in each."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import keras
import numpy as np

import config
import kerakit
import loss
from datagen import BatchGenerator
from kerakit.training.callbacks import Lines, StopOnNaN
from kerakit.training.features import FeatureBatches, FeatureStore
from kerakit.training.split_model import below, split
from kerakit.training.throughput import SpeedVerdict
from kerakit.training.tune import find_batch_size, find_learning_rate

Phase = Literal["head", "finetune", "scratch"]

# The head learns in seconds, since what the backbone says of each image is computed once.
HEAD_EPOCHS = 20
# Fine-tuning: this share of the backbone's layers, from the pixels on, stays as ImageNet taught it. What they say of each
# image is computed once, too.
FROZEN_SHARE = 0.7
# With --jitter each training image is seen augmented in this many ways.
VIEWS = 4


@dataclass
class Training:
    """What the phases work on.

    Attributes:
        model: the whole model.
        train_data: the training images.
        val_data: the validation images.
        args: the flags.
        callbacks: of all phases.
        epoch: how many epochs there were so far.
    """

    model: keras.Model
    train_data: BatchGenerator
    val_data: BatchGenerator
    args: config.TrainConfig
    callbacks: list[Any]
    epoch: int = field(default=0, init=False)


def of(args: config.TrainConfig, weights: Literal["imagenet", "none"]) -> tuple[Phase, ...]:
    """Return the phases that ``args.schedule`` comes to, for a model with these pretrained weights or with --from_ckpt.

    "auto" is the head and then the upper layers on ImageNet weights; the upper layers alone where a run of theirs goes on,
    since its head has learnt; and all layers at once otherwise.

    Raises:
        UserError: a head alone has nothing to stand on.
    """
    schedule, checkpoint = args.schedule, args.from_ckpt
    if schedule == "auto":
        goes_on = (
            checkpoint is not None
            and checkpoint.is_dir()
            and "scratch" not in config.read(checkpoint).phases
        )
        schedule = "finetune" if weights == "imagenet" or goes_on else "scratch"
    if schedule == "finetune" and checkpoint is not None:
        return ("finetune",)
    if schedule != "scratch" and weights == "none" and checkpoint is None:
        raise kerakit.UserError(
            f"--schedule {schedule} trains on what a pretrained model says of the images, and this one starts from nothing. "
            "Leave it away, or give --from_ckpt."
        )
    return {"head": ("head",), "finetune": ("head", "finetune"), "scratch": ("scratch",)}[schedule]  # type: ignore[return-value]


def batch_size(args: config.TrainConfig, model: keras.Model) -> int:
    """Return --batch_size; where it is "auto", what steps of the whole model take best."""
    if args.batch_size != "auto":
        return args.batch_size

    def targets(count: int) -> Any:
        classes = model.output_shape[-1]
        numbers = np.arange(count) % classes
        return np.eye(classes, dtype=np.float32)[numbers] if args.mixup or args.cutmix else numbers

    return find_batch_size(
        model, lambda part, by: part.compile(by, **loss.options(part, args)), targets
    )


def run(todo: Sequence[Phase], training: Training) -> None:
    """Go through the phases in turn."""
    for name in todo:
        print(f"phase: {name}", flush=True)
        {"head": head, "finetune": finetune, "scratch": scratch}[name](training)


def head(training: Training) -> None:
    """Train what follows the layer "features" on what the backbone says of the images."""
    backbone, top = split(training.model)
    _fit_on_features(training, _store(backbone), top, HEAD_EPOCHS)


def finetune(training: Training) -> None:
    """Train the head and the upper layers of the backbone."""
    for layer in training.model.layers:
        # BatchNorm keeps ImageNet's statistics: those of a few batches of few images would be worse.
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    border = below(training.model, FROZEN_SHARE)
    if border is not None:
        lower, upper = split(training.model, border)
        store = _store(lower)
        if store.fits(training.train_data, _views(training)):
            _fit_on_features(training, store, upper, training.args.num_epochs)
            return
        lower.trainable = False
    _fit_on_images(training)


def scratch(training: Training) -> None:
    """Train all layers on images."""
    _fit_on_images(training)


def optimizer(learning_rate: float, steps: int, ema: float = 0) -> keras.optimizers.Optimizer:
    """Return AdamW whose step size rises over the first twentieth of ``steps``, then falls to 0 as a cosine does."""
    warm_up = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, max(1, steps - warm_up), warmup_target=learning_rate, warmup_steps=warm_up
    )
    average = {"use_ema": True, "ema_momentum": ema} if ema else {}
    return keras.optimizers.AdamW(schedule, weight_decay=1e-4, global_clipnorm=1.0, **average)


def _fit_on_features(
    training: Training, store: FeatureStore, upper: keras.Model, epochs: int
) -> None:
    validation = FeatureBatches(store, training.val_data, batch_size=256)
    batches = FeatureBatches(store, training.train_data, views=_views(training))
    _fit(training, upper, batches, validation, epochs, [Lines()], verbose=0)


def _fit_on_images(training: Training) -> None:
    data = training.train_data
    verdict = SpeedVerdict(data, cached=training.args.cache != "none")
    verbose = 1 if sys.stdout.isatty() else 2
    _fit(
        training,
        training.model,
        data,
        training.val_data,
        training.args.num_epochs,
        [verdict],
        verbose,
    )


def _fit(
    training: Training,
    part: keras.Model,
    batches: Any,
    validation: Any,
    epochs: int,
    more: list[Any],
    verbose: int,
) -> None:
    args = training.args
    rate = args.learning_rate
    if rate == "auto":
        rate = find_learning_rate(
            part, lambda model, by: model.compile(by, **loss.options(model, args)), batches
        )
    part.compile(optimizer(rate, epochs * len(batches), args.ema), **loss.options(part, args))
    # First, so that the other callbacks see the averages.
    average = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if args.ema else []
    history = part.fit(
        batches,
        validation_data=validation,
        initial_epoch=training.epoch,
        epochs=training.epoch + epochs,
        callbacks=[
            *average,
            batches.epoch_callback(),
            StopOnNaN(batches),
            *training.callbacks,
            *more,
        ],
        class_weight=_class_weights(training) if args.class_weights else None,
        shuffle=False,  # the batches own their order
        verbose=verbose,
    )
    training.epoch = history.epoch[-1] + 1


def _class_weights(training: Training) -> dict[int, float]:
    """Return what each image of a class counts, so that all classes count the same; 1 on average."""
    reader = training.train_data.data_reader
    if not isinstance(reader, kerakit.DataReader):
        raise kerakit.UserError(
            "--class_weights needs one class an image, as a DataReader gives it. Leave it away."
        )
    counts = reader.counts("train")
    return {
        i: len(training.train_data.index) / (len(counts) * max(int(count), 1))
        for i, count in enumerate(counts)
    }


def _store(lower: keras.Model) -> FeatureStore:
    return FeatureStore(lower, config.CACHE_DIR / "features")


def _views(training: Training) -> int:
    return VIEWS if training.args.jitter else 1
