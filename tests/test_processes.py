"""Real processes that are killed, started twice, or lose their output; mistakes in their code."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fork_server import ForkServer
from kerakit.errors import UserError
from kerakit.files import read_json
from kerakit.run import Run
from projects import Project

KILLED = """
import os, sys
from pathlib import Path
from kerakit.files import write_json
from kerakit.run import Run


class Model:
    weights = ()

    def save_weights(self, path):
        Path(path).write_bytes(b"weights")


def start(path):
    run = Run(path).create()
    write_json(run.config, {"kerakit": "1", "save_to": str(path)})
    run.add_checkpoint(Model(), 1, 0.5, limit=3)
    run.write_history([{"epoch": 1}])


def changes(event, args):
    if event == "open":
        return bool(args[2] & (os.O_WRONLY | os.O_RDWR))
    return event in ("os.mkdir", "os.rename", "os.remove")


number = 0
while True:
    number += 1
    path, count = Path(sys.argv[1], str(number)), 0
    if child := os.fork():
        if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
            break
        continue

    def kill(event, args):
        global count
        count += bool(args) and str(args[0]).startswith(str(path)) and changes(event, args)
        if count == number:
            os.kill(os.getpid(), 9)

    sys.addaudithook(kill)
    start(path)
    os._exit(0)
print(number)
"""
"""Starts runs that are killed at their first, second, ... change of the file system."""


def test_a_start_that_is_killed_anywhere_can_be_repeated(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    count = int(done.stdout)
    assert count > 20
    repeated = 0
    for number in range(1, count):
        run = Run(tmp_path / str(number))
        best, message = None, ""
        try:
            best = Run.open(run.path).best()
        except UserError as error:
            message = str(error)
        known = ("no folder", "is not a run", "before it began", "first epoch", "first one")
        assert best or any(part in message for part in known)
        if run.has_results():
            assert best or run.history.exists() or any(run.checkpoints.glob("epoch-*"))
            with pytest.raises(UserError, match="--overwrite"):
                run.check_new(overwrite=False)
            run.check_new(overwrite=True)
            continue
        assert best is None
        repeated += 1
        run.create()
        assert not any(path.is_file() for path in run.path.rglob(".[!k]*"))
    assert repeated > 10


def test_a_second_training_into_the_same_folder_is_refused(
    project: Project, server: ForkServer, tmp_path: Path
) -> None:
    flags = ["--save_to", "progress/test", "--model", "tiny", "--input_size", "16,12"]
    first = server.start(
        project.path, tmp_path / "output", "train.py", *flags, "--num_epochs", 10000
    )
    try:
        run = Run(project.path / "progress" / "test")
        limit = time.monotonic() + 120
        while not run.index.exists() and time.monotonic() < limit:
            time.sleep(0.1)
        before = json.loads(run.config.read_text())
        second = project.train("--overwrite")
        assert second.code == 2, second.out + second.err
        assert "another process is writing to progress/test" in second.err
        assert "Traceback" not in second.err
        assert first.is_running()
        assert read_json(run.config, dict) == before
    finally:
        first.kill(signal.SIGKILL)
        first.wait()
    again = project.train()
    assert again.code == 2
    assert "already holds a run" in again.err
    assert project.deploy("--formats", "keras").code == 0


@pytest.mark.parametrize(
    ("file", "mistake", "code"),
    [
        ("models/mine.py", "def construct(:", 2),
        ("models/mine.py", "raise ValueError('mine')", 1),
        ("models/mine.py", "import json; json.loads('{')", 1),
        ("datagen.py", "1 / 0", 1),
        ("task.py", "def get_task(:", 2),
        ("config.py", "import no_such_module", 1),
    ],
)
def test_a_mistake_in_the_owners_code_shows_that_code(
    project: Project, file: str, mistake: str, code: int
) -> None:
    with (project.path / file).open("a") as target:
        target.write(f"\n{mistake}\n")
    result = project.train("--model", "mine") if "mine" in file else project.train()
    assert result.code == code, result.err
    assert file in result.err
    for internal in ("frozen importlib", "/kerakit/models/", "/kerakit/script"):
        assert internal not in result.err
    assert not (project.path / "progress" / "test").exists()


def test_a_mistake_in_a_model_leaves_the_other_models_alone(project: Project) -> None:
    (project.path / "models" / "mine.py").write_text("def construct(:")
    assert project.train().code == 0


@pytest.mark.parametrize("theirs", ["saved_model/notes.txt", "openvino/a.bin", "model.onnx"])
def test_files_of_others_stay_though_an_export_is_replaced(trained: Project, theirs: str) -> None:
    path = trained.path / "deploy" / "test" / theirs
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    result = trained.deploy("--formats", "keras", "--overwrite")
    assert result.code == 2
    assert theirs in result.err
    assert path.read_text() == "mine"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("output", "code"), [("", 0), (">&-", 0), (">&- 2>&-", 0), ("| head -0", 141)]
)
def test_a_closed_output_leaves_no_stack_trace(photos: Path, output: str, code: int) -> None:
    command = f"{sys.executable} -m kerakit check {photos} --save_to {photos}.csv {output}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize("buffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize(
    ("command", "output", "code"),
    [
        ("-m kerakit new p --data {photos}", "| head -0", 141),
        ("-m kerakit new p --data {photos}", "> /dev/full", 1),
        ("-m kerakit --help", "> /dev/full", 1),
        ("{project}/train.py --help", "> /dev/full", 1),
        ("{project}/train.py --num_epochs 0", "2> /dev/full", 2),
    ],
)
def test_an_output_that_cannot_be_written_is_an_error(
    photos: Path,
    project: Project,
    tmp_path: Path,
    command: str,
    output: str,
    code: int,
    buffered: str,
) -> None:
    """Python passes over what it cannot write at exit, or prints a trace and exits with 120."""
    words = command.format(photos=photos, project=project.path)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} {words} {output}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": buffered},
    )
    said = "error: the output cannot be written: No space left on device.\n" if code == 1 else ""
    assert (done.returncode, done.stderr) == (code, said)
