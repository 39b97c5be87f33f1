"""The run folder: what a training leaves behind. The names of its files are known here and nowhere else."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from kerakit.errors import UserError
from kerakit.files import make_folder, replacing, require_space, sha256, write_json, write_text


@dataclass(frozen=True)
class Checkpoint:
    """A weights file that a run keeps.

    Attributes:
        file: its name in the folder of checkpoints.
        epoch: the epoch that it ended, counted from 1.
        value: the monitored value at its end (lower is better unless the run says otherwise); NaN is kept as None.
        sha256: of the file's bytes, 64 hexadecimal digits.
    """

    file: str
    epoch: int
    value: float | None
    sha256: str


class Run:
    """A run folder.

    Args:
        path: the folder; it needs not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config = self.path / "config.json"
        self.checkpoints = self.path / "ckpt"
        self.index = self.checkpoints / "index.json"
        self.logs = self.path / "logs"
        self.history = self.path / "history.csv"
        self.plots = self.path / "plots"
        self.evaluation = self.path / "evaluation.json"
        self.report = self.path / "report.json"
        self.page = self.path / "report.html"

    # ------------------------------------------------------------------------------------------------ create and open

    def refuse_existing(self, overwrite: bool) -> None:
        """Raise UserError if training into this folder would lose something. Changes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --save_to expects a folder.")
        if not self.path.is_dir() or not any(self.path.iterdir()):
            return
        ours = (self.config, self.checkpoints, self.logs, self.history, self.plots, self.evaluation, self.report, self.page)
        in_the_way = [path for path in ours if path.exists()]
        if in_the_way and not self._is_run():
            raise UserError(f"{in_the_way[0]} was not written by Kerakit, so it stays. Choose another --save_to.")
        if in_the_way and not overwrite:
            raise UserError(f"{self.path} already holds a run. Choose another --save_to, or give --overwrite to replace it.")

    def _is_run(self) -> bool:
        """Whether this folder's config.json is one of ours; other programs have files of that name too."""
        try:
            return "kerakit" in json.loads(self.config.read_text(encoding="utf-8"))
        except (OSError, ValueError, TypeError):
            return False

    def create(self, overwrite: bool = False) -> Self:
        """Make the folder, empty of an earlier run's checkpoints, logs and history; other files in it stay.

        Raises:
            UserError: the folder holds a run and ``overwrite`` is false, or it holds something else under a run's names.
        """
        self.refuse_existing(overwrite)
        make_folder(self.path)
        self._remove(keep=self.config)
        make_folder(self.checkpoints)
        make_folder(self.logs)
        make_folder(self.plots)
        return self

    def discard_if_empty(self) -> None:
        """Remove what a training left that ended before its first checkpoint, so that it can simply be started again."""
        if not self.kept():
            self.remove()

    def remove(self) -> None:
        """Remove the run, and its folder if nothing else is in it."""
        self._remove()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _remove(self, keep: Path | None = None) -> None:
        """Remove our files, and folders of ours that are empty then; links are not followed."""
        ours = [self.history, self.index, *self.checkpoints.glob("*epoch-*.weights.h5"), self.config]
        ours += [self.evaluation, self.report, self.page]
        ours += [self.plots / f"{name}.png" for name in ("train_batch", "val_batch", "curves", "confusion", "mistakes")]
        ours += [path for path in self.logs.rglob("events.out.tfevents.*") if not self.logs.is_symlink()]
        for path in ours:
            if path != keep:
                path.unlink(missing_ok=True)
        for folder in (self.logs / "train", self.logs / "validation", self.logs, self.checkpoints, self.plots):
            with contextlib.suppress(OSError):
                folder.rmdir()

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """Open a folder that holds a run.

        Raises:
            UserError: no such folder, or no run in it.
        """
        run = cls(path)
        if not run.path.is_dir():
            raise UserError(f"there is no folder {run.path}. Expected the folder that train.py got as --save_to.")
        if not run.config.is_file():
            raise UserError(f"{run.path} holds no config.json: it is no run. Expected the --save_to of train.py.")
        return run

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def kept(self) -> list[Checkpoint]:
        """Return the checkpoints that are there, best first.

        Raises:
            UserError: the list of checkpoints is missing or damaged.
        """
        try:
            records = json.loads(self.index.read_text(encoding="utf-8"))
            return [Checkpoint(**record) for record in records]
        except FileNotFoundError:
            return []
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise UserError(f"{self.index} is damaged: {error}. Restore it from a copy, or train again.") from None

    def add_checkpoint(self, model: Any, epoch: int, value: float) -> Checkpoint:
        """Save the weights of ``model`` (a ``keras.Model``) as the checkpoint of ``epoch`` and list it."""
        path = self.checkpoints / f"epoch-{epoch:04d}.weights.h5"
        require_space(self.checkpoints, bytes_of(model))
        with replacing(path) as temporary:
            model.save_weights(temporary)
        checkpoint = Checkpoint(path.name, epoch, value if math.isfinite(value) else None, sha256(path))
        self._write_index([checkpoint, *self.kept()])
        return checkpoint

    def keep_best(self, count: int, higher_is_better: bool = False) -> None:
        """Rank the checkpoints and remove all but the ``count`` best. A later one of two equals ranks first."""
        sign = -1.0 if higher_is_better else 1.0

        def rank(checkpoint: Checkpoint) -> tuple[float, int]:
            value = math.inf if checkpoint.value is None else sign * checkpoint.value
            return value, -checkpoint.epoch

        ranked = sorted(self.kept(), key=rank)
        # The list first: a kill in between leaves a file that nobody lists, never a listed file that is gone.
        self._write_index(ranked[:count])
        for checkpoint in ranked[count:]:
            (self.checkpoints / checkpoint.file).unlink(missing_ok=True)

    def best(self) -> Path:
        """Return the weights file of the best checkpoint, after checking its bytes.

        Raises:
            UserError: there is none, or it is not what was written.
        """
        kept = self.kept()
        if not kept:
            raise UserError(f"{self.path} holds no checkpoint: the training ended before its first epoch did. Train again.")
        path = self.checkpoints / kept[0].file
        if not path.is_file():
            raise UserError(f"the checkpoint {path} is missing. Restore it from a copy, or train again.")
        if sha256(path) != kept[0].sha256:
            raise UserError(f"the checkpoint {path} is damaged: its SHA-256 differs. Restore it from a copy, or train again.")
        return path

    def _write_index(self, checkpoints: list[Checkpoint]) -> None:
        write_json(self.index, [asdict(checkpoint) for checkpoint in checkpoints])

    # ---------------------------------------------------------------------------------------------------------- history

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """Write one row an epoch as CSV; the columns are the keys of the first row."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), restval="", extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.history, text.getvalue())

    def read_history(self) -> list[dict[str, float]]:
        """Return what ``write_history`` wrote; what was not there is left out."""
        with self.history.open(encoding="utf-8", newline="") as file:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]


def bytes_of(model: Any) -> int:
    """Return about how large a file of the weights of ``model`` gets, in bytes: float32 and HDF5's own structures."""
    return int(sum(math.prod(weight.shape) for weight in model.weights) * 4 * 1.05) + 2**20


def load_weights(model: Any, path: Path) -> None:
    """Load a weights file into ``model`` (a ``keras.Model``).

    Raises:
        UserError: no such file, a damaged one, or one that was saved from another model.
    """
    if not path.is_file():
        raise UserError(f"there is no file {path}. Expected a checkpoint (.weights.h5) or a run folder.")
    if not path.name.endswith(".weights.h5"):
        raise UserError(f"{path} is no checkpoint: expected a name that ends in .weights.h5.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras names each layer that does not fit; one line says it below
            model.load_weights(path)
    except (ValueError, KeyError):
        raise UserError(
            f"{path} does not fit this model ({model.name}): its layers or their shapes differ. "
            "Was it trained with another --model, --input_size or number of classes?"
        ) from None
    except OSError as error:
        raise UserError(f"{path} is damaged: {str(error).splitlines()[0]}. Restore it from a copy, or train again.") from None


def find_weights(path: Path) -> Path:
    """Return ``path`` if it is a weights file, or the best checkpoint if it is a run folder."""
    return Run.open(path).best() if path.is_dir() else path
