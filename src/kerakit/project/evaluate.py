"""Evaluate a trained model on held-out images; `kerakit check --labels RUN` also calls this script.

python evaluate.py --read_from progress/test
"""

import kerakit

kerakit.exit_on_interrupt()  # Ctrl-C during the imports

import sys
from functools import partial

import config
from kerakit import training

args = kerakit.parse_args(config.EvaluateConfig, __doc__)
args = training.join_processes(args)  # of srun, mpirun, Kubernetes; usually there is one
run = kerakit.Run.open(args.read_from)
trained = config.read(run)
run.best()  # a run without a checkpoint fails here, before TensorFlow is imported

with kerakit.quiet_startup():
    import keras  # noqa: F401

from datagen import BatchGenerator
from kerakit.data import held_out_mode, restore_reader
from kerakit.models import build_model
from reader import DataReader
from task import get_task

training.use_all_devices()
reader = restore_reader(DataReader, run, trained, args.data_dir)
task = get_task(trained.class_names).restore(trained.task)
batches = partial(
    BatchGenerator,
    reader,
    input_size=trained.input_size,
    preprocessing=trained.preprocessing,
    task=task,
)
build = partial(build_model, config.MODELS[trained.model], trained.input_size, task)
if args.check_labels:
    cache = config.CACHE_DIR / "features"
    training.check_labels(run, trained.weights, build, batches, args.check_labels, cache)
    sys.exit()
model, _ = build()
kerakit.load_weights(model, run.path)
training.evaluate(model, task, batches(mode=held_out_mode(reader)), run)
