"""The run folder of a training run: the only definition of its file names."""

from __future__ import annotations

import contextlib
import csv
import io
import math
import re
import sys
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Self

from kerakit import __version__
from kerakit.checkpoint import WEIGHTS_FILE, Checkpoint, sort_key
from kerakit.errors import JobError, UserError
from kerakit.files import (
    RESTORE,
    OutputFolder,
    atomic_write,
    check_disk_space,
    damaged,
    make_dir,
    read_json,
    remove_temporary_files,
    sha256,
    write_json,
    write_text,
)
from kerakit.locks import (
    check_unlocked,
    find_holder,
    is_locked_here,
    is_lost,
    lock_folder,
    locked,
    unlock_folder,
)
from kerakit.set_aside import SetAside
from kerakit.signals import shielded
from kerakit.state_folder import StateFolder
from kerakit.weights import estimate_weights_size

if TYPE_CHECKING:
    import keras

_PLOTS = ("train_batch", "val_batch", "curves", "confusion_matrix", "mistakes")

_STARTED = {"kerakit": __version__}
"""Content of config.json until the flags of the run are written."""

MIN_SECONDS = 60
"""Shortest training before the end of the first epoch that Ctrl-C and errors do not discard."""

_TEMPORARY = r"(\.[0-9a-f]{8}\.)?"
"""Prefix of the files that a killed process leaves half-written: see ``atomic_write``."""


class RunLostError(JobError):
    """The folder of a run was removed or replaced while a training wrote to it."""


