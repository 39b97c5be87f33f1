"""Export a trained model for devices, and verify every exported file.

python deploy.py --read_from progress/test --save_to deploy/test
"""

import kerakit

kerakit.exit_on_interrupt()  # Ctrl-C during the imports

import os
from functools import partial

# The converter requires the TensorFlow backend, whatever backend the model was trained with; set
# before anything imports Keras.
os.environ["KERAS_BACKEND"] = "tensorflow"

import config

args = kerakit.parse_args(config.DeployConfig, __doc__)
run = kerakit.Run.open(args.read_from)
trained = config.read(run)
weights = run.best()

with kerakit.quiet_startup():
    import keras  # noqa: F401

from datagen import BatchGenerator, ImageGenerator
from kerakit import deploy
from kerakit.data import describe_data, held_out_mode, restore_reader
from kerakit.models import build_model
from reader import DataReader
from task import get_task

deploy.check_push(args.push)
folder = deploy.ExportFolder(args.save_to, args.edgetpu_compiled)
folder.create(args.overwrite)
if args.edgetpu_compiled:
    deploy.check_compiled_file(args.edgetpu_compiled)

# ------------------------------------------------------------------------------------------- Data
reader = restore_reader(DataReader, run, trained, args.data_dir)
task = get_task(trained.class_names).restore(trained.task)
mode = held_out_mode(reader)  # "test", or "val" where there are no test images
held_out = BatchGenerator(
    reader, mode, input_size=trained.input_size, preprocessing=trained.preprocessing, task=task
)
images = ImageGenerator(reader, trained.input_size, trained.seed, trained.preprocessing)
calibration = deploy.select_calibration_images(images, args.num_calibration)

# ------------------------------------------------------------------------------------------ Model
model, _ = build_model(config.MODELS[trained.model], trained.input_size, task)
kerakit.load_weights(model, run.path)

# ----------------------------------------------------------------------------------------- Export
results = deploy.export_model(
    model,
    task,
    folder,
    calibration,
    held_out,
    formats=args.formats,
    max_drop=args.max_drop,
    edgetpu=deploy.EdgeTpuOptions(
        args.edgetpu_compiler, args.edgetpu_runtime, args.edgetpu_compiled
    ),
    info={
        "run": str(run.path),
        "checkpoint": weights.name,
        "model": trained.model,
        "held_out": mode,
        "data": describe_data(trained),
    },
    sample_name=partial(held_out.sample_key, 0),
    bundles=[args.bundle] if args.bundle else [],
)
deploy.print_results(results, len(held_out.index), args.max_drop)
print(f"Exported to {folder.path}. Report: {folder.page} (data: {folder.report})")
if failed := [result.format for result in results if result.status == "failed"]:
    raise kerakit.JobError(f"not exported: {', '.join(failed)}. See above and the report.")
if below := [result.format for result in results if result.passed is False]:
    raise kerakit.JobError(
        f"below the accuracy gate: {', '.join(below)} (--max_drop {args.max_drop:g}). The files "
        "are exported, and marked in the report."
    )
if args.push:
    print(f"Pushed to {deploy.push_export(folder, args.push)}")
