"""Deliver a trained model for devices, and prove what is delivered.

python deploy.py --read_from progress/test --save_to deploy/test
"""

import os

import config
import kerakit
from kerakit import script
from kerakit.quiet import native_output

# TensorFlow Lite is made with TensorFlow, whatever the model was trained on.
os.environ["KERAS_BACKEND"] = "tensorflow"


def main(args: config.DeployConfig) -> None:
    """Deploy as ``args`` say."""
    run = kerakit.Run.open(args.read_from)
    trained = config.read(run)
    weights = run.best()

    with native_output():  # the start-up lines of TensorFlow
        import keras  # noqa: F401

    from datagen import BatchGenerator, ImageGenerator
    from kerakit.data.reader import expect_classes, held_out_mode
    from kerakit.deploy import report
    from kerakit.deploy.calibration import calibration_images
    from kerakit.deploy.deploy import Deployment, deploy
    from kerakit.models import build
    from kerakit.run import load_weights
    from reader import DataReader

    deployment = Deployment(args.save_to)
    deployment.refuse_existing(args.overwrite)

    # ---------------------------------------------------------------------------------------------------------- Data
    reader = DataReader(args.data_dir or trained.data_dir, seed=trained.seed)
    expect_classes(reader, trained.class_names)
    held_out = BatchGenerator(reader, held_out_mode(reader), input_size=trained.input_size)
    calibration = calibration_images(ImageGenerator(reader, trained.input_size, trained.seed), args.num_calibration)

    # --------------------------------------------------------------------------------------------------------- Model
    model, _ = build(config.MODELS[trained.model], trained.input_size, len(trained.class_names))
    load_weights(model, weights)

    # -------------------------------------------------------------------------------------------------------- Deploy
    rows = deploy(
        model,
        deployment,
        trained.class_names,
        calibration,
        held_out,
        formats=args.formats,
        edgetpu_compiler=args.edgetpu_compiler,
        about={"run": str(run.path), "checkpoint": weights.name, "model": trained.model, "held_out": held_out.mode},
    )
    report.show(rows, len(held_out.index))
    print(f"in {deployment.path}; all that was measured is in {deployment.report}")
    if failed := [row.format for row in rows if row.status == "failed"]:
        raise kerakit.JobError(f"not delivered: {', '.join(failed)}. The reasons are above and in the report.")


if __name__ == "__main__":
    script.run(main, config.DeployConfig)
