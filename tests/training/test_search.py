"""A search of flags: what it leaves, and how it goes on after kills, Ctrl-C, failures and other flags."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kerakit.run import Run
from projects import Project

# Real processes, and real runs but for the weights: a training that takes no time.
TRAIN = """
import time
from dataclasses import asdict
from pathlib import Path

import kerakit
from kerakit import script
from kerakit.files import write_json
from kerakit.run import Checkpoint
from kerakit.training.search import Search


class Flags(kerakit.Config):
    save_to: Path
    trials: int = 0
    overwrite: bool = False
    seed: int = 0
    rate: float = 0.1
    kind: str = "plain"


def suggest(trial, args):
    flags = {"rate": trial.suggest_float("rate", 0.001, 1, log=True)}
    if "kind" not in args.model_fields_set:
        flags["kind"] = trial.suggest_categorical("kind", ("plain", "odd"))
    return flags


def main(args):
    if args.trials:
        Search(args, suggest, "val_accuracy", True).run()
        return
    run = kerakit.Run(args.save_to).create(args.overwrite)
    args.save(run.config)
    (run.path / "started").touch()
    while args.save_to.name == "trial_001" and Path("hold").exists():
        time.sleep(0.02)
    print("training", flush=True)
    if args.kind == "odd":
        raise kerakit.JobError("the loss became nan")
    run.write_history([{"epoch": 1, "val_accuracy": 2.0}, {"epoch": 2, "val_accuracy": 1 - args.rate}])
    write_json(run.index, [asdict(Checkpoint("of-epoch-2", 2, args.rate, "0" * 64))])


if __name__ == "__main__":
    script.run(main, Flags)
