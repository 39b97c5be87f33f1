"""Train a model.

python train.py --save_to progress/test --num_epochs 10 --model mobilenet_v2 --jitter
"""

import kerakit

kerakit.exit_on_interrupt()  # Ctrl-C during the imports

import math
import sys
from functools import partial
from typing import Any

import config
from kerakit import training

# Flags are parsed before TensorFlow is imported: --help and invalid flags respond at once.
args = kerakit.parse_args(config.TrainConfig, __doc__)
training.check_trackers(args.track or ())
args = training.join_processes(args)  # of srun, mpirun, Kubernetes; usually there is one
run = kerakit.Run(args.save_to)
if args.trials:
    import search

    search.run(args)
    sys.exit()
state = training.TrainingState(run, args)  # with --resume: the state that was saved
args = state.args

with kerakit.quiet_startup():
    import keras

import callbacks
import loss
from datagen import BatchGenerator
from kerakit.data import Mix, Mosaic, data_warnings, open_cache, record_split
from kerakit.deploy import describe_unsupported, forecast_model
from kerakit.models import build_model
from reader import DataReader
from task import get_task

training.use_all_devices()
keras.utils.set_random_seed(args.seed)
training.set_mixed_precision(args.mixed_precision)

# ------------------------------------------------------------------------------------------- Data
reader = DataReader(args.data_dir, seed=args.seed)
task = get_task(reader.class_names).adapt(reader)
if args.class_weights:
    task.balance_classes(reader)
generator = partial(
    BatchGenerator,
    reader,
    input_size=args.input_size,
    jitter=args.jitter and args.jitter_strength,
    drop_last=args.drop_last,
    seed=args.seed,
    task=task,
    preprocessing=config.PREPROCESSING,
    read=open_cache(
        args.cache, args.input_size, config.CACHE_DIR, args.cache_limit, config.PREPROCESSING
    ),
    skip_unreadable=args.skip_unreadable,
    mix=Mix(task.soft_targets, args.mixup, args.cutmix) if args.mixup or args.cutmix else None,
)

# ------------------------------------------------------------------------------------------ Model
initial = "none" if args.from_ckpt or state.is_resumed else args.weights
model, weights = build_model(config.MODELS[args.model], args.input_size, task, initial)
if args.from_ckpt and not state.is_resumed:
    kerakit.load_weights(model, args.from_ckpt)


def compile_model(part: keras.Model, optimizer: keras.optimizers.Optimizer | str) -> None:
    """Compile the model, or the part of it that is trained."""
    part.compile(optimizer, **task.compile_options(part, args, loss.LOSSES, loss.METRICS))


# Outputs and loss are checked before the run folder is touched.
task.check_model(model)
compile_model(model, "sgd")
sample = generator(mode="train", batch_size=4, drop_last=False).load_batch(0)
training.check_batch(model, task, sample)
phases = args.phases  # of a resumed run
if not phases:
    checkpoint_phases = config.read_phases(args.from_ckpt)
    phases = training.select_phases(args.strategy, weights, checkpoint_phases, task.end_to_end)

batch_size = args.batch_size
if batch_size == "auto":
    batch_size = training.find_batch_size(model, compile_model, sample)
head_epochs = args.head_epochs or min(20, 2 * args.num_epochs)
# The last epochs are on images as they will be predicted.
mosaic_epochs = (head_epochs if "head" in phases else 0) + args.num_epochs * 3 // 4
generator = partial(generator, batch_size=batch_size, mosaic=Mosaic(args.mosaic, mosaic_epochs))
train_data, val_data = generator(mode="train"), generator(mode="val")
print(f"{len(train_data.index)} training and {len(val_data.index)} validation images")
warnings = describe_unsupported(forecast_model(model)) if args.target == "edgetpu" else []
for warning in [*data_warnings(reader, batch_size), *warnings]:
    print(f"WARNING: {warning}")