class Run(OutputFolder):
    """A run folder.

    Args:
        path: the folder; it need not exist.

    Attributes:
        config: path of config.json.
        checkpoints: path of the checkpoint folder.
        index: path of the list of checkpoints.
        logs: path of the TensorBoard logs.
        split: path of split.csv, the split of each image.
        history: path of history.csv, one row per epoch.
        plots: path of the folder of plots.
        evaluation: path of evaluation.json.
        report: path of report.json.
        page: path of report.html.
        labels: path of labels.html, the page of `kerakit check --labels`.
        state: path of the folder of saved states, for a resume.
        complete: path of the record that the training is complete.

    >>> Run("progress/test").history.as_posix()
    'progress/test/history.csv'
    """

    kind = "run"
    advice = "--resume to continue it, or "

    def __init__(self, path: Path | str) -> None:
        super().__init__(path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "ckpt"
        self.index = self.checkpoints / "index.json"
        self.logs = self.path / "logs"
        self.split = self.path / "split.csv"
        self.history = self.path / "history.csv"
        self.plots = self.path / "plots"
        self.evaluation = self.path / "evaluation.json"
        self.report = self.path / "report.json"
        self.page = self.path / "report.html"
        self.labels = self.path / "labels.html"
        self.state = self.path / "state"
        self.complete = self.state / "complete.json"
        self._previous = SetAside(self.path)
        self._files = (
            *(self.config, self.split, self.history, self.evaluation, self.report, self.page),
            *(self.labels, self.complete),
        )

    # ------------------------------------------------------------------------------ create and open

    def owned(self) -> list[Path]:
        """Return the files and folders of a run."""
        return [*self._files, self.checkpoints, self.logs, self.plots, self.state]

    def is_ours(self) -> bool:
        """Whether config.json is one of ours; other programs have files of that name too."""
        try:
            return "kerakit" in read_json(self.config, dict)
        except (OSError, UserError):
            return False

    def recorded(self) -> Collection[Path]:
        """Return the paths of a run, if config.json is one of ours."""
        return self.owned() if self.is_ours() else []

    def has_results(self) -> bool:
        """Whether an epoch was completed; otherwise the same command can be repeated."""
        is_trained = self.history.exists() or self.index.exists() or any(self._saved_weights())
        return is_trained or self._has_state()

    def check_new(self, overwrite: bool) -> None:
        """Raise UserError if another process trains here, or if a run would be replaced."""
        check_unlocked(self.path)
        self._recover()
        super().check_new(overwrite)

    def create(self, overwrite: bool = False, resume: bool = False) -> Self:
        """Create the folder and lock it until this process ends.

        An earlier run is set aside until the first checkpoint replaces it; if there is none, it is
        restored. Other files are kept.

        Args:
            overwrite: replace an existing run.
            resume: continue an existing run, all of whose files are kept.

        Raises:
            UserError: the folder contains a run and ``overwrite`` is false, or files of
                another program with the names of a run, or another process writes to it.
        """
        if not resume:
            self.check_new(overwrite)
        lock_folder(self.path)
        if not resume:
            super().check_new(overwrite)  # another process may have written meanwhile
            if self._previous.exists():
                self._restore()  # of a run before that has a saved state alone
            if self.is_ours() and self.has_results():
                self._previous.add(self._owned_files())
        # Before all others: whatever ends this process, the folder is recognized as a run.
        if not self.config.exists():
            write_json(self.config, _STARTED)
        if not resume:
            self._remove(keep=self.config)
        for folder in (self.checkpoints, self.logs, self.plots):
            make_dir(folder)
        return self

    def _recover(self) -> None:
        """After a kill: restore an earlier run that nothing has replaced."""
        # In this process, a training is running: it has not replaced the earlier run yet.
        if not self._previous.exists() or is_locked_here(self.path):
            return
        # Another process trains, or the folder is read-only.
        with contextlib.suppress(UserError, OSError), locked(self.path):
            if self._previous.is_whole() and self.list_checkpoints():
                self._previous.remove()
            elif not (self._previous.is_whole() and self._has_state()):
                self._restore()
            # With a saved state and no checkpoint, both stay: a resume may continue this run.

    def _has_state(self) -> bool:
        """Whether there is a saved state; the folder of one that was set aside is empty."""
        return any(any(state.iterdir()) for state in StateFolder(self.state).find())

    def _restore(self) -> None:
        """Restore the earlier run, in place of one without a checkpoint."""
        if self._previous.is_whole():
            self._remove()
        self._previous.restore()
        print(f"{self.path}: the earlier run is restored; nothing has replaced it.", flush=True)

    def drop_previous(self) -> None:
        """Remove the earlier run that was set aside: this one has replaced it."""
        if self._previous.exists():
            self._previous.remove()

    def check_intact(self) -> None:
        """Raise RunLostError if the run folder was removed or replaced while this process uses it.

        A folder in it that was removed is created again.
        """
        if is_lost(self.path):
            raise RunLostError(
                f"{self.path} was removed or replaced while the training wrote to it. Nothing more "
                "is saved there: train again, and leave the folder as it is."
            )
        for folder in (self.checkpoints, self.logs, self.plots):
            if is_locked_here(self.path) and not folder.is_dir():
                try:
                    make_dir(folder)
                except UserError:
                    continue  # whatever is written to it will say so
                print(
                    f"WARNING: {folder} was removed or replaced while the training wrote to it; it "
                    "is created again, without what it held.",
                    file=sys.stderr,
                )

    def discard_if_empty(self, seconds: float = 0) -> None:
        """Remove a run without a completed epoch, so that the same command can be repeated.

        Args:
            seconds: of training; a saved state remains from a minute on.
        """
        is_trained = seconds > MIN_SECONDS or self.history.exists()
        is_saved = is_trained and self._has_state()
        if not (is_saved or self.list_checkpoints()):
            self.remove()

    def remove(self) -> None:
        """Remove the run, and its folder if that is empty then."""
        if self._previous.exists():
            self._restore()
        else:
            self._remove()
        unlock_folder(self.path)
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _owned_files(self) -> list[Path]:
        """Return our files that exist; links to folders are not followed."""
        logs = [] if self.logs.is_symlink() else self.logs.rglob("events.out.tfevents.*")
        files = [
            self.index,
            *self._weights_files(),
            *(file for state in StateFolder(self.state).find() for file in state.iterdir()),
            *(self.plots / f"{name}.png" for name in _PLOTS),
            *logs,
            # config.json last: ``is_ours`` recognizes a run by it, also after a kill.
            *reversed(self._files),
        ]
        return [path for path in files if path.is_symlink() or path.exists()]

    def _remove(self, keep: Path | None = None) -> None:
        """Remove our files, and our folders where they are empty then."""
        plots = (self.plots / f"{name}.png" for name in _PLOTS)
        remove_temporary_files([*self._files, self.index, *plots])
        for path in self._owned_files():
            if path != keep:
                path.unlink(missing_ok=True)
        StateFolder(self.state).prune(0)
        for folder in (
            self.logs / "train",
            self.logs / "validation",
            self.logs,
            self.checkpoints,
            self.plots,
        ):
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _weights_files(self) -> list[Path]:
        return [
            path
            for path in self.checkpoints.glob("*epoch-*.weights.h5")
            if re.fullmatch(_TEMPORARY + WEIGHTS_FILE, path.name)
        ]

    def _saved_weights(self) -> list[Path]:
        """Return the complete weights files, sorted by epoch, listed as checkpoints or not."""
        files = self._weights_files()
        return sorted(path for path in files if re.fullmatch(WEIGHTS_FILE, path.name))

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open an existing run folder.

        Raises:
            UserError: no such folder, or no run in it.
        """
        run = cls(path)
        run._recover()
        if not run.path.is_dir():
            raise UserError(
                f"there is no folder {run.path}. Expected a run folder: the --save_to of train.py."
            )
        if not run.config.is_file():
            raise UserError(
                f"{run.path} is not a run: it has no config.json. Expected the --save_to of "
                "train.py."
            )
        if read_json(run.config, dict).keys() == _STARTED.keys():
            run._check_not_training()
            raise UserError(
                f"{run.path} holds no model: training ended before it began its first epoch. "
                "Repeat the command of train.py."
            )
        return run

    # ---------------------------------------------------------------------------------- checkpoints

    def list_checkpoints(self) -> list[Checkpoint]:
        """Return the saved checkpoints, best first.

        Raises:
            UserError: the list of checkpoints is damaged.
        """
        records = read_json(self.index, list) if self.index.exists() else []
        try:
            return [Checkpoint(**record) for record in records]
        except (TypeError, ValueError) as error:
            raise damaged(self.index, error) from None

    def add_checkpoint(
        self,
        model: keras.Model,
        epoch: int,
        value: float,
        limit: int | None = None,
        higher_is_better: bool = False,
    ) -> Checkpoint:
        """Save the weights of ``model`` as the checkpoint of ``epoch``; keep the best ones.

        Ctrl-C waits until it is saved. From the first checkpoint on, the run replaces an earlier
        one that was set aside.

        Args:
            model: the model.
            epoch: counted from 1.
            value: the monitored metric; ties: the later epoch is the better one.
            limit: number of checkpoints to keep; None: all.
            higher_is_better: whether larger values are better.
        """
        path = self.checkpoints / f"epoch-{epoch:04d}.weights.h5"
        self.check_intact()
        with shielded():
            check_disk_space(self.checkpoints, estimate_weights_size(model))
            listed = self.list_checkpoints()
            others = [one for one in listed if one.file != path.name]
            if len(others) < len(listed):
                self._write_index(others)  # no entry has the SHA-256 of a file that is replaced
            with atomic_write(path) as temporary:
                model.save_weights(temporary)
            checkpoint = Checkpoint(
                path.name, epoch, value if math.isfinite(value) else None, sha256(path)
            )
            ranked = sorted(
                [checkpoint, *others],
                key=lambda one: (sort_key(one.value, higher_is_better), -one.epoch),
            )
            # Once, and before files are removed: a kill in between leaves an unlisted file, never a
            # listed one that is missing, or the newest in the place of the best.
            try:
                self._write_index(ranked[:limit])
            except OSError:
                path.unlink(missing_ok=True)  # a full disk needs its space
                raise
            for dropped in ranked[limit:] if limit is not None else []:
                (self.checkpoints / dropped.file).unlink(missing_ok=True)
            self.drop_previous()
        return checkpoint

    def _check_not_training(self) -> None:
        """Raise UserError if another process trains here: no checkpoint yet."""
        holder = find_holder(self.path)
        if holder is not None:
            raise UserError(
                f"{self.path} has no checkpoint yet: its training runs ({holder}). Wait until the "
                "first epoch is completed."
            )

    def is_intact(self, checkpoint: Checkpoint) -> bool:
        """Return whether the file of a checkpoint has the SHA-256 that it had when saved."""
        path = self.checkpoints / checkpoint.file
        return path.is_file() and not path.is_symlink() and sha256(path) == checkpoint.sha256

    def drop_checkpoints_after(self, epoch: int) -> None:
        """Remove the checkpoints of later epochs, which are trained again with other settings."""
        checkpoints = self.list_checkpoints()
        later = [one for one in checkpoints if one.epoch > epoch]
        if later:
            self._write_index([one for one in checkpoints if one.epoch <= epoch])
        for checkpoint in later:
            (self.checkpoints / checkpoint.file).unlink(missing_ok=True)

    def best(self) -> Path:
        """Return the path of the best checkpoint's weights file, after verifying its SHA-256.

        Raises:
            UserError: there is no checkpoint, or its file is missing or damaged.
        """
        checkpoints = self.list_checkpoints()
        if not checkpoints:
            self._check_not_training()
            if saved := self._saved_weights():
                raise UserError(
                    f"{self.path} has no checkpoint: training ended while it saved its first one, "
                    f"{saved[-1].name}. To continue from that file, pass {saved[-1]} to "
                    "train.py --from_ckpt, with another --save_to."
                )
            epochs = len(self.read_history()) if self.history.exists() else 0
            if epochs:
                raise UserError(
                    f"{self.path} has no checkpoint: the training ended before it saved one, after "
                    f"{epochs} epoch{'s' * (epochs != 1)} in history.csv. Train again."
                )
            raise UserError(
                f"{self.path} has no checkpoint: training ended before the first epoch was "
                "completed. Train again."
            )
        path = self.checkpoints / checkpoints[0].file
        if path.is_symlink():
            raise UserError(
                f"the checkpoint {path} is a link to a file outside the run. Replace it by the "
                "file itself."
            )
        if not path.is_file():
            raise UserError(f"the checkpoint {path} is missing. {RESTORE}")
        if sha256(path) != checkpoints[0].sha256:
            raise damaged(path, "its SHA-256 differs")
        return path

    def _write_index(self, checkpoints: list[Checkpoint]) -> None:
        write_json(self.index, [asdict(checkpoint) for checkpoint in checkpoints])

    # -------------------------------------------------------------------------------------- history

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """Write one row per epoch as CSV; the columns are the keys of the first row."""
        text = io.StringIO()
        writer = csv.DictWriter(
            text, fieldnames=list(rows[0]), restval="", extrasaction="ignore", lineterminator="\n"
        )
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history, text.getvalue())

    def read_history(self) -> list[dict[str, float]]:
        """Return the rows of ``write_history``, without empty cells.

        Raises:
            UserError: the file is damaged.
        """
        try:
            if self.history.exists() and not self.history.is_file():
                raise ValueError("it is not a file")  # reading a device would not end
            with self.history.open(encoding="utf-8", newline="") as file:
                rows = [
                    {name: float(value) for name, value in row.items() if value}
                    for row in csv.DictReader(file)
                ]
            if not all("epoch" in row for row in rows):
                raise ValueError("a row has no epoch")
        except (ValueError, TypeError, AttributeError, csv.Error) as error:
            raise damaged(self.history, error) from None
        return rows
