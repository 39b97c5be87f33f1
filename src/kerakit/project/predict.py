"""What a trained model says of photos. `kerakit predict RUN IMAGE ...` calls it, too.

python predict.py --read_from progress/test photo.jpg folder
"""

import config
import kerakit
from kerakit import script
from kerakit.console import redirect_native_output


def main(args: config.PredictConfig) -> None:
    """Print a line for each image."""
    run = kerakit.Run.open(args.read_from)
    trained = config.read(run)
    weights = run.best()

    with redirect_native_output():  # the start-up lines of TensorFlow
        import restore

    from kerakit.deploy.formats.keras import predictor
    from kerakit.deploy.predict import answers, images_in, write_answers

    paths = images_in(args.images)
    predict = predictor(restore.model(trained, weights))
    found = answers(predict, trained.input_size, list(trained.class_names), paths, args.top)
    if bad := write_answers(found, args.as_json):
        raise kerakit.UserError(
            f"{bad} of {len(paths)} images could not be read; they are named above."
        )


if __name__ == "__main__":
    script.run(main, config.PredictConfig)
