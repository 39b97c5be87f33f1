"""Signals, second writers, folders that disappear: messages, exit codes, nothing left behind."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from digits import Exported
from kerakit.data import DataReader
from kerakit.deploy import ExportFolder
from kerakit.errors import UserError
from kerakit.locks import FILE, check_unlocked, is_lost, lock_folder, locked, release_all
from kerakit.run import Run
from kerakit.signals import TERMINATION, Terminated
from kerakit.training.signals import StopSignals
from projects import PROJECT, Project, edit, write_image

HOLD = """
import sys, time
from pathlib import Path
from kerakit.locks import lock_folder

lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
time.sleep(600)
"""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process hold the lock of a folder."""
    command = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def when(happened: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Call ``act`` in a thread, as soon as something has happened."""

    def wait() -> None:
        limit = time.monotonic() + 240
        while not happened():
            assert time.monotonic() < limit
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


# ------------------------------------------------------------------------------------------- locks


def test_a_lock_names_its_process_and_ends_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with held(folder) as process:
        for attempt in (check_unlocked, lock_folder, lambda path: ExportFolder(path).create()):
            with pytest.raises(UserError, match=f"process {process.pid} on .*, since 20") as caught:
                attempt(folder)
            assert caught.value.exit_code == 2
    check_unlocked(folder)
    with locked(folder), locked(folder):
        assert json.loads((folder / FILE).read_text())["pid"] == os.getpid()
    assert list(folder.iterdir()) == []
    folder.rmdir()
    with locked(folder):
        pass
    assert not folder.exists()


@pytest.mark.parametrize("text", ["", "[]", '{"pid": "x"}', '{"pid": 1, "host": "\\u001b[2J"}'])
def test_the_text_of_a_lock_is_not_trusted(tmp_path: Path, text: str) -> None:
    with (tmp_path / FILE).open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(text)
        file.flush()
        with pytest.raises(UserError, match="another process is writing") as caught:
            lock_folder(tmp_path)
    assert "\x1b" not in str(caught.value)
    lock_folder(tmp_path)
    release_all()


def test_a_lock_follows_no_link_and_waits_for_no_pipe(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / FILE).symlink_to("mine.txt")
    with pytest.raises(UserError, match="is not a file"):
        lock_folder(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "mine"
    (tmp_path / FILE).unlink()
    os.mkfifo(tmp_path / FILE)
    with pytest.raises(UserError, match="is not a file"):
        lock_folder(tmp_path)


def test_a_file_system_without_locks_is_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    for name in ("a", "b"):
        check_unlocked(tmp_path / name)
        with locked(tmp_path / name):
            pass
    assert capsys.readouterr().err.count("has no locks") == 1


def test_a_lock_is_lost_with_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    lock_folder(folder)
    assert not is_lost(folder)
    folder.rename(tmp_path / "moved")
    assert is_lost(folder)
    lock_folder(folder)
    assert not is_lost(folder)
    release_all()


# ---------------------------------------------------------------------------- training and exports


def test_a_failed_training_leaves_the_run_that_it_was_to_replace(
    trained: Project, photos: Path
) -> None:
    run = trained.path / "progress" / "test"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    reader = DataReader(photos)
    for i in reader.indices("val"):  # the training reads them after the run folder was created
        reader.image_path(int(i)).write_bytes(b"not an image")
    result = trained.train("--overwrite", "--data_dir", photos)
    assert result.code == 2
    assert "cannot read image" in result.err
    assert "the earlier run is restored" in result.out
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before
    assert trained.train("--overwrite").code == 0
    assert not any(path.name.startswith(".") for path in run.iterdir())


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        (
            "reader.py",
            "class DataReader",
            "import os; os.kill(os.getpid(), 15)\n\n\nclass DataReader",
        ),
        (
            "train.py",
            "    # Phases that a",
            "    import os; os.kill(os.getpid(), 15)\n    # Phases that a",
        ),
    ],
    ids=["data", "begin"],
)
def test_sigterm_before_the_first_step_leaves_nothing_and_asks_for_a_repetition(
    project: Project, file: str, old: str, new: str
) -> None:
    before = {path for path in project.path.rglob("*") if path.suffix != ".pyc"}
    text = (project.path / file).read_text()
    edit(project.path / file, old, new)
    result = project.train("--resume", "auto")
    assert result.code == 33, result.err
    (project.path / file).write_text(text)
    assert not (project.path / "progress" / "test").exists()
    after = {path for path in project.path.rglob("*") if path.suffix != ".pyc"}
    assert {path.name for path in after - before} <= {"__pycache__", ".cache", "progress"}
    if file == "train.py":
        assert project.train("--resume", "auto").code == 0


def test_a_repeated_sigterm_does_not_replace_the_exit_code() -> None:
    """While Python ends, handlers are gone: the signal has to be ignored before."""
    before = [signal.getsignal(number) for number in TERMINATION]
    signals = StopSignals()
    with pytest.raises(Terminated), signals.installed():
        signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in TERMINATION] == [signal.SIG_IGN] * 2
    for number, handler in zip(TERMINATION, before, strict=True):
        signal.signal(number, handler)


def test_sigterm_after_a_completed_training_does_not_replace_the_exit_code(
    project: Project,
) -> None:
    edit(
        project.path / "train.py",
        "state.complete()\n",
        "state.complete()\nimport os\nos.kill(os.getpid(), 15)\n",
    )
    assert project.train().code == 0


def test_a_run_that_trains_its_first_epoch_is_not_called_ended(tmp_path: Path) -> None:
    with held(tmp_path / "run") as process:
        run = Run(tmp_path / "run")
        run.config.write_text('{"kerakit": "1"}')
        with pytest.raises(UserError, match=f"its training runs .process {process.pid} on"):
            Run.open(run.path)
        run.config.write_text('{"kerakit": "1", "model": "tiny"}')
        with pytest.raises(UserError, match="Wait until the first epoch is completed"):
            Run.open(run.path).best()
    with pytest.raises(UserError, match="training ended before the first epoch"):
        Run.open(run.path).best()


def test_sigterm_ends_an_export_with_its_programs(
    trained: Project, executable: Callable[[str], Path], tmp_path: Path
) -> None:
    note = tmp_path / "note"
    compiler = executable(
        "import os, sys, time\n"
        "if '--version' in sys.argv: sys.exit(print('Edge TPU Compiler version 16.0.384591198'))\n"
        f"with open({str(note)!r}, 'w') as file: file.write(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    done = trained.deploy("--formats", "float32")
    assert done.code == 0, done.err
    folder = trained.path / "deploy" / "test"
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    thread = when(
        lambda: note.exists() and bool(note.read_text()),
        lambda: os.kill(os.getpid(), signal.SIGTERM),
    )
    flags = ("--formats", "int8,edgetpu", "--edgetpu_compiler", compiler, "--overwrite")
    result = trained.deploy(*flags)
    thread.join()
    assert (result.code, result.err) == (143, "error: terminated by SIGTERM.\n")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert not any(path.name.startswith(".") for path in folder.iterdir())
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.read_text()), 0)


def test_sigterm_ends_predictions_with_their_process(
    exported_digits: Exported, tmp_path: Path
) -> None:
    image = write_image(tmp_path / "0.png", 0)
    for i in range(1, 5000):
        os.link(image, tmp_path / f"{i}.png")
    command = [sys.executable, "-m", "kerakit", "predict", str(exported_digits.int8), str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # the first prediction: the worker runs
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.terminate()
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "error: terminated by SIGTERM.\n")
    assert children
    assert not any(Path("/proc", child).exists() for child in children)


def test_a_model_of_another_export_than_its_report_is_refused(
    exported_digits: Exported, tmp_path: Path
) -> None:
    from kerakit.deploy import load_exported

    folder = Path(shutil.copytree(exported_digits.folder, tmp_path / "deploy"))
    load_exported(folder)
    model = folder / "model.tflite"
    model.write_bytes(model.read_bytes() + b"\0")
    with pytest.raises(UserError, match="SHA-256 differs"):
        load_exported(folder)
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, "status": "incomplete"}))
    with pytest.raises(UserError, match="of two exports"):
        load_exported(folder)


# ---------------------------------------------------------------------------------------- start-up

SIGNAL_NOW = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"


@pytest.mark.parametrize(
    "command", ["train.py", "evaluate.py", "deploy.py", "predict.py", "-m kerakit"]
)
def test_ctrl_c_during_the_imports_is_silent(command: str, tmp_path: Path) -> None:
    """Before the flags are parsed: at the import of config.py, or of what it imports."""
    for name in ("config", "tyro"):
        (tmp_path / f"{name}.py").write_text(SIGNAL_NOW)
    if command.endswith(".py"):
        shutil.copy(PROJECT / command, tmp_path)
    done = subprocess.run(
        [sys.executable, *command.split(), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_ctrl_c_is_an_error_with_a_message_once_flags_are_parsed() -> None:
    source = """
import signal, sys
import kerakit
kerakit.exit_on_interrupt()
sys.argv = ["train.py"]
kerakit.parse_args(kerakit.Config)
signal.raise_signal(signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (130, b"error: interrupted.\n")
