"""A project on JAX, in processes that cannot import TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kerakit.data.ready import write_ready_data
from kerakit.update import TASKS, create_project
from projects import HIDE_TENSORFLOW


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that hides TensorFlow."""
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE_TENSORFLOW)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_training_and_evaluation_need_no_tensorflow(
    task: str, tmp_path: Path, hidden: Path
) -> None:
    """With averages of weights, whose arrays a prediction after an epoch must not delete."""
    project = tmp_path / "project"
    create_project(project, task)
    data = write_ready_data(task, project / "data", 60)

    def run(script: str, *flags: object, **variables: str) -> subprocess.CompletedProcess[str]:
        paths = (str(hidden), os.environ.get("PYTHONPATH"))
        return subprocess.run(
            [sys.executable, script, *map(str, flags)],
            cwd=project,
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(path for path in paths if path),
                "KERAS_BACKEND": "jax",
                **variables,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    size = "64,64" if task in ("segmentation", "keypoints", "detection") else "32,32"
    flags = ("--model", "small_cnn", "--input_size", size, "--batch_size", 8, "--data_dir", data)
    train = ("--save_to", "progress/test", "--ema", 0.9, "--num_epochs", 1, *flags)
    trained = run("train.py", *train)
    assert trained.returncode == 0, trained.stderr
    evaluated = run("evaluate.py", "--read_from", "progress/test")
    assert evaluated.returncode == 0, evaluated.stderr
    export = run("deploy.py", "--read_from", "progress/test", "--save_to", "deploy/test")
    assert export.returncode == 2
    assert "error: Keras's backend tensorflow, which an export needs, is not" in export.stderr
    assert "Or train and evaluate with KERAS_BACKEND=jax" in export.stderr
    assert not (project / "deploy").exists()