"""


@pytest.fixture
def quick(tmp_path: Path) -> Project:
    (tmp_path / "train.py").write_text(TRAIN)
    return Project(tmp_path)


def trials(project: Project, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((project.path / name / "search.json").read_text())[
        "trials"
    ]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in found]


def start(project: Project, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", *args],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background may have it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def wait_for(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.02)


def test_a_search_that_was_killed_ends_as_one_that_was_not(quick: Project) -> None:
    assert quick.run("train.py", "--save_to", "whole", "--trials", 4).code == 0
    (quick.path / "hold").touch()
    killed = start(quick, "--save_to", "killed", "--trials", "4")
    wait_for((quick.path / "killed" / "trial_001" / "started").exists)
    killed.kill()
    killed.communicate()
    # The trial goes on until it has something to say, and meanwhile nobody may train in its folder.
    again = start(quick, "--save_to", "killed", "--trials", "4")
    assert again.stdout is not None
    assert "waiting for another search in killed" in again.stdout.readline()
    assert len(trials(quick, "killed")) == 1
    (quick.path / "hold").unlink()
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "killed: 1 of 4 trials have ended before" in out
    assert trials(quick, "killed") == trials(quick, "whole")


def test_ctrl_c_ends_the_trial_and_the_same_command_goes_on(quick: Project) -> None:
    (quick.path / "hold").touch()
    search = start(quick, "--save_to", "search", "--trials", "2", "--kind", "plain")
    wait_for((quick.path / "search" / "trial_001" / "started").exists)
    os.kill(search.pid, signal.SIGINT)
    out, err = search.communicate(timeout=120)
    assert search.returncode == 130, err
    assert "interrupted: 1 of 2 trials have ended" in err
    assert "Traceback" not in out + err
    assert "1 of 1 trials ended well" in out
    # The trial has ended with the search, though nothing told it to but the search; it did not fail, so it is done again.
    (quick.path / "hold").unlink()
    again = quick.run("train.py", "--save_to", "search", "--trials", 2, "--kind", "plain")
    assert again.code == 0, again.err
    assert "waiting" not in again.out
    assert [trial["error"] for trial in trials(quick, "search")] == [None, None]


def test_failures_are_told_and_the_best_one_is_named(quick: Project) -> None:
    result = quick.run("train.py", "--save_to", "search", "--trials", 5)
    assert result.code == 0, result.err
    ended = trials(quick, "search")
    assert {trial["params"]["kind"]: trial["error"] for trial in ended} == {
        "plain": None,
        "odd": "the loss became nan",
    }
    for trial in ended:
        name = f"trial_{trial['number']:03d}"
        told = json.loads((quick.path / "search" / name / "config.json").read_text())
        assert {key: told[key] for key in trial["params"]} == trial["params"]
        if trial["error"]:
            assert f"{name} failed: the loss became nan" in result.out
        else:
            # The epoch of the best checkpoint counts, not another that happens to score more.
            assert (trial["epoch"], trial["score"]) == (2, 1 - trial["params"]["rate"])
    done = [trial for trial in ended if trial["score"] is not None]
    best = max(done, key=lambda trial: trial["score"])
    folder = f"search/trial_{best['number']:03d}"
    assert f"best: {folder}, val_accuracy {best['score']:.4f}" in result.out
    assert f"next: python deploy.py --read_from {folder}" in result.out
    with (quick.path / "search" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["trial"] == Path(folder).name
    assert [float(row["val_accuracy"]) for row in rows if row["val_accuracy"]] == sorted(
        (trial["score"] for trial in done), reverse=True
    )
    with Image.open(quick.path / "search" / "trials.png") as picture:
        assert len(np.unique(np.asarray(picture))) > 50

    # More trials go on from there; other flags, or other choices in search.py, do not.
    assert quick.run("train.py", "--save_to", "search", "--trials", 6).code == 0
    assert trials(quick, "search")[:5] == ended
    assert len(trials(quick, "search")) == 6
    result = quick.run("train.py", "--save_to", "search", "--trials", 6, "--rate", 0.5)
    assert result.code == 2
    assert "rate was not given, is 0.5" in result.err
    script = quick.path / "train.py"
    script.write_text(script.read_text().replace('("plain", "odd")', '("plain", "even")'))
    result = quick.run("train.py", "--save_to", "search", "--trials", 7)
    assert result.code == 2
    assert "does not fit any more" in result.err
    assert trials(quick, "search")[:5] == ended

    (quick.path / "search" / "notes.txt").write_text("mine")
    (quick.path / "search" / "trial_000" / "notes.txt").write_text("mine")
    assert quick.run("train.py", "--save_to", "search", "--trials", 1, "--overwrite").code == 0
    assert len(trials(quick, "search")) == 1
    assert {path.name for path in (quick.path / "search").iterdir()} >= {"notes.txt", "trial_000"}
    assert (quick.path / "search" / "trial_000" / "notes.txt").exists()
    assert not any(
        Run(path).config.exists() for path in (quick.path / "search").glob("trial_00[1-9]")
    )


def test_a_search_that_cannot_succeed_stops(quick: Project) -> None:
    result = quick.run("train.py", "--save_to", "search", "--trials", 9, "--kind", "odd")
    assert result.code == 1
    assert "no trial ended well. The last one said: the loss became nan" in result.err
    assert len(trials(quick, "search")) == 3


def test_a_folder_of_something_else_is_left_alone(quick: Project) -> None:
    assert quick.run("train.py", "--save_to", "run").code == 0
    result = quick.run("train.py", "--save_to", "run", "--trials", 2, "--overwrite")
    assert (result.code, "run is a run" in result.err) == (2, True)
    (quick.path / "other").mkdir()
    (quick.path / "other" / "search.json").write_text('{"query": "mine"}')
    result = quick.run("train.py", "--save_to", "other", "--trials", 2, "--overwrite")
    assert (result.code, "not Kerakit's" in result.err) == (2, True)
    assert (quick.path / "other" / "search.json").read_text() == '{"query": "mine"}'


def test_a_missing_optuna_is_explained(quick: Project) -> None:
    source = "import sys, runpy; sys.modules['optuna'] = None; sys.argv = 'train.py --save_to search --trials 2'.split(); "
    done = subprocess.run(
        [sys.executable, "-c", source + "runpy.run_path('train.py', run_name='__main__')"],
        cwd=quick.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "error: --trials needs Optuna: pip install 'kerakit[search]'" in done.stderr
    assert not (quick.path / "search").exists()


@pytest.mark.slow
def test_the_digits_are_searched_though_it_is_killed(tmp_path: Path) -> None:
    new = [sys.executable, "-m", "kerakit.cli", "new", str(tmp_path / "digits")]
    subprocess.run(new, check=True, capture_output=True)
    project = Project(tmp_path / "digits")
    flags = ("--trials", "3", "--model", "small_cnn", "--input_size", "32,32", "--num_epochs", "1")
    killed = start(project, "--save_to", "search", *flags)
    wait_for((project.path / "search" / "trial_001" / "config.json").exists)
    killed.kill()
    killed.communicate()
    result = project.run("train.py", "--save_to", "search", *flags)
    assert result.code == 0, result.out + result.err
    ended = trials(project, "search")
    assert len(ended) == 3
    for trial in ended:
        run = Run(project.path / "search" / f"trial_{trial['number']:03d}")
        config = json.loads(run.config.read_text())
        assert {name: config[name] for name in trial["params"]} == trial["params"]
        (row,) = run.read_history()
        assert (row["epoch"], row["val_accuracy"]) == (1, trial["score"])
        run.best()
    deployed = project.run(
        "deploy.py",
        "--read_from",
        "search/trial_002",
        "--save_to",
        "deploy",
        "--formats",
        "keras",
        timeout=300,
    )
    assert deployed.code == 0, deployed.err
