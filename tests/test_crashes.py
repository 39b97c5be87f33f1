"""Folders that replace others: a kill, a signal or an error at any change leaves one of both."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kerakit.deploy import ExportFolder
from kerakit.errors import UserError
from kerakit.locks import release_all
from kerakit.run import Run
from kerakit.state_folder import StateFolder
from projects import Project

DRIVER = """
import errno, os, shutil, signal, sys
from pathlib import Path

from kerakit.signals import raise_on_signals

what, root, fault = sys.argv[1:]
os.fsync = lambda handle: None  # of a power cut, which no test can cause

if what == "run":
    from kerakit.files import write_json
    from kerakit.run import Run

    class Model:
        weights = ()

        def save_weights(self, path):
            Path(path).write_bytes(b"new")

    def replace(path):
        run = Run(path).create(overwrite=True)
        write_json(run.config, {"kerakit": "1", "save_to": "new"})
        run.add_checkpoint(Model(), 1, 0.5, limit=3)
        run.write_history([{"epoch": 1}])
else:
    from kerakit.deploy import ExportFolder

    def replace(path):
        folder = ExportFolder(path).create(overwrite=True)
        with folder.write() as temporary:
            shutil.copytree(Path(root, "new"), temporary, dirs_exist_ok=True)
            folder.take_over(temporary)

CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
number = 0
while True:
    number += 1
    path, count = Path(root, str(number)), 0
    if child := os.fork():
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code == 0:
            break
        continue

    def is_change(event, args):
        if not args or not str(args[0]).startswith(str(path)):
            return False
        return event in CHANGES or event == "open" and bool(args[2] & (os.O_WRONLY | os.O_RDWR))

    def inject(event, args):
        global count
        if is_change(event, args):
            count += 1
            if count == number:
                if fault.startswith("E"):
                    raise OSError(getattr(errno, fault), os.strerror(getattr(errno, fault)))
                os.kill(os.getpid(), getattr(signal, fault))

    raise_on_signals()
    shutil.copytree(Path(root, "old"), path, symlinks=True)
    sys.addaudithook(inject)
    try:
        replace(path)
    except BaseException:
        os._exit(3)
    os._exit(0 if count < number else 4)
