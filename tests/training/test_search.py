"""Hyperparameter search: its results, and how it resumes after kills, Ctrl-C and failures."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import kerakit
from kerakit.errors import UserError
from kerakit.run import Run
from kerakit.training.search import Search
from kerakit.training.search_folder import SearchFolder
from projects import Project, Result

# Real processes, and real runs except for their weights: a training that takes no time.
TRAIN = """
import os
import time
from dataclasses import asdict
from pathlib import Path

import kerakit
from kerakit import script
from kerakit.files import write_json
from kerakit.checkpoint import Checkpoint


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
        from kerakit.training import Search

        Search(args, suggest, "val_accuracy", True).run()
        return
    run = kerakit.Run(args.save_to).create(args.overwrite)
    args.save(run.config)
    (run.path / "process").write_text(str(os.getpid()))
    while args.save_to.name == "trial_001" and Path("hold").exists():
        time.sleep(0.02)
    print("training", flush=True)
    if args.kind == "odd":
        raise kerakit.JobError("NaN loss")
    best = 1 - args.rate
    run.write_history([{"epoch": 1, "val_accuracy": 2.0}, {"epoch": 2, "val_accuracy": best}])
    write_json(run.index, [asdict(Checkpoint("epoch-0002.weights.h5", 2, args.rate, "0" * 64))])


if __name__ == "__main__":
    main(script.parse_args(Flags))
"""


@pytest.fixture
def quick(tmp_path: Path) -> Project:
    (tmp_path / "train.py").write_text(TRAIN)
    return Project(tmp_path)


@pytest.fixture(scope="module")
def whole_once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A project with a search of five trials in the folder "search", and its output. Read-only."""
    path = tmp_path_factory.mktemp("whole")
    (path / "train.py").write_text(TRAIN)
    result = Project(path).run("train.py", "--save_to", "search", "--trials", 5)
    assert result.code == 0, result.err
    return path, result


@pytest.fixture
def whole(whole_once: tuple[Path, Result], tmp_path: Path) -> Project:
    """A copy of a project with a search of five trials in the folder "search"."""
    return Project(Path(shutil.copytree(whole_once[0], tmp_path / "whole")))


def load(project: Project, name: str) -> optuna.Study:
    return SearchFolder(project.path / name).load_study()


def trials(project: Project, name: str) -> list[dict[str, Any]]:
    """Return what a search stored of the trials that have ended, except times."""
    return [
        {
            "number": trial.number,
            "state": trial.state.name,
            "params": trial.params,
            "score": trial.value,
            "epoch": trial.user_attrs["epoch"],
            "error": trial.user_attrs["error"],
        }
        for trial in load(project, name).trials
        if trial.state.is_finished()
    ]


def start(project: Project, *args: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "train.py", *args],
        cwd=project.path,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background may ignore it, and child processes inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def kill_with_trial(search: subprocess.Popen[str]) -> None:
    """End a search and the process of its trial, if one runs, by SIGKILL."""
    search.send_signal(signal.SIGSTOP)  # it starts no other trial meanwhile
    listed = Path(f"/proc/{search.pid}/task/{search.pid}/children").read_text().split()
    search.kill()
    for child in listed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(child), signal.SIGKILL)
    search.communicate()


def wait_for(happened: Callable[[], bool]) -> None:
    limit = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < limit
        time.sleep(0.02)


def process_of(run: Path) -> int:
    """Return the process ID of a trial, after waiting for its start."""
    file = run / "process"
    wait_for(lambda: file.exists() and bool(file.read_text()))
    return int(file.read_text())


# ------------------------------------------------------------------------------------------- kills


def test_a_search_that_was_killed_ends_as_one_that_was_not(whole: Project) -> None:
    (whole.path / "hold").touch()
    killed = start(whole, "--save_to", "killed", "--trials", "3")
    process_of(whole.path / "killed" / "trial_001")
    killed.kill()
    killed.communicate()
    # The trial still runs, and meanwhile no other process may train in its folder.
    again = start(whole, "--save_to", "killed", "--trials", "3")
    assert again.stdout is not None
    assert "after 1 trials" in again.stdout.readline()
    assert "waiting for the trial that a killed search left" in again.stdout.readline()
    assert len(trials(whole, "killed")) == 1
    (whole.path / "hold").unlink()
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert trials(whole, "killed") == trials(whole, "search")[:3]


