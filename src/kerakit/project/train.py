"""Train a model.

python train.py --save_to progress/test --num_epochs 10 --batch_size 8 --model mobilenet_v2 --input_size 224,224 --jitter
"""

from functools import partial

import config
import kerakit
import search
from kerakit import script
from kerakit.console import redirect_native_output


def main(args: config.TrainConfig) -> None:
    """Train as ``args`` say."""
    if args.trials:
        search.run(args)
        return
    run = kerakit.Run(args.save_to)
    run.check_new(args.overwrite)

    # Only now, since TensorFlow takes seconds to import: --help and wrong flags are answered at once.
    with redirect_native_output():  # the start-up lines of TensorFlow
        import keras

    import callbacks
    import loss
    import phases
    from datagen import BatchGenerator
    from kerakit.data.cache import open_cache
    from kerakit.data.reader import data_warnings
    from kerakit.deploy.edgetpu.target import advice
    from kerakit.models import build
    from kerakit.run import load_weights, resolve_weights
    from kerakit.training.session import session
    from kerakit.training.tune import use_half_precision
    from reader import DataReader

    keras.utils.set_random_seed(args.seed)
    use_half_precision(args.mixed_precision)

    # --------------------------------------------------------------------------------------------------------- Model
    reader = DataReader(args.data_dir, seed=args.seed)
    wanted = "none" if args.from_ckpt else args.weights
    model, weights = build(
        config.MODELS[args.model], args.input_size, len(reader.class_names), wanted
    )
    if args.from_ckpt:
        load_weights(model, resolve_weights(args.from_ckpt))
    loss.options(model, args)  # refuses a loss that does not fit before the run folder is touched
    todo = phases.of(args, weights)
    batch_size = phases.batch_size(args, model)
    args = args.model_copy(update={"batch_size": batch_size, "weights": weights})

    # ---------------------------------------------------------------------------------------------------------- Data
    cache = open_cache(args.cache, args.input_size, config.CACHE_DIR, args.cache_limit)
    mix = (
        kerakit.Mix(len(reader.class_names), args.mixup, args.cutmix)
        if args.mixup or args.cutmix
        else None
    )
    make = partial(
        BatchGenerator, reader, batch_size=batch_size, input_size=args.input_size, seed=args.seed
    )
    make = partial(make, read=cache, skip_unreadable=args.skip_unreadable, mix=mix)
    train_data = make(
        mode="train", jitter=args.jitter and args.jitter_strength, drop_last=args.drop_last
    )
    val_data = make(mode="val")
    print(
        f"{len(train_data.index)} images to train on, {len(val_data.index)} to validate, {len(reader.class_names)} classes."
    )
    for line in [*data_warnings(reader), *(advice(model) if args.target == "edgetpu" else [])]:
        print(f"WARNING: {line}")

    # --------------------------------------------------------------------------------------------------------- Train
    cb = callbacks.get(run.path, overwrite=args.overwrite, model=model, track=args.track)
    config.save(args.model_copy(update={"phases": todo, "class_names": reader.class_names}), run)
    training = phases.Training(model, train_data, val_data, args, cb)
    with session(run, (train_data, val_data), cb):
        train_data.visualize(0, run.plots / "train_batch.png")
        val_data.visualize(0, run.plots / "val_batch.png")
        phases.run(todo, training)

    print(f"trained: the best checkpoint is {run.best()}")
    print(f"next: {script.deploy_command(run)}")


if __name__ == "__main__":
    script.run(main, config.TrainConfig)
