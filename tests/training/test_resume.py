"""Trainings that are killed and resumed: the same end, to the bit."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fork_server import ForkServer
from kerakit import Run
from kerakit.state_folder import StateFolder
from projects import Project, copy_project, edit
from resuming import Trainings, add_tiny_model, assert_equal

SCENARIOS = {
    "phases": ("--jitter", "--learning_rate", "auto"),
    "scratch": ("--strategy", "scratch", "--ema", 0.9, "--mixup", 0.2, "--class_weights"),
}
"""Flags of a training on cached features in two phases, and of one on images."""

KILLS: dict[str, list[tuple[str, int]]] = {
    "phases": [
        *(("file", 5), ("save", 4), ("save", 45), ("step", 20), ("epoch", 1), ("epoch_end", 1)),
        *(("validation", 3), ("save", 30), ("begin", 2), ("phase", 3), ("file", 30), ("save", 7)),
        *(("save_end", 3), ("epoch_end", 1)),
    ],
    "scratch": [
        *(("save", 9), ("save", 40), ("validation", 2), ("save", 26), ("epoch_end", 1)),
        *(("step", 3), ("epoch", 5), ("file", 25), ("phase", 20)),
    ],
}
"""Points of ``kill_points`` where a training is killed and resumed; a save after each step."""


@pytest.fixture(scope="module")
def trainings(
    tmp_path_factory: pytest.TempPathFactory, project_once: Project, photos_once: Path
) -> Iterator[Trainings]:
    """A project with the tiny model, where a save may take any fraction of the time."""
    folder = tmp_path_factory.mktemp("resume") / "project"
    project = add_tiny_model(copy_project(project_once.path, folder, photos_once))
    plateau = 'callbacks.append(keras.callbacks.ReduceLROnPlateau("loss", patience=1, cooldown=1))'
    edit(project.path / "callbacks.py", "    callbacks += trackers\n", f"    {plateau}\n")
    server = ForkServer(MAX_FRACTION="inf", TMPDIR=str(folder.parent))
    yield Trainings(server, project)
    server.close()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_killed_training_ends_as_one_that_was_not(trainings: Trainings, scenario: str) -> None:
    """A kill in a save, in a validation, at the exact end of an epoch, between the phases, ..."""
    flags, whole, cut = SCENARIOS[scenario], f"{scenario}-whole", f"{scenario}-cut"
    trainings.finish(whole, *flags)
    for kind, number in KILLS[scenario]:  # test_hundreds_of_kills has more
        assert trainings.kill(cut, *flags, kind=kind, number=number), (kind, number)
    trainings.finish(cut, "--resume", "auto", *flags)
    assert_equal(trainings.run(whole), trainings.run(cut))
    assert "is complete: " in trainings.finish(cut, "--resume", "auto", *flags)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 33), (signal.SIGINT, 130)])
def test_a_signal_saves_and_says_how_to_resume(
    trainings: Trainings, number: signal.Signals, code: int
) -> None:
    """Also in the first epoch on cached features, and with a second Ctrl-C right after."""
    name, flags = f"signal-{code}", ("--save_minutes", 0, "--head_epochs", 100_000)
    child = trainings.start(name, *flags)
    history = trainings.run(name).history
    while not history.exists() and child.is_running():
        time.sleep(0.01)
    child.kill(number)
    time.sleep(0.05)
    if number == signal.SIGINT:
        child.kill(number)
    assert child.wait() == code, child.output
    assert "To resume, repeat your command with --resume" in child.output
    assert "Traceback" not in child.output
    run = trainings.run(name)
    epochs = len(run.read_history())
    assert epochs > 0
    assert run.list_checkpoints()
    state = StateFolder(run.state).load()
    assert state is not None
    if number == signal.SIGTERM:  # a second Ctrl-C may come before the save
        assert state.values["epoch"] == epochs
    output = trainings.finish(name, "--resume", "--num_epochs", 1, "--allow_changes")
    message = rf"resuming progress/{name} from its saved state: phase head, (.+) epoch \d+\n"
    (position,) = re.findall(message, output)
    assert position == "before" or re.fullmatch(r"after batch [1-9] of \d+ in", position)


def test_what_may_change_and_what_may_not(trainings: Trainings) -> None:
    """Flags of a complete run: more epochs are trained, another model is not."""
    flags = ("--strategy", "scratch")
    trainings.finish("changed", *flags)
    run = trainings.run("changed")

    def rejected(*more: object) -> str:
        child = trainings.start("changed", *flags, *more)
        assert child.wait() == 2, child.output
        return child.output

    assert "already holds a run" in rejected()
    assert "mutually exclusive" in rejected("--resume", "--overwrite")
    message = rejected("--resume", "--num_epochs", 4, "--batch_size", 8)
    assert "--batch_size 4, now 8, --num_epochs 3, now 4. Pass --allow_changes" in message
    assert "cannot be resumed so. --model was tiny, now small_cnn" in rejected(
        "--resume", "--model", "small_cnn"
    )
    assert "--seed was 0, now 1" in rejected("--resume", "--seed", 1, "--allow_changes")
    more = ("--resume", "--num_epochs", 4, "--batch_size", 8, "--allow_changes")
    output = trainings.finish("changed", *flags, *more)
    assert "changed: --batch_size 4, now 8, --num_epochs 3, now 4" in output
    assert [row["epoch"] for row in run.read_history()] == [1, 2, 3, 4]
    config = json.loads(run.config.read_text())
    assert (config["num_epochs"], config["batch_size"]) == (4, 8)


def test_a_damaged_state_is_named_and_the_one_before_is_taken(trainings: Trainings) -> None:
    flags = ("--strategy", "scratch", "--learning_rate", 0.002)
    trainings.finish("intact", *flags)
    assert trainings.kill("damaged", *flags, kind="save_end", number=2)
    newest = StateFolder(trainings.run("damaged").state).find()[0]
    with (newest / "arrays.npz").open("r+b") as file:
        file.seek(500)
        file.write(b"?")
    output = trainings.finish("damaged", "--resume", *flags)
    assert f"WARNING: the saved state progress/damaged/state/{newest.name} is damaged" in output
    assert_equal(trainings.run("intact"), trainings.run("damaged"))


def test_other_data_is_refused(trainings: Trainings, photos: Path) -> None:
    """An image that was added since; the record of the split remains."""
    flags = ("--data_dir", photos)
    assert trainings.kill("data", *flags, kind="save_end", number=1)
    split = trainings.run("data").split.read_bytes()
    extra = photos / "apple" / "new.png"
    extra.write_bytes((photos / "apple" / "00.png").read_bytes())
    child = trainings.start("data", "--resume")
    assert child.wait() == 2
    assert "its images, or their split, changed since it was started" in child.output
    assert trainings.run("data").split.read_bytes() == split
    extra.unlink()
    trainings.finish("data", "--resume")


def test_resume_without_a_run(trainings: Trainings) -> None:
    child = trainings.start("absent", "--resume")
    assert child.wait() == 2
    assert "there is no run in progress/absent to resume" in child.output
    assert not trainings.run("absent").path.exists()


def test_the_best_checkpoint_of_an_epoch_is_not_replaced_by_a_worse_one(tmp_path: Path) -> None:
    """A repeated epoch may differ where kernels add in an order that varies."""
    import keras

    from kerakit.training import Checkpoints

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    run = Run(tmp_path / "run").create()
    checkpoints = Checkpoints(run, "val_accuracy", higher_is_better=True)
    checkpoints.set_model(model)
    for value, expected in ((0.9, 0.9), (0.8, 0.9), (0.95, 0.95)):
        model.set_weights([weight + value for weight in model.get_weights()])
        before = run.best().read_bytes() if run.list_checkpoints() else b""
        checkpoints.on_epoch_end(4, {"val_accuracy": value})
        assert [(one.epoch, one.value) for one in run.list_checkpoints()] == [(5, expected)]
        assert (run.best().read_bytes() == before) == (value == 0.8)
    assert np.isfinite(run.list_checkpoints()[0].value or np.nan)
