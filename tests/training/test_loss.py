"""Label smoothing in the project's losses, for targets of every shape that Keras's own cross-entropy takes."""

from __future__ import annotations

import subprocess
import sys

from projects import Project

CHECK = """
import sys, keras, numpy as np
import loss
rng = np.random.default_rng(0)
for shape in ((6,), (6, 1), (2, 3, 4)):
    given = rng.integers(0, 5, shape)
    numbers = given[..., 0] if shape[-1] == 1 else given
    scores = rng.random((*numbers.shape, 5)).astype("float32")
    scores /= scores.sum(-1, keepdims=True)
    wanted = -(np.eye(5)[numbers] * 0.8 + 0.04) * np.log(scores)
    model = keras.Sequential([keras.Input(scores.shape[1:]), keras.layers.Activation("linear")])
    plain = -np.log(np.take_along_axis(scores, numbers[..., None], -1))[..., 0]
    for smoothing, expected in ((0.2, wanted.sum(-1)), (0, plain)):
        options = loss.compile_options(model, ["sparse_categorical_crossentropy"], smoothing=smoothing)
        np.testing.assert_allclose(options["loss"](given, scores), expected, rtol=1e-5)
    model.compile("sgd", **loss.compile_options(model, ["sparse_categorical_crossentropy"], smoothing=0.2))
    seen = model.evaluate(scores, given, verbose=0, return_dict=True)
    np.testing.assert_allclose(seen["accuracy"], np.mean(scores.argmax(-1) == numbers), rtol=1e-5)
    shares = loss.compile_options(model, ["sparse_categorical_crossentropy"], shares=True, smoothing=0.2)["loss"]
    np.testing.assert_allclose(shares(np.eye(5, dtype="float32")[numbers], scores), wanted.sum(-1), rtol=1e-5)
print("CHECKED")
"""


def test_smoothed_targets_have_the_loss_of_the_formula(project: Project) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECK], cwd=project.path, capture_output=True, text=True, check=False
    )
    assert "CHECKED" in done.stdout, done.stderr
