"""Deliver a trained model for devices, and prove what is delivered.

python deploy.py --read_from progress/test --save_to deploy/test
"""

import os
from functools import partial

import config
import kerakit
from kerakit import script
from kerakit.console import redirect_native_output

# TensorFlow Lite is made with TensorFlow, whatever the model was trained on.
os.environ["KERAS_BACKEND"] = "tensorflow"


def main(args: config.DeployConfig) -> None:
    """Deploy as ``args`` say."""
    run = kerakit.Run.open(args.read_from)
    trained = config.read(run)
    weights = run.best()

    with redirect_native_output():  # the start-up lines of TensorFlow
        import restore

    from datagen import ImageGenerator
    from kerakit.deploy import report
    from kerakit.deploy.edgetpu.compiled import refuse_other_files
    from kerakit.deploy.export import Deployment, deploy
    from kerakit.deploy.formats.base import Compiling
    from kerakit.deploy.quantization.calibration import calibration_images

    deployment = Deployment(args.save_to)
    deployment.check_new(args.overwrite)
    if args.edgetpu_compiled:
        refuse_other_files(args.edgetpu_compiled)

    # ---------------------------------------------------------------------------------------------------------- Data
    reader = restore.reader(trained, args.data_dir)
    held_out = restore.held_out(trained, reader)
    calibration = calibration_images(
        ImageGenerator(reader, trained.input_size, trained.seed), args.num_calibration
    )

    # -------------------------------------------------------------------------------------------------------- Deploy
    rows = deploy(
        restore.model(trained, weights),
        deployment,
        trained.class_names,
        calibration,
        held_out,
        formats=args.formats,
        max_drop=args.max_drop,
        edgetpu=Compiling(args.edgetpu_compiler, args.edgetpu_runtime, args.edgetpu_compiled),
        about={
            "run": str(run.path),
            "checkpoint": weights.name,
            "model": trained.model,
            "held_out": held_out.mode,
        },
        key=partial(held_out.key, 0),
    )
    report.show(rows, len(held_out.index))
    print(
        f"in {deployment.path}; all that was measured is in {deployment.report}, to look at in {deployment.page}"
    )
    if failed := [row.format for row in rows if row.status == "failed"]:
        raise kerakit.JobError(
            f"not delivered: {', '.join(failed)}. The reasons are above and in the report."
        )
    if below := [row.format for row in rows if row.measured and not row.measured.passed]:
        raise kerakit.JobError(
            f"{', '.join(below)}: more than --max_drop {args.max_drop:g} of the accuracy is lost. The files are kept, and "
            "marked in the report."
        )


if __name__ == "__main__":
    script.run(main, config.DeployConfig)
