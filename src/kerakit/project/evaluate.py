"""Evaluate a trained model on held-out images.

python evaluate.py --read_from progress/test
"""

import config
import kerakit

args = kerakit.parse_args(config.EvaluateConfig, __doc__)
run = kerakit.Run.open(args.read_from)
trained = config.read(run)
weights = run.best()

with kerakit.quiet_startup():
    import keras  # noqa: F401

from datagen import BatchGenerator
from kerakit import training
from kerakit.data import check_class_names, held_out_mode
from kerakit.models import build_model
from reader import DataReader
from task import get_task

reader = DataReader(args.data_dir or trained.data_dir, seed=trained.seed)
check_class_names(reader, trained.class_names)
task = get_task(trained.class_names)
held_out = BatchGenerator(
    reader,
    held_out_mode(reader),
    input_size=trained.input_size,
    preprocessing=trained.preprocessing,
    task=task,
)
model, _ = build_model(config.MODELS[trained.model], trained.input_size, task)
kerakit.load_weights(model, weights)
training.evaluate(model, task, held_out, run)
