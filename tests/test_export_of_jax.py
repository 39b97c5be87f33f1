"""Runs that were trained on JAX: the exported files compute what the models compute on JAX."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kerakit.deploy import ExportFolder, export_model
from kerakit.errors import UserError
from kerakit.tasks import Classification
from kerakit.tflite.convert import convert_float
from kerakit.tflite.runtime import load_tflite
from kerakit.update import TASKS
from projects import PROJECT, Project, edit, make_task_project, template_modules

ON_JAX = {**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}

TOLERANCE = 1e-4
"""Largest difference of an output, as a fraction of the largest output."""

# The beginning of predict.py, then the raw outputs of the images.
RAW = """
import numpy as np
pixels = np.stack([images.read_input(path) for path in paths])
outputs = deploy.keras_predict_fn(task.inference_model(model))(pixels)
outputs = outputs if isinstance(outputs, dict) else {"": outputs}
np.savez("raw.npz", pixels=pixels, **{f"output{name}": one for name, one in outputs.items()})
"""


def expect_equal(found: Any, expected: dict[str, Any]) -> None:
    found = found if isinstance(found, dict) else {"": found}
    for name, values in found.items():
        reference = expected[f"output{name}"]
        difference = np.abs(values - reference).max() / np.abs(reference).max()
        assert difference < TOLERANCE, (name, difference)


def run(project: Project, *words: object) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=project.path,
        env=ON_JAX,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.stdout, done.stderr)


def test_the_export_selects_its_backend_before_anything_imports_keras(tmp_path: Path) -> None:
    shutil.copy(PROJECT / "deploy.py", tmp_path)
    (tmp_path / "config.py").write_text("import os\nraise SystemExit(os.environ['KERAS_BACKEND'])")
    done = subprocess.run(
        [sys.executable, "deploy.py"],
        cwd=tmp_path,
        env=ON_JAX,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == "tensorflow\n"


def test_an_export_on_another_backend_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    with pytest.raises(UserError, match="the export needs the TensorFlow backend, not jax"):
        export_model(model, Classification(["a"]), ExportFolder(tmp_path / "a"), None, [])  # type: ignore[arg-type]
    assert not (tmp_path / "a").exists()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_run_of_jax_is_exported(task: str, tmp_path: Path) -> None:
    """Also where KERAS_BACKEND is still "jax", and the owner's config.py imports Keras."""
    project = make_task_project(tmp_path / "project", task, 60)
    size = "64,64" if task in ("segmentation", "keypoints", "detection") else "32,32"
    flags = ("--model", "small_cnn", "--input_size", size, "--batch_size", 8, "--num_epochs", 1)
    run(project, "train.py", "--save_to", "progress/test", *flags)
    script, _, _ = (project.path / "predict.py").read_text().partition("predictions = ")
    (project.path / "raw.py").write_text(script + RAW)
    run(project, "raw.py", "--read_from", "progress/test", "data")
    edit(project.path / "config.py", "\nimport kerakit\n", "\nimport keras\nimport kerakit\n")
    export = ("--save_to", "deploy/test", "--formats", "float32", "--max_drop", 1)
    run(project, "deploy.py", "--read_from", "progress/test", *export)
    with np.load(project.path / "raw.npz") as file:
        expected = dict(file)
    names = tuple(name.removeprefix("output") for name in expected if name != "pixels")
    names = names if names != ("",) else ()
    predict = load_tflite(project.path / "deploy" / "test" / "model_float32.tflite", names)
    expect_equal(predict(expected["pixels"]), expected)


MODELS = sorted(path.stem for path in (PROJECT / "models").glob("[!_]*.py"))

BUILD = """
import sys
import numpy as np
import keras
from kerakit.architecture import flatten_layers
from kerakit.deploy import keras_predict_fn
from kerakit.tasks import Classification
from projects import template_modules
folder, name = sys.argv[1:]
keras.utils.set_random_seed(0)
with template_modules() as load:
    model = load(f"models.{name}").construct((64, 64, 3), Classification(["a", "b"]))
pixels = np.random.default_rng(0).integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
for layer in flatten_layers(model):  # statistics of this batch, by which images differ
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.0
model(pixels, training=True)
model.save_weights(f"{folder}/{name}.weights.h5")
np.savez(f"{folder}/{name}.npz", pixels=pixels, output=keras_predict_fn(model)(pixels))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_each_model_computes_the_same_in_its_export_as_on_jax(name: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(tmp_path), name],
        env={**ON_JAX, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 0
    keras.backend.clear_session()
    with template_modules() as load:
        model = load(f"models.{name}").construct((64, 64, 3), Classification(["a", "b"]))
    model.load_weights(tmp_path / f"{name}.weights.h5")
    (tmp_path / "model.tflite").write_bytes(convert_float(model))
    with np.load(tmp_path / f"{name}.npz") as file:
        assert np.ptp(file["output"], axis=0).max() > 0.01
        expect_equal(load_tflite(tmp_path / "model.tflite")(file["pixels"]), dict(file))