def test_a_trial_that_was_killed_with_its_search_is_repeated(whole: Project) -> None:
    (whole.path / "hold").touch()
    search = start(whole, "--save_to", "killed", "--trials", "2")
    trial = process_of(whole.path / "killed" / "trial_001")
    search.kill()
    os.kill(trial, signal.SIGKILL)
    search.communicate()
    stored = load(whole, "killed").trials[1]
    assert stored.state == optuna.trial.TrialState.RUNNING
    assert stored.params == trials(whole, "search")[1]["params"]
    (whole.path / "hold").unlink()
    assert whole.run("train.py", "--save_to", "killed", "--trials", 2).code == 0
    assert trials(whole, "killed") == trials(whole, "search")[:2]


def test_processes_of_a_launcher_share_the_trials(quick: Project) -> None:
    """One is killed with its trial, which the other trains; each trial ends once."""
    (quick.path / "hold").touch()
    flags = ("--save_to", "search", "--trials", "3", "--kind", "plain")
    both = [
        start(quick, *flags, SLURM_STEP_NUM_TASKS="2", SLURM_PROCID=rank) for rank in ("0", "1")
    ]
    trial = process_of(quick.path / "search" / "trial_001")
    parent = int(Path(f"/proc/{trial}/stat").read_text().split()[3])
    lost, other = sorted(both, key=lambda one: one.pid != parent)
    assert lost.pid == parent
    # All others have ended, and it waits for this one.
    lines: list[str] = []
    while "waiting for other trials" not in "".join(lines):
        lines.append(other.stdout.readline() if other.stdout else "")
        assert lines[-1], "".join(lines) + (other.stderr.read() if other.stderr else "")
    assert "[trial_002] training" in "".join(lines)
    refused = quick.run("train.py", *flags, "--overwrite")
    assert (refused.code, "which would be replaced" in refused.err) == (2, True)
    first = load(quick, "search").trials
    kill_with_trial(lost)
    (quick.path / "hold").unlink()
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert "[trial_001] training" in out
    ended = trials(quick, "search")
    assert [(one["number"], one["state"]) for one in ended] == [(i, "COMPLETE") for i in range(3)]
    assert [one["params"] for one in ended] == [one.params for one in first]
    assert load(quick, "search").trials[1].user_attrs != first[1].user_attrs
    assert not (quick.path / "search" / ".processes").exists()


@pytest.mark.slow
def test_a_search_of_processes_that_are_killed_at_random(quick: Project) -> None:
    """Three processes, each of which is started again after a kill: each trial ends once."""
    rng, kills, name = random.Random(1), 0, "shared"
    flags = ("--save_to", name, "--trials", "12", "--kind", "plain")
    ranks = ("0", "1", "2")
    running = {
        rank: start(quick, *flags, SLURM_STEP_NUM_TASKS="3", SLURM_PROCID=rank) for rank in ranks
    }
    while running:
        time.sleep(rng.uniform(0.2, 1.5))
        for rank, one in list(running.items()):
            if one.poll() == 0:
                one.communicate()
                del running[rank]
        if running and kills < 20:
            rank = rng.choice(sorted(running))
            one = running[rank]
            if rng.random() < 0.5:
                kill_with_trial(one)
            else:
                one.kill()
                one.communicate()
            kills += one.returncode == -signal.SIGKILL
            running[rank] = start(quick, *flags, SLURM_STEP_NUM_TASKS="3", SLURM_PROCID=rank)
    print(f"{kills} kills")
    stored = load(quick, name).trials
    assert [one.state.name for one in stored] == ["COMPLETE"] * 12
    assert len({one.params["rate"] for one in stored}) == 12


def test_overwrite_by_several_processes_is_an_error(quick: Project) -> None:
    flags = ("--save_to", "search", "--trials", "1", "--overwrite")
    both = start(quick, *flags, SLURM_STEP_NUM_TASKS="2", SLURM_PROCID="0")
    _, err = both.communicate(timeout=60)
    assert (both.returncode, "Omit --overwrite" in err) == (2, True)
    assert not (quick.path / "search").exists()


