"""How good a trained model is, class by class, on images that it was not trained on.

python evaluate.py --read_from progress/test
"""

import config
import kerakit
from kerakit import script
from kerakit.console import redirect_native_output


def main(args: config.EvaluateConfig) -> None:
    """Score the held-out images of a run."""
    run = kerakit.Run.open(args.read_from)
    trained = config.read(run)
    weights = run.best()

    with redirect_native_output():  # the start-up lines of TensorFlow
        import restore

    from kerakit.deploy.formats.keras import predictor
    from kerakit.deploy.gate import scores
    from kerakit.training.evaluation import judge

    held_out = restore.held_out(trained, restore.reader(trained, args.data_dir))
    predicted, targets = scores(predictor(restore.model(trained, weights)), held_out)
    judge(run, held_out, predicted, targets)


if __name__ == "__main__":
    script.run(main, config.EvaluateConfig)
