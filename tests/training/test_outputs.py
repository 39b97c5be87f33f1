"""Files of a run that cannot be written, or are removed, while the training runs."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import h5py
import pytest

from kerakit import Run
from kerakit.state_folder import StateFolder
from kerakit.training import state_callback
from kerakit.training.outputs import Output, describe
from projects import Project, Result, edit
from resuming import read_scalars

ACTION = """
import resource, shutil
from pathlib import Path


class Action(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        act(Path(PATH), epoch + 1)
"""

FULL = """
def act(run, epoch):
    if epoch in (2, {last}):
        size = 100 if epoch == 2 else resource.RLIM_INFINITY
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
"""

GONE = """
def act(run, epoch):
    for name in {names}.get(epoch, ()):
        (shutil.rmtree if (run / name).is_dir() else Path.unlink)(run / name)
"""

EPOCHS = 4
FLAGS = ("--jitter", "--num_epochs", EPOCHS, "--batch_size", 4)
"""Those of the fixture ``trained``."""


def weights(path: Path) -> dict[str, bytes]:
    """Return the weights of a checkpoint, without the optimizer."""
    found = {}
    with h5py.File(path) as file:
        file["layers"].visititems(
            lambda name, one: (
                found.update({name: one[()].tobytes()}) if isinstance(one, h5py.Dataset) else None
            )
        )
    return found


def train(project: Project, action: str, *flags: object) -> Result:
    """Train with an action at the start of each epoch."""
    path = project.path / "callbacks.py"
    before = path.read_text()
    source = ACTION.replace("PATH", repr(str(project.path / "progress" / "test"))) + action
    path.write_text(before + source)
    edit(path, "    callbacks += trackers\n", "    callbacks += [Action(), *trackers]\n")
    try:
        return project.train(*FLAGS, "--save_minutes", 0, *flags)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        path.write_text(before)


@pytest.fixture
def every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the state be saved after each epoch, whatever that costs."""
    monkeypatch.setattr(state_callback, "MAX_FRACTION", 1e9)


@pytest.mark.usefixtures("every_epoch")
def test_a_training_continues_though_its_disk_is_full(trained: Project) -> None:
    """``ulimit -f`` in epochs 2 and 3, then to the end: the files are those of no fault."""
    run = Run(trained.path / "progress" / "test")
    history, best = run.history.read_bytes(), run.list_checkpoints()
    before = weights(run.best())

    result = train(trained, FULL.format(last=4), "--overwrite")
    assert result.code == 0, result.err
    for what in ("saved state", "checkpoint of epoch 2", "checkpoint of epoch 3", "TensorBoard"):
        assert f"WARNING: not written: {what}" in result.err
    assert result.err.count("history.csv: the limit on the size of files (ulimit -f)") == 2
    assert "checkpoint of epoch 4 is written again" in result.out
    assert run.history.read_bytes() == history
    assert run.list_checkpoints()[0].epoch == 3  # held in memory until epoch 4
    assert weights(run.best()) == before
    # Files of a writer that failed are readable up to the failure, and others are begun after it.
    steps = [
        (folder, step) for folder, tag, step, _ in read_scalars(run.logs) if tag == "epoch_loss"
    ]
    assert steps == [(folder, step) for folder in ("train", "validation") for step in (0, 3)]

    result = train(trained, FULL.format(last=9), "--overwrite")
    assert result.code == 1
    assert "error: the training has ended, but files are missing: checkpoint of" in result.err
    assert "repeat your command with --resume, which writes them" in result.err
    assert "Traceback" not in result.err
    assert [one.epoch for one in run.list_checkpoints()] == [1]
    assert len(StateFolder(run.state).find()) == 1
    assert not any(path.name.startswith(".") for path in run.path.rglob("*"))
    result = trained.train(*FLAGS, "--resume", "auto")
    assert result.code == 0, result.err
    assert run.history.read_bytes() == history
    assert run.list_checkpoints() == best


@pytest.mark.usefixtures("every_epoch")
def test_folders_and_files_that_are_removed_while_training(project: Project) -> None:
    names = {2: ["ckpt"], 3: ["plots", "logs"], 4: ["state", "config.json", "split.csv"]}
    result = train(project, GONE.format(names=names))
    assert result.code == 0, result.err
    run = Run.open(project.path / "progress" / "test")
    for name in ("ckpt", "plots", "logs"):
        assert f"WARNING: progress/test/{name} was removed or replaced" in result.err
    for name in ("config.json", "split.csv"):
        assert f"WARNING: progress/test/{name} was removed; it is written again" in result.err
    assert {one.epoch for one in run.list_checkpoints()} <= {2, 3, 4}
    assert run.best().is_file()
    assert len(run.read_history()) == EPOCHS
    assert (run.plots / "curves.png").is_file()
    assert run.complete.is_file()
    last = [step for _, tag, step, _ in read_scalars(run.logs) if tag == "epoch_loss"]
    assert EPOCHS - 1 in last
    assert project.call("evaluate.py", "--read_from", "progress/test").code == 0


def test_a_run_folder_that_disappears_while_training_is_named(project: Project) -> None:
    """Nothing is written to what has replaced it."""
    run = project.path / "progress" / "test"
    action = """
def act(run, epoch):
    if epoch == 2:
        run.rename(run.with_name("moved"))
        run.mkdir()
"""
    result = train(project, action)
    assert result.code == 1
    assert "progress/test was removed or replaced while the training wrote to it" in result.err
    assert "Traceback" not in result.err
    assert not any(path.is_file() for path in run.rglob("*"))
    assert run.with_name("moved").is_dir()


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a"), "Permission denied (a)"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
        (RuntimeError("Can't write (No space left on device)"), "the disk is full"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_file_errors_are_described(
    error: Exception, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert describe(error) == text
    output = Output("report.html")

    def write(error: Exception | None) -> str:
        with output.writing():
            if error:
                raise error
        return output.failure

    assert write(error) == f"report.html: {text}"
    assert write(None) == ""
    printed = capsys.readouterr()
    assert f"WARNING: not written: report.html: {text}. Training continues." in printed.err
    assert "report.html is written again" in printed.out


def test_errors_of_code_are_raised() -> None:
    def fail() -> None:
        with Output("report.html").writing():
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
