"""The task and the reader of the guide "Your own task", in a project."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from kerakit.data.digits import write_digits
from kerakit.update import create_project
from projects import Project

GUIDE = Path(__file__).parents[1] / "docs/guides/task.md"


@pytest.fixture(scope="module")
def angles(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with the code of the guide, trained and exported."""
    project = Project(tmp_path_factory.mktemp("own") / "project")
    create_project(project.path)
    write_digits(project.path / "data")
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    lines = 0
    for name, start in (("task.py", '"""The task'), ("reader.py", '"""The reader')):
        (code,) = (block for block in blocks if block.startswith(start))
        (project.path / name).write_text(code)
        lines += len([line for line in code.splitlines() if line])
    assert lines <= 60
    trained = project.train("--learning_rate", 0.01, "--num_epochs", 2)
    assert trained.code == 0, trained.err
    return project


def test_a_new_kind_of_label_is_trained_and_evaluated(angles: Project) -> None:
    done = angles.call("evaluate.py", "--read_from", "progress/test")
    assert done.code == 0, done.err
    metrics = json.loads((angles.path / "progress/test/evaluation.json").read_text())["metrics"]
    assert metrics["mean_error"] < 60  # 90 by chance


def test_it_is_exported_to_int8_under_its_own_gate(angles: Project) -> None:
    done = angles.deploy("--formats", "int8", "--max_drop", 0.2)
    assert done.code == 0, done.out + done.err
    report = json.loads((angles.path / "deploy/test/report.json").read_text())
    assert report["main_metric"] == "within_10"
    assert report["formats"][0]["passed"] is True
    device = angles.path / "deploy/test/device"
    assert not (device / "classification.py").exists()
    image = next((angles.path / "data/7").iterdir())
    program = Project(device).run("predict.py", "--check", image)
    assert program.code == 0, program.out + program.err
    assert f"{image}: output " in program.out


def test_its_predictions_are_records(angles: Project) -> None:
    done = angles.call("predict.py", "--read_from", "progress/test", "data/3")
    assert done.code == 0, done.err
    rows = list(csv.DictReader(io.StringIO(done.out)))
    assert {row["label"] for row in rows} == {"dial"}
    assert all(0 <= float(row["angle"]) < 360 for row in rows)
