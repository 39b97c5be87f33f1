"""Which weights a model starts from, and that this is said and recorded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import keras
import pytest

from fork_server import ForkServer
from kerakit import UserError
from kerakit.models import ModelFiles, build_model
from kerakit.tasks import Classification
from projects import PROJECT, Project, Result, edit

Python = Callable[[str], Result]

# A proxy for urllib's downloads where nobody listens, so that no machine can download anything.
NO_NETWORK = {
    "https_proxy": "http://127.0.0.1:9",
    "http_proxy": "http://127.0.0.1:9",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}

FILES = {
    "mobilenet_v1": ("MobileNet", "mobilenet_1_0_224_tf_no_top.h5"),
    "mobilenet_v2": (
        "MobileNetV2",
        "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5",
    ),
}


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ForkServer, Path]]:
    """Processes without a network, and the folder of Keras's downloads, which Keras reads once."""
    home = tmp_path_factory.mktemp("keras")
    server = ForkServer(**NO_NETWORK, KERAS_HOME=str(home))
    yield server, home
    server.close()


@pytest.fixture
def keras_home(offline: tuple[ForkServer, Path]) -> Path:
    """The folder of Keras's downloads, empty."""
    shutil.rmtree(offline[1])
    offline[1].mkdir()
    return offline[1]


@pytest.fixture
def python(offline: tuple[ForkServer, Path], keras_home: Path, tmp_path: Path) -> Python:
    """A function that runs its argument in the template."""
    script = tmp_path / "source.py"

    def run(source: str) -> Result:
        script.write_text(f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n{source}")
        return offline[0].run(tmp_path, script.name)

    return run


@pytest.mark.parametrize("name", FILES)
def test_imagenet_weights_that_are_there_are_used(
    name: str, python: Python, keras_home: Path
) -> None:
    """Random weights stand in ImageNet's file; what matters is that they arrive in the model."""
    application, file = FILES[name]
    (keras_home / "models").mkdir()
    result = python(
        f"""
import h5py, keras, numpy as np
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group
from kerakit.models import build_model
from kerakit.tasks import Classification
from models import {name}
source = keras.applications.{application}(input_shape=(64, 48, 3), include_top=False, weights=None)
with h5py.File(r"{keras_home}/models/{file}", "w") as stored:
    save_weights_to_hdf5_group(stored, source)
model, weights = build_model({name}.construct, (48, 64), Classification("abcde"), "auto")
assert weights == "imagenet", weights
for a in source.weights:
    same = [b for b in model.weights if b.path == a.path]
    np.testing.assert_array_equal(a.numpy(), same[0].numpy())
print("all there")
"""
    )
    assert "all there" in result.out, result.err


@pytest.mark.parametrize("name", FILES)
def test_weights_that_cannot_be_fetched_are_said_in_one_loud_line(
    name: str, python: Python
) -> None:
    result = python(
        f"from kerakit.models import build_model; from kerakit.tasks import Classification; "
        f"from models import {name}; task = Classification('ab'); "
        f"print('started from', build_model({name}.construct, (32, 32), task, 'auto')[1])"
    )
    assert f"WARNING: the ImageNet weights of {name}" in result.out
    assert "TRAINING FROM SCRATCH" in result.out
    assert "started from none" in result.out, result.err


def test_a_download_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "source.bin"
    source.write_bytes(bytes(3_400_000))

    def construct(
        input_shape: tuple[int, int, int], task: Classification, weights: str | None = None
    ) -> keras.Model:
        print("printed by construct: 1/2")
        if weights:
            keras.utils.get_file("copy.bin", origin=source.as_uri(), cache_dir=str(tmp_path))
        image = keras.Input(input_shape)
        return keras.Model(image, task.head(image))

    build_model(construct, (32, 32), Classification("ab"), "auto")
    name = construct.__module__.rsplit(".", 1)[-1]
    assert capsys.readouterr().out == (
        f"printed by construct: 1/2\ndownloading the ImageNet weights of {name}: 3.4 MB\n"
    )


@pytest.mark.usefixtures("keras_home")
def test_weights_that_were_asked_for_and_cannot_be_fetched_are_an_error(
    project: Project, offline: tuple[ForkServer, Path]
) -> None:
    flags = ("--model", "mobilenet_v2", "--input_size", "32,32", "--weights", "imagenet")
    result = offline[0].run(project.path, "train.py", "--save_to", "progress/test", *flags)
    assert result.code == 2
    assert "mobilenet_v2" in result.err
    assert "--weights none" in result.err
    assert not (project.path / "progress").exists()


def test_what_a_run_started_from_is_recorded(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in NO_NETWORK.items():
        monkeypatch.setenv(name, value)
    fetch = 'keras.utils.get_file("none.h5", origin="http://none.invalid/none.h5")'
    edit(project.path / "models/tiny.py", "input_shape, task", "input_shape, task, weights=None")
    edit(
        project.path / "models/tiny.py",
        "    image = ",
        f"    if weights:\n        {fetch}\n    image = ",
    )
    result = project.train("--weights", "auto")
    assert result.code == 0, result.err
    assert "TRAINING FROM SCRATCH" in result.out
    config = json.loads((project.path / "progress" / "test" / "config.json").read_text())
    assert config["weights"] == "none"


def test_a_file_that_cannot_be_imported_is_no_model(tmp_path: Path) -> None:
    for name in ("my-net.py", "v1.5.py", "_shared.py"):
        (tmp_path / name).touch()
    assert list(ModelFiles(tmp_path)) == ["my-net"]


def _two_inputs(shape: tuple[int, int, int]) -> keras.Model:
    images = keras.Input(shape), keras.Input(shape)
    return keras.Model(images, keras.layers.Add()(images))


def _named(shape: tuple[int, int, int], name: str) -> keras.Model:
    inner = keras.Sequential([keras.Input(shape), keras.layers.Conv2D(2, 3, name=name)])
    return keras.Sequential([keras.Input(shape), inner, keras.layers.Flatten()])


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _: None, "returned NoneType"),
        (_two_inputs, "has 2 inputs"),
        (partial(_named, name="conv (1)"), r"conv \(1\)"),
        (partial(_named, name="größe"), "größe"),
    ],
)
def test_a_model_that_cannot_be_trained_is_an_error(
    make: Callable[[tuple[int, int, int]], keras.Model], reason: str
) -> None:
    def construct(input_shape: tuple[int, int, int], task: Classification) -> keras.Model:
        return make(input_shape)

    with pytest.raises(UserError, match=reason):
        build_model(construct, (8, 8), Classification(["cat", "dog"]))


def test_the_channels_are_last_whatever_keras_json_says() -> None:
    def construct(input_shape: tuple[int, ...], task: Classification) -> keras.Model:
        image = keras.Input(input_shape)
        x = keras.layers.Conv2D(5, 3)(image)
        return keras.Model(image, task.head(keras.layers.GlobalAveragePooling2D()(x)))

    keras.config.set_image_data_format("channels_first")
    try:
        model, _ = build_model(construct, (16, 12), Classification(["a", "b"]))
    finally:
        keras.config.set_image_data_format("channels_last")
    assert model.layers[1].output.shape == (None, 10, 14, 5)
