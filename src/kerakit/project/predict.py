"""Predict images with a trained model; `kerakit predict RUN IMAGE ...` also calls this script.

python predict.py --read_from progress/test photo.jpg folder
"""

import kerakit

kerakit.exit_on_interrupt()  # Ctrl-C during the imports

import config

args = kerakit.parse_args(config.PredictConfig, __doc__)
run = kerakit.Run.open(args.read_from)
trained = config.read(run)
run.best()  # a run without a checkpoint fails here, before TensorFlow is imported

with kerakit.quiet_startup():
    import keras  # noqa: F401

from datagen import BatchGenerator
from kerakit import deploy
from kerakit.data import UnlabeledReader
from kerakit.models import build_model
from task import get_task

paths = deploy.find_images(args.images)
task = get_task(trained.class_names).restore(trained.task)
images = BatchGenerator(
    UnlabeledReader(paths, task.class_names),
    "test",
    input_size=trained.input_size,
    preprocessing=trained.preprocessing,
)
model, _ = build_model(config.MODELS[trained.model], trained.input_size, task)
kerakit.load_weights(model, run.path)
predictions = deploy.predict_images(
    deploy.keras_predict_fn(task.inference_model(model)),
    task,
    images.read_input,
    paths,
    args.top,
    images.place,
    args.draw,
)
if failed := deploy.write_predictions(predictions, args.as_json):
    raise kerakit.UserError(f"{failed} of {len(paths)} images were not predicted; see above.")