@pytest.mark.slow
def test_a_search_that_is_killed_at_random_ends_as_one_that_was_not(whole: Project) -> None:
    """At least 30 kills of searches, or of searches with the trial that runs, of five trials."""
    rng, kills, number = random.Random(0), 0, 0
    while kills < 30:
        number += 1
        name = f"killed-{number}"
        for _ in range(10):
            search = start(whole, "--save_to", name, "--trials", "5")
            time.sleep(rng.uniform(0, 5))
            if search.poll() is None and rng.random() < 2 / 3:
                kill_with_trial(search)
            else:
                search.kill()
                search.communicate()
            kills += search.returncode == -signal.SIGKILL
        result = whole.run("train.py", "--save_to", name, "--trials", 5)
        assert result.code == 0, result.err
        assert trials(whole, name) == trials(whole, "search")
        assert len(load(whole, name).trials) == 5
    print(f"{kills} kills of {number} searches")


def test_a_trial_that_is_killed_is_repeated_once(quick: Project) -> None:
    (quick.path / "hold").touch()
    search = start(quick, "--save_to", "search", "--trials", "2", "--kind", "plain")
    process = quick.path / "search" / "trial_001" / "process"
    for _ in range(2):
        trial = process_of(process.parent)
        process.unlink()
        os.kill(trial, signal.SIGKILL)
    out, err = search.communicate(timeout=120)
    assert search.returncode == 0, err
    assert [trial["state"] for trial in trials(quick, "search")] == ["COMPLETE", "FAIL"]
    assert "SIGKILL" in trials(quick, "search")[1]["error"]
    assert "1 of 2 trials completed" in out


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_ends_the_trial_and_the_printed_command_resumes(
    quick: Project, number: int, code: int
) -> None:
    (quick.path / "hold").touch()
    flags = ("--save_to", "search", "--trials", "2", "--kind", "plain", "--overwrite")
    search = start(quick, *flags)
    trial = process_of(quick.path / "search" / "trial_001")
    os.kill(search.pid, number)
    out, err = search.communicate(timeout=120)
    assert search.returncode == code, err
    with pytest.raises(ProcessLookupError):
        os.kill(trial, 0)
    # No program that reads the study takes it for running.
    assert load(quick, "search").trials[1].state == optuna.trial.TrialState.WAITING
    assert "Traceback" not in out + err
    assert "1 of 1 trials completed" in out
    # The trial ended with the search; it did not fail, so it is repeated.
    (quick.path / "hold").unlink()
    assert "Interrupted." in err
    command = err.splitlines()[-1].split()
    assert command[:2] == ["python", "train.py"]
    again = quick.run(*command[1:])
    assert again.code == 0, again.err
    assert "waiting" not in again.out
    assert [trial["state"] for trial in trials(quick, "search")] == ["COMPLETE", "COMPLETE"]


# ----------------------------------------------------------------------------------------- results


