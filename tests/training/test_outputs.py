"""Files of a run that cannot be written, or are removed, while the training runs."""

from __future__ import annotations

import errno
import resource
from contextlib import nullcontext
from pathlib import Path

import h5py
import keras
import pytest

from kerakit import Run
from kerakit.errors import UserError
from kerakit.state_folder import StateFolder
from kerakit.training import state_callback
from kerakit.training.outputs import Output, describe, tolerate_file_errors
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

OWN = """
        keras.callbacks.TensorBoard(run.path / "own", write_graph=False),
        keras.callbacks.CSVLogger(run.path / "own.csv"),
        keras.callbacks.ModelCheckpoint(run.path / "own.weights.h5", save_weights_only=True),
"""

EPOCHS = 4
FLAGS = ("--jitter", "--num_epochs", EPOCHS, "--batch_size", 4, "--learning_rate", 0.05)


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


def train(project: Project, action: str, *flags: object, own: str = "") -> Result:
    """Train with an action at the start of each epoch, and with callbacks of one's own."""
    path = project.path / "callbacks.py"
    before = path.read_text()
    source = ACTION.replace("PATH", repr(str(project.path / "progress" / "test"))) + action
    path.write_text(before + source)
    edit(path, "    callbacks += trackers\n", f"    callbacks += [Action(), {own} *trackers]\n")
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
def test_a_training_continues_though_its_disk_is_full(project: Project) -> None:
    """``ulimit -f`` in epochs 2 and 3, then to the end: the files are those of no fault."""
    assert project.train(*FLAGS).code == 0
    run = Run(project.path / "progress" / "test")
    history, best = run.history.read_bytes(), run.list_checkpoints()
    before = weights(run.best())

    result = train(project, FULL.format(last=4), "--overwrite", own=OWN)
    assert result.code == 0, result.err
    for name in ("TensorBoard", "CSVLogger", "ModelCheckpoint"):
        assert result.err.count(f"WARNING: not written: {name} in callbacks.py: the limit on") == 2
    assert {
        tag for _, tag, *_ in read_scalars(run.path / "own") if tag.startswith("batch_")
    } == set()
    assert (run.path / "own.weights.h5").is_file()
    assert (run.path / "own.csv").read_text().count("\n") == 1 + EPOCHS
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

    result = train(project, FULL.format(last=9), "--overwrite")
    assert result.code == 1
    assert "error: the training has ended, but files are missing: checkpoint of" in result.err
    assert "repeat your command with --resume, which writes them" in result.err
    assert "Traceback" not in result.err
    assert [one.epoch for one in run.list_checkpoints()] == [1]
    assert len(StateFolder(run.state).find()) == 1
    assert not any(path.name.startswith(".") for path in run.path.rglob("*"))
    result = project.train(*FLAGS, "--resume", "auto")
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


class Own(keras.callbacks.Callback):
    """Raises an error in each hook that is named."""

    def __init__(self, **errors: Exception) -> None:
        super().__init__()
        self.errors = errors

    def on_train_begin(self, _logs: object = None) -> None:
        self.fail("begin")

    def on_train_batch_end(self, _batch: int, _logs: object = None) -> None:
        self.fail("batch")

    def on_epoch_end(self, _epoch: int, _logs: object = None) -> None:
        self.fail("epoch")

    def fail(self, name: str) -> None:
        if name in self.errors:
            raise self.errors[name]


class _OfTensorFlow(Exception):  # noqa: N818
    __module__ = "tensorflow.python.framework.errors_impl"


@pytest.mark.parametrize(
    ("errors", "is_raised"),
    [
        ({"batch": PermissionError(errno.EACCES, "Permission denied", "a")}, False),
        ({"epoch": _OfTensorFlow("a; Read-only file system [Op:Flush]")}, False),
        ({"batch": OSError(errno.EIO, "I/O error", "a"), "epoch": ValueError("closed")}, False),
        ({"begin": FileNotFoundError(errno.ENOENT, "No such file", "a")}, True),
        ({"epoch": ValueError("mine")}, True),
        ({"epoch": _OfTensorFlow("mine")}, True),
        ({"epoch": UserError("mine")}, True),
    ],
)
def test_callbacks_that_are_not_kerakits_may_fail_by_their_files_alone(
    errors: dict[str, Exception], is_raised: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Own(**errors)
    tolerate_file_errors([own])
    calls = (own.on_train_begin, own.on_epoch_begin, own.on_train_batch_end, own.on_epoch_end)
    context = pytest.raises(type(next(iter(errors.values())))) if is_raised else nullcontext()
    with context:
        for hook in calls:
            for _ in range(3 if hook is own.on_train_batch_end else 1):
                hook(*([] if hook is own.on_train_begin else [0]))
    assert capsys.readouterr().err.count("Own in callbacks.py") == int(not is_raised)


def test_errors_of_code_are_raised() -> None:
    def fail() -> None:
        with Output("report.html").writing():
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fail()