print(number)
"""
"""Replaces a folder, with a fault at its first, second, ... change of the file system."""


def inject(what: str, root: Path, fault: str) -> range:
    command = [sys.executable, "-c", DRIVER, what, str(root), fault]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return range(1, int(done.stdout))


def content(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


FAULTS = ["SIGKILL", "SIGTERM", "ENOSPC", "EIO"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_run_stays_until_another_one_can_replace_it(tmp_path: Path, fault: str) -> None:
    class Model:
        weights = ()

        def save_weights(self, path: Path) -> None:
            path.write_bytes(b"old")

    old = Run(tmp_path / "old").create()
    old.config.write_text('{"kerakit": "1", "save_to": "old"}')
    old.add_checkpoint(Model(), 1, 0.5)
    old.write_history([{"epoch": 1}])
    (old.logs / "events.out.tfevents.1").touch()
    StateFolder(old.state).save({"epoch": 1}, {})
    (old.path / "notes.txt").write_text("mine")
    release_all()
    before, found = content(old.path), set()
    points = inject("run", tmp_path, fault)
    assert len(points) >= 20
    for number in points:
        run = Run.open(tmp_path / str(number))
        name = run.best().read_text()
        found.add(name)
        assert json.loads(run.config.read_text())["save_to"] == name
        after = content(run.path)
        after.pop(".kerakit.lock", None)
        if name == "old":
            assert {key: after.get(key) for key in before} == before, number
        assert after["notes.txt"] == b"mine"
        with pytest.raises(UserError, match="--overwrite"):
            run.check_new(overwrite=False)
        run.create(overwrite=True)
        release_all()
    assert found == {"old", "new"}


def test_a_saved_state_without_a_checkpoint_and_the_earlier_run_both_stay(tmp_path: Path) -> None:
    class Model:
        weights = ()

        def save_weights(self, path: Path) -> None:
            path.write_bytes(b"old")

    run = Run(tmp_path / "run").create()
    run.add_checkpoint(Model(), 1, 0.5)
    release_all()
    run.create(overwrite=True)
    state = StateFolder(run.state).save({"epoch": 0}, {})
    release_all()
    run.check_new(overwrite=True)  # as the start of train.py
    assert state.exists()
    run.create(resume=True)
    release_all()
    assert state.exists()
    assert not run.list_checkpoints()
    # Replaced again before its first checkpoint, the earlier run is still there.
    run.create(overwrite=True)
    assert not state.exists()
    run.discard_if_empty()
    assert run.best().read_text() == "old"


def write_export(folder: Path, name: str, files: dict[str, str]) -> None:
    """Write an export whose files all contain its name."""
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{name} {file}")
    formats = [
        {"format": "x", "file": file, "status": "exported", "sha256": digest(folder / file)}
        for file in files
        if file.startswith("model") and "/" not in file
    ]
    record = {"versions": {"kerakit": "1"}, "files": [*files, "report.json"], "formats": formats}
    (folder / "report.json").write_text(json.dumps({"name": name, **record}))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


BUNDLE = dict.fromkeys(("device/model.tflite", "device/labels.txt", "device/golden.npz"), "")
COMMON: dict[str, Any] = dict.fromkeys(
    ("model.tflite", "model.h5", "labels.txt", "task.json", "report.html"), ""
)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_export_is_replaced_in_one_step(tmp_path: Path, fault: str) -> None:
    write_export(tmp_path / "old", "old", {**COMMON, **BUNDLE, "model_float32.tflite": ""})
    write_export(tmp_path / "new", "new", {**COMMON, **BUNDLE, "saved_model/a.pb": ""})
    (tmp_path / "old" / "notes.txt").write_text("mine")
    (tmp_path / "old" / "device" / "holiday.jpg").write_text("mine")
    old, new = content(tmp_path / "old"), content(tmp_path / "new")
    mine = {name: old[name] for name in ("notes.txt", "device/holiday.jpg")}
    found = set()
    points = inject("export", tmp_path, fault)
    assert len(points) >= 25
    for number in points:
        folder = ExportFolder(tmp_path / str(number))
        bundle = content(folder.path / "device")
        if bundle:  # what a device reads without the report: of one export, before any repair
            assert len({text.split()[0] for text in bundle.values()} - {b"mine"}) == 1
        folder.check_file(folder.path / "model.tflite")
        name = json.loads(folder.report.read_text())["name"]
        found.add(name)
        after = content(folder.path)
        visible = {key: text for key, text in after.items() if not key.startswith(".kerakit")}
        temporary = [key for key in visible if Path(key).name.startswith(".")]
        for key in temporary:
            visible.pop(key)
        assert visible == {**(old if name == "old" else new), **mine}, number
        with folder.write():  # removes what a killed process has left
            pass
        assert not any(path.name.startswith(".") for path in folder.path.iterdir())
    assert found == {"old", "new"}


# ------------------------------------------------------------------------- real commands, slow


def run_with_faults(project: Project, folder: Path, fault: str, *words: object) -> dict[str, int]:
    """Run a script with a fault at changes of its folder; return exit codes by their number."""
    driver = Path(__file__).parent / "support" / "fault_driver.py"
    command = [sys.executable, str(driver), str(project.path), str(folder), fault]
    done = subprocess.run([*command, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    codes: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return codes


STEP = int(os.environ.get("KERAKIT_FAULT_STEP", "1"))
"""1: a fault at every change of a folder, which takes about 20 minutes per test on two cores."""

REAL_FAULTS = {"SIGKILL": {-9}, "SIGTERM": {143, 0}, "ENOSPC": {1, 0}, "EIO": {1, 0}}
"""Exit codes by fault. 0: it hit what a command does without, such as a temporary file's removal,
or, for SIGTERM, what is done before the command ends."""


@pytest.mark.slow
@pytest.mark.parametrize("fault", REAL_FAULTS)
def test_deploy_leaves_the_old_or_the_new_export(trained: Project, fault: str) -> None:
    assert trained.deploy("--formats", "h5").code == 0
    folder = trained.path / "deploy" / "test"
    (folder / "labels.txt").write_text("old\npear\n")
    words = ("deploy.py", "--read_from", "progress/test", "--formats", "h5,float32", "--overwrite")
    codes = run_with_faults(trained, folder, fault, STEP, *words)
    assert set(codes.values()) <= REAL_FAULTS[fault], codes
    for number in codes:
        export = ExportFolder(folder.with_name(f"{folder.name}-{number}"))
        export.check_file(export.path / "model.h5")
        formats = json.loads(export.report.read_text())["formats"]
        labels = (export.path / "labels.txt").read_text().split()
        assert labels == (["old", "pear"] if len(formats) == 1 else ["apple", "pear"]), number
        for one in formats:
            export.check_file(export.path / one["file"])


@pytest.mark.slow
@pytest.mark.parametrize("fault", REAL_FAULTS)
def test_train_leaves_the_old_or_the_new_run(trained: Project, fault: str) -> None:
    folder = trained.path / "progress" / "test"
    before = json.loads(Run(folder).index.read_text())[0]["sha256"]
    small = ("--model", "small_cnn", "--input_size", "16,12", "--num_epochs", 2, "--seed", 1)
    codes = run_with_faults(trained, folder, fault, STEP, "train.py", *small, "--overwrite")
    allowed = REAL_FAULTS[fault] | ({33} if fault == "SIGTERM" else set())
    assert set(codes.values()) <= allowed, codes
    for number in codes:
        run = Run.open(folder.with_name(f"{folder.name}-{number}"))
        best = run.best()  # verifies its SHA-256
        seed = json.loads(run.config.read_text())["seed"]
        assert (digest(best) == before) == (seed == 0), number