# --------------------------------------------------------------------------------------- Training
cb = callbacks.get(
    run.path, overwrite=args.overwrite, resume=state.is_resumed, model=model, track=args.track
)
recorded = {
    "weights": args.weights if state.is_resumed else weights,
    "phases": phases,
    "class_names": task.class_names,
    "task": task.spec(),
    "batch_size": batch_size,
    "preprocessing": config.PREPROCESSING,
    "split": record_split(reader, run, args.split),
    "architecture": kerakit.fingerprint(model),
}
state.attach(model, recorded)
config.save(args.model_copy(update=recorded), run)


def fit(part: keras.Model, data: Any, val: Any) -> None:
    """Compile and fit the model, or the part of it above frozen layers."""
    rate = args.learning_rate
    if rate == "auto":
        find = partial(training.find_learning_rate, part, compile_model, data)
        rate = state.recall("learning_rate", find)
    steps = state.phase_epochs * len(data)
    warm_up = max(1, steps // 20)

    def schedule(step: int) -> float:
        """Linear warm-up over a twentieth of the steps, then cosine decay towards 0."""
        decay = 0.5 + 0.5 * math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up))
        return rate * ((step + 1) / warm_up if step < warm_up else decay)

    ema = {"use_ema": True, "ema_momentum": args.ema} if args.ema else {}
    optimizer = keras.optimizers.AdamW(rate, weight_decay=1e-4, global_clipnorm=1.0, **ema)
    compile_model(part, optimizer)
    training.build_variables(part, sample[1])
    # The swap comes first, so that the other callbacks see the averaged weights.
    swap = [keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if args.ema else []
    on_images = data is train_data
    progress = training.ThroughputMonitor(data) if on_images else training.EpochLogger()
    part.fit(
        state.remaining(training.apply_sample_weights(data)),
        validation_data=val,
        initial_epoch=state.first_epoch,
        epochs=state.last_epoch,
        callbacks=state.callbacks(
            [
                *(*swap, training.StepScheduler(schedule), data.epoch_callback()),
                *(training.FailOnNaN(data), training.TaskMetrics(task, val), *cb, progress),
            ]
        ),
        shuffle=False,  # the dataset shuffles itself
        verbose=(1 if sys.stdout.isatty() else 2) if on_images else 0,
    )


def fit_above(frozen: keras.Model, part: keras.Model) -> None:
    """Fit the part above frozen layers on cached features, or on images where these differ."""
    store = training.FeatureStore(frozen, config.CACHE_DIR / "features")
    # Augmented or mixed versions of each training image.
    views = 4 if args.jitter or args.mixup or args.cutmix else 1
    if features := store.datasets(train_data, val_data, views):
        fit(part, *features)
    else:
        frozen.trainable = False
        fit(model, train_data, val_data)


with training.training_session(run, (train_data, val_data), cb, state):
    train_data.visualize(0, run.plots / "train_batch.png")
    val_data.visualize(0, run.plots / "val_batch.png")
    print(f"phases: {', '.join(phases)}", flush=True)
    # Phases that a resumed run has completed are skipped.
    if "head" in phases and state.begin("head", head_epochs):
        fit_above(*training.split_at(model, "features"))
    if "finetune" in phases and state.begin("finetune", args.num_epochs):
        model.trainable = True
        for layer in training.backbone_layers(model):
            # After the head, BatchNorm stays frozen: pretrained statistics are better than those of
            # small batches.
            is_batch_norm = isinstance(layer, keras.layers.BatchNormalization)
            layer.trainable = task.end_to_end or not is_batch_norm
        split = None if task.end_to_end else training.find_split(model, task.frozen)
        if split:
            fit_above(*training.split_at(model, split))
        else:
            training.freeze_lower(model, task.frozen)
            fit(model, train_data, val_data)
    if "scratch" in phases and state.begin("scratch", args.num_epochs):
        fit(model, train_data, val_data)

if training.choose_thresholds(model, task, val_data, run):
    config.save(args.model_copy(update={**recorded, "task": task.spec()}), run)
state.complete()
print(f"best checkpoint: {run.best()}\nnext: {kerakit.deploy_command(run)}")