def test_failures_are_reported_and_the_best_trial_is_named(
    whole: Project, whole_once: tuple[Path, Result]
) -> None:
    result = whole_once[1]
    ended = trials(whole, "search")
    assert {trial["params"]["kind"]: trial["error"] for trial in ended} == {
        "plain": None,
        "odd": "NaN loss",
    }
    for trial in ended:
        name = f"trial_{trial['number']:03d}"
        config = json.loads((whole.path / "search" / name / "config.json").read_text())
        assert {key: config[key] for key in trial["params"]} == trial["params"]
        if trial["error"]:
            assert f"{name} failed: NaN loss" in result.out
        else:
            # That of the best checkpoint, not of another epoch with a higher score.
            assert (trial["epoch"], trial["score"]) == (2, 1 - trial["params"]["rate"])
    completed = [trial for trial in ended if trial["score"] is not None]
    best = max(completed, key=lambda trial: trial["score"])
    folder = f"search/trial_{best['number']:03d}"
    assert f"{folder}, val_accuracy {best['score']:.4f}" in result.out
    assert f"python deploy.py --read_from {folder}" in result.out
    with (whole.path / "search" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["trial"] == Path(folder).name
    assert [float(row["val_accuracy"]) for row in rows if row["val_accuracy"]] == sorted(
        (trial["score"] for trial in completed), reverse=True
    )
    with Image.open(whole.path / "search" / "trials.png") as plot:
        assert len(np.unique(np.asarray(plot))) > 50
    study = load(whole, "search")
    assert study.direction == optuna.study.StudyDirection.MAXIMIZE
    assert study.user_attrs["score"] == "val_accuracy"
    assert study.trials[1].user_attrs["run"] == "search/trial_001"


def test_more_trials_continue_a_search(whole: Project) -> None:
    ended = trials(whole, "search")
    assert whole.run("train.py", "--save_to", "search", "--trials", 6).code == 0
    assert trials(whole, "search")[:5] == ended
    assert len(trials(whole, "search")) == 6


class Flags(kerakit.Config):
    save_to: Path
    trials: int = 7
    overwrite: bool = False
    seed: int = 0
    rate: float = 0.1


def suggest(trial: optuna.Trial, args: Flags, high: float = 1, second: str = "odd") -> Any:
    return {
        "rate": trial.suggest_float("rate", 0.001, high, log=True),
        "kind": trial.suggest_categorical("kind", ("plain", second)),
    }


@pytest.mark.parametrize(
    ("flags", "options", "score", "noun"),
    [
        ({"rate": 0.5}, {}, "val_accuracy", "rate was not given, is 0.5"),
        ({}, {}, "val_loss", "SCORE was val_accuracy"),
        ({}, {"second": "even"}, "val_accuracy", "search.py"),
        ({}, {"high": 0.01}, "val_accuracy", "search.py"),
    ],
)
def test_other_flags_are_refused(
    flags: dict[str, Any], options: dict[str, Any], score: str, noun: str, whole: Project
) -> None:
    search = Search(
        Flags(save_to=whole.path / "search", **flags), partial(suggest, **options), score, True
    )
    with pytest.raises(UserError, match=re.escape(noun)):
        search.run()
    assert len(trials(whole, "search")) == 5


def test_overwrite_replaces_a_search_and_nothing_else(whole: Project) -> None:
    (whole.path / "search" / "notes.txt").write_text("mine")
    (whole.path / "search" / "trial_000" / "notes.txt").write_text("mine")
    assert whole.run("train.py", "--save_to", "search", "--trials", 1, "--overwrite").code == 0
    assert len(trials(whole, "search")) == 1
    assert {path.name for path in (whole.path / "search").iterdir()} >= {"notes.txt", "trial_000"}
    assert (whole.path / "search" / "trial_000" / "notes.txt").exists()
    assert not any(
        Run(path).config.exists() for path in (whole.path / "search").glob("trial_00[1-9]")
    )


def test_a_search_that_cannot_succeed_stops(quick: Project) -> None:
    result = quick.run("train.py", "--save_to", "search", "--trials", 9, "--kind", "odd")
    assert (result.code, "NaN loss" in result.err) == (1, True)
    assert len(trials(quick, "search")) == 3


def test_a_missing_optuna_is_explained(quick: Project) -> None:
    source = (
        "import sys, runpy; sys.modules['optuna'] = None; "
        "sys.argv = 'train.py --save_to search --trials 2'.split(); "
        "runpy.run_path('train.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=quick.path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "pip install 'optuna" in done.stderr
    assert not (quick.path / "search").exists()


# --------------------------------------------------------------------------------------- databases


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    run = Run(tmp_path / "run").create()
    run.config.touch()
    files = sorted(run.path.iterdir())
    with pytest.raises(UserError, match="run"):
        Search(Flags(save_to=run.path, overwrite=True), suggest, "val_accuracy", True).run()
    assert sorted(run.path.iterdir()) == files
    study = tmp_path / "other" / "study.db"
    study.parent.mkdir()
    optuna.create_study(storage=f"sqlite:///{study}", study_name="mine")
    content = study.read_bytes()
    with pytest.raises(UserError, match="another program"):
        Search(Flags(save_to=study.parent, overwrite=True), suggest, "val_accuracy", True).run()
    assert study.read_bytes() == content


def test_another_database_is_left_as_it_is(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    with contextlib.closing(sqlite3.connect(folder.database)) as connection:
        connection.execute("CREATE TABLE mine (value)")
    content = folder.database.read_bytes()
    with pytest.raises(UserError, match="another program"):
        folder.load_study()
    assert folder.database.read_bytes() == content


@pytest.fixture(scope="module")
def study_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study with one trial. Read-only."""
    folder = SearchFolder(tmp_path_factory.mktemp("search"))
    study = folder.create_study("maximize", {"flags": {}})
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"error": None}))
    return folder.database


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_truncated_database_is_damaged(part: float, study_once: Path, tmp_path: Path) -> None:
    content = study_once.read_bytes()
    folder = SearchFolder(tmp_path)
    folder.database.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match="damaged"):
        folder.load_study()


@pytest.mark.parametrize(
    ("word", "other"),
    [
        (b"MAXIMIZE", b"MAXIMIZ3"),
        (b"COMPLETE", b"COMPLET3"),
        (b"{}", b"{]"),
        (b"flags", b"flagz"),
        (b"2026-", b"202--"),
    ],
)
def test_damaged_values_of_a_database_are_a_message(
    word: bytes, other: bytes, study_once: Path, tmp_path: Path
) -> None:
    """Of a study that was stored, whose database is intact: Optuna raises errors of many types."""
    content = study_once.read_bytes()
    year = f"{time.localtime().tm_year}-".encode()
    changed = content.replace(year if word == b"2026-" else word, other)
    assert changed != content
    (tmp_path / "study.db").write_bytes(changed)
    with pytest.raises(UserError, match=r"is damaged or belongs to another program: .+ Restore"):
        SearchFolder(tmp_path).load_study()


def test_a_lost_database_needs_overwrite(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path / "a?b {c} 100%#ä")  # characters with a meaning in URLs
    run = folder.run(0).create()
    run.config.write_text('{"kerakit": "1.0"}')
    with pytest.raises(UserError, match="--overwrite"):
        folder.check_new(overwrite=False)
    folder.check_new(overwrite=True)
    folder.create_study("minimize", {"score": "val_loss", "flags": {}})
    assert folder.load_study().user_attrs["score"] == "val_loss"
    assert not run.path.exists()


def test_files_of_others_are_kept(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path)
    folder.table.write_text("mine")
    with pytest.raises(UserError, match=r"trials\.csv"):
        folder.check_new(overwrite=True)


def test_the_journal_of_an_old_database_is_not_applied_to_a_new_one(
    study_once: Path, tmp_path: Path
) -> None:
    folder = SearchFolder(tmp_path)
    shutil.copy(study_once, folder.database)
    # A writer that is killed in a transaction leaves its journal.
    source = """if True:
        import os, sqlite3, sys
        connection = sqlite3.connect(sys.argv[1], isolation_level=None)
        connection.execute("PRAGMA cache_size = 1")
        connection.execute("BEGIN")
        for i in range(2000):
            connection.execute("INSERT INTO studies (study_name) VALUES (?)", (f"{i:0500d}",))
        os.kill(os.getpid(), 9)
    """
    subprocess.run([sys.executable, "-c", source, str(folder.database)], check=False)
    assert (tmp_path / "study.db-journal").stat().st_size > 0
    copy = SearchFolder(Path(shutil.copytree(tmp_path, tmp_path / "copy")))
    assert len(folder.load_study().trials) == 1  # rolled back
    copy.database.unlink()
    assert (
        copy.create_study("minimize", {"score": "loss", "flags": {}}).user_attrs["score"] == "loss"
    )


# ---------------------------------------------------------------------------------------- a project


@pytest.mark.slow
def test_the_digits_are_searched_though_it_is_killed(tmp_path: Path) -> None:
    """The search alone, and with its trial in the middle of a training: the same results."""
    new = [sys.executable, "-m", "kerakit", "new", str(tmp_path / "digits")]
    subprocess.run(new, check=True, capture_output=True)
    project = Project(tmp_path / "digits")
    flags = ("--trials", "3", "--model", "small_cnn", "--input_size", "32,32", "--num_epochs", "1")
    killed = start(project, "--save_to", "search", *flags)
    wait_for((project.path / "search" / "trial_001" / "config.json").exists)
    killed.kill()
    killed.communicate()
    killed = start(project, "--save_to", "search", *flags)
    wait_for((project.path / "search" / "trial_002" / "plots" / "train_batch.png").exists)
    kill_with_trial(killed)
    for name in ("search", "whole"):
        result = project.run("train.py", "--save_to", name, *flags)
        assert result.code == 0, result.out + result.err
    ended = trials(project, "search")
    assert len(ended) == 3
    assert ended == trials(project, "whole")
    for number in range(3):
        one, other = (
            Run(project.path / name / f"trial_{number:03d}") for name in ("search", "whole")
        )
        assert one.list_checkpoints() == other.list_checkpoints()
    for trial in ended:
        run = Run(project.path / "search" / f"trial_{trial['number']:03d}")
        config = json.loads(run.config.read_text())
        assert {name: config[name] for name in trial["params"]} == trial["params"]
        (row,) = run.read_history()
        assert (row["epoch"], row["val_accuracy"]) == (1, trial["score"])
        run.best()
    deploy = ("--read_from", "search/trial_002", "--save_to", "deploy", "--formats", "keras")
    deployed = project.run("deploy.py", *deploy)
    assert deployed.code == 0, deployed.err
