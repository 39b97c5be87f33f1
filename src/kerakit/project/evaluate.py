"""How good a trained model is, class by class, on images that it was not trained on.

python evaluate.py --read_from progress/test
"""

import config
import kerakit
from kerakit import script
from kerakit.quiet import native_output


def main(args: config.EvaluateConfig) -> None:
    """Score the held-out images of a run."""
    run = kerakit.Run.open(args.read_from)
    trained = config.read(run)
    weights = run.best()

    with native_output():  # the start-up lines of TensorFlow
        import keras  # noqa: F401

    import numpy as np

    from datagen import BatchGenerator
    from kerakit.data.reader import expect_classes, held_out_mode
    from kerakit.deploy.evaluate import scores
    from kerakit.models import build
    from kerakit.run import load_weights
    from kerakit.training.judge import judge
    from reader import DataReader

    reader = DataReader(args.data_dir or trained.data_dir, seed=trained.seed)
    expect_classes(reader, trained.class_names)
    held_out = BatchGenerator(reader, held_out_mode(reader), input_size=trained.input_size)
    model, _ = build(config.MODELS[trained.model], trained.input_size, len(trained.class_names))
    load_weights(model, weights)
    predicted, targets = scores(lambda images: np.asarray(model.predict_on_batch(images), np.float32), held_out)
    judge(run, held_out, predicted, targets)


if __name__ == "__main__":
    script.run(main, config.EvaluateConfig)
