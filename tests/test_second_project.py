"""An owner's changes: a model, a loss, an augmentation, a reader, two outputs."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest

from projects import FOCAL_LOSS, Project, edit, template_modules

MODEL = '''
"""A model of its own."""


def construct(input_shape, num_classes):
    import keras
    from keras import layers

    image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, offset=-1)(image)
    x = layers.SeparableConv2D(24, 3, strides=2, activation="relu6")(x)
    x = layers.GlobalMaxPooling2D()(x)
    return keras.Model(image, layers.Dense(num_classes, activation="softmax")(x), name="mine")
'''

TWO_OUTPUTS = '''
"""Two outputs: the class, and the brightness of the image."""


def construct(input_shape, num_classes):
    import keras
    from keras import layers

    image = keras.Input(input_shape)
    x = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(image))
    outputs = [layers.Dense(num_classes, activation="softmax")(x), layers.Dense(1)(x)]
    return keras.Model(image, outputs, name="two")
'''


TWO_TASK = """
from kerakit.tasks import Classification


class TwoOutputs(Classification):
    def check_model(self, model): ...

    def check_outputs(self, outputs): ...


TASK = TwoOutputs


def get_task(class_names):
    return TwoOutputs(class_names)
"""


def add_model(project: Project, name: str, source: str) -> None:
    (project.path / "models" / f"{name}.py").write_text(source)


def test_a_model_a_loss_and_an_augmentation_of_ones_own(project: Project) -> None:
    add_model(project, "mine", MODEL)
    with (project.path / "loss.py").open("a") as file:
        file.write(FOCAL_LOSS)
    datagen = project.path / "datagen.py"
    edit(
        datagen,
        "A.Erasing(scale=(0.02, 0.1), p=0.2 * s),",
        "A.Transpose(p=0.0), A.InvertImg(p=1.0),",
    )
    edit(
        datagen,
        "        return image, annot\n",
        "        assert image.dtype == np.uint8\n        return image, annot\n",
    )

    args = (
        "--model",
        "mine",
        "--loss",
        "focal",
        "--jitter",
        "--num_epochs",
        12,
        "--learning_rate",
        0.02,
    )
    trained = project.train(*args)
    assert trained.code == 0, trained.err
    assert "mine" in trained.out
    deployed = project.deploy()
    assert deployed.code == 0, deployed.err
    report = json.loads((project.path / "deploy" / "test" / "report.json").read_text())
    assert report["model"] == "mine"
    assert {row["status"] for row in report["formats"]} == {"exported", "skipped"}

    with template_modules(project.path) as load:
        reader, generator = load("reader").DataReader(), load("datagen").BatchGenerator
        plain, inverted = (
            generator(reader, "train", 4, (16, 12), jitter=jitter).load_batch(0)[0].mean()
            for jitter in (False, True)
        )
    assert abs(plain - inverted) > 20


READER = """
from pathlib import Path

import numpy as np


class DataReader:
    class_names = ("apple", "pear")

    def __init__(self, data, train_ratio=0.8, seed=0):
        self.files = sorted(Path(data).glob("*/*.png"))

    def __len__(self):
        return len(self.files)

    def key(self, i):
        return "/".join(self.files[i].parts[-2:])

    def image_path(self, i):
        return self.files[i]

    def target(self, i):
        return np.int32(self.files[i].parent.name == "pear")

    def indices(self, mode):
        start = {"train": 0, "val": 1, "test": len(self)}[mode]
        return np.arange(len(self))[start::2]
"""


def test_a_reader_of_ones_own(project: Project) -> None:
    """Just what the docstring of reader.py asks for, trained on and deployed."""
    (project.path / "reader.py").write_text(READER)
    trained = project.train()
    assert trained.code == 0, trained.err
    assert "30 training and 30 validation images" in trained.out
    deployed = project.deploy("--formats", "keras,int8", "--max_drop", 1)
    assert deployed.code == 0, deployed.err


def test_keys_that_are_not_unique_are_named(project: Project) -> None:
    path = project.path / "reader.py"
    path.write_text(READER)
    edit(path, '"/".join(self.files[i].parts[-2:])', "self.files[i].name")
    done = project.train()
    assert done.code == 2
    assert "two images of DataReader have the same key(i): '00.png'" in done.err


def test_several_outputs_with_weights(project: Project) -> None:
    add_model(project, "two", TWO_OUTPUTS)
    (project.path / "task.py").write_text(TWO_TASK)
    edit(
        project.path / "loss.py",
        "METRICS: list[list[str]] = []",
        'METRICS: list[list[str]] = [["accuracy"], ["mae"]]',
    )
    edit(
        project.path / "datagen.py",
        "        return image, annot\n",
        "        return image, (annot, np.float32(image.mean() / 255))\n",
    )

    args = (
        "--model",
        "two",
        "--loss",
        "sparse_categorical_crossentropy,mean_squared_error",
        "--jitter",
    )
    losses = []
    for weights in ("1,0", "0,1"):
        trained = project.train(*args, "--loss_weights", weights, "--overwrite")
        assert trained.code == 0, trained.err
        with (project.path / "progress" / "test" / "history.csv").open() as file:
            losses.append(
                {name: float(value) for name, value in next(csv.DictReader(file)).items()}
            )
    assert losses[0]["loss"] != losses[1]["loss"]
    assert any("mae" in name for name in losses[0])

    edit(project.path / "task.py", "return TwoOutputs(", "return Classification(")
    for done in (project.deploy(), project.train(*args, "--overwrite")):
        assert done.code == 2
        assert "classification" in done.err


@pytest.mark.parametrize(
    "tests",
    ["not test_every_model or small_cnn or mobilenet_v2", pytest.param("", marks=pytest.mark.slow)],
)
def test_the_owners_own_test_passes(project: Project, tests: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", tests],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "failed" not in done.stdout
