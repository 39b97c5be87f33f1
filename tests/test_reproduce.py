"""The record of a run, and ``kerakit reproduce``."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from kerakit.data import DataReader
from kerakit.errors import JobError, UserError
from kerakit.provenance import describe_code
from kerakit.reproduce import compare_records, compare_results, reproduce
from kerakit.run import Run
from projects import Project


def git(folder: Path, *words: str) -> None:
    names = ("-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run(["git", *names, *words], cwd=folder, check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_of_a_project_and_its_edits_are_recorded(tmp_path: Path) -> None:
    def describe() -> Any:
        return describe_code.__wrapped__(tmp_path)

    (tmp_path / "train.py").write_text("1")
    without = describe()
    assert (without["commit"], without["clean"]) == (None, None)
    git(tmp_path, "init")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    committed = describe()
    assert len(committed["commit"]) == 40
    assert committed["clean"] is True
    assert committed["sha256"] == without["sha256"]
    (tmp_path / "train.py").write_text("2")
    edited = describe()
    assert (edited["commit"], edited["clean"]) == (committed["commit"], False)
    assert edited["sha256"] != committed["sha256"]


def test_git_runs_no_program_of_a_repository(tmp_path: Path) -> None:
    git(tmp_path, "init")
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    git(tmp_path, "config", "core.fsmonitor", str(program))
    (tmp_path / "train.py").write_text("1")
    git(tmp_path, "-c", "core.fsmonitor=false", "add", "train.py")
    git(tmp_path, "-c", "core.fsmonitor=false", "commit", "-m", "first")
    (tmp_path / "ran").unlink(missing_ok=True)
    assert describe_code.__wrapped__(tmp_path)["commit"]
    assert not (tmp_path / "ran").exists()


def test_the_content_of_images_is_part_of_the_recipe(photos: Path) -> None:
    before = DataReader(photos).recipe()
    assert DataReader(photos).recipe() == before
    path = next(photos.glob("pear/*.png"))
    path.write_bytes(path.read_bytes() + b"\0")
    after = DataReader(photos).recipe()
    assert after["fingerprint"] == before["fingerprint"]
    assert after["content"] != before["content"]


def test_a_run_is_reproduced_to_the_bit(
    trained: Project, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = Run(trained.path / "progress" / "test")
    config = json.loads(run.config.read_text())
    record = config["provenance"]
    assert record["versions"]["backend"] == "tensorflow"
    assert set(record["versions"]) >= {"python", "kerakit", "keras", "numpy", "tensorflow"}
    assert {"--num_epochs=4", "--jitter", "--batch_size=4", "--seed=0"} <= set(record["flags"])
    # Another default in config.py does not change a run that is trained again.
    path = trained.path / "config.py"
    path.write_text(
        path.read_text().replace(
            "label_smoothing: float = Field(0.1", "label_smoothing: float = Field(0.2"
        )
    )
    again = Run(trained.path / "progress" / "again")
    reproduce(run.path, again.path)
    assert "equal to the bit" in capfd.readouterr().out
    causes = list(compare_records(run, again))
    assert [cause.split(" was ")[0] for cause in causes] == ["code sha256"]
    # Whatever differs is named.
    with h5py.File(again.best(), "r+") as file:
        names: list[str] = []
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
        name = next(name for name in names if file[name].ndim > 1)
        file[name][...] = np.asarray(file[name]) + 0.5
    index = json.loads(again.index.read_text())
    from kerakit.files import sha256

    index[0]["sha256"] = sha256(again.checkpoints / index[0]["file"])
    again.index.write_text(json.dumps(index))
    rows = again.read_history()
    rows[1]["loss"] += 1
    again.write_history(rows)
    found = list(compare_results(run, again))
    assert found[0].startswith("history.csv: from epoch 2 on loss (loss: ")
    assert "1 of" in found[1]
    assert "by at most 0.5" in found[1]
    with pytest.raises(UserError, match="already holds"):
        reproduce(run.path, again.path)


@pytest.mark.parametrize(
    "flags",
    [
        ["--save_to=/etc"],
        ["--overwrite"],
        ["--data_dir=/etc"],
        ["--track=wandb"],
        ["-c", "1"],
        ["evil.py"],
        [["--jitter"]],
        "--jitter",
        None,
        {"a": 1},
        ["--model=\0"],
    ],
)
def test_a_record_passes_no_other_flags(trained: Project, flags: Any) -> None:
    run = Run(trained.path / "progress" / "test")
    config = json.loads(run.config.read_text())
    config["provenance"]["flags"] = flags
    run.config.write_text(json.dumps(config))
    with pytest.raises(UserError, match="provenance"):
        reproduce(run.path, trained.path / "progress" / "again")
    assert not (trained.path / "progress" / "again").exists()


def test_a_training_that_fails_is_reported(trained: Project) -> None:
    (trained.path / "train.py").write_text("import sys; sys.exit(3)")
    with pytest.raises(JobError, match="exit code 3"):
        reproduce(trained.path / "progress" / "test", trained.path / "progress" / "again")
    done = subprocess.run(
        [sys.executable, "-m", "kerakit", "reproduce", "gone", "--save_to", "again"],
        capture_output=True,
        text=True,
        check=False,
        cwd=trained.path,
    )
    assert done.returncode == 2
    assert "there is no folder gone" in done.stderr
