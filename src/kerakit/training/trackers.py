"""MLflow and Weights & Biases: all phases of a training run are logged as one tracked run.

Their own environment variables and files configure where they store it.
"""

from __future__ import annotations

import contextlib
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import keras

from kerakit.errors import UserError, first_line
from kerakit.extras import check_trackers
from kerakit.files import read_json
from kerakit.run import Run
from kerakit.script import INTERRUPTED

Status = Literal["completed", "failed", "interrupted"]


class Tracker(keras.callbacks.Callback, ABC):
    """Base of the trackers: a callback and a context manager (see ``tracking``).

    On entry it logs the configuration of the run, after each epoch the metrics, on exit the files,
    the path of the best checkpoint and the status. If the service fails after the start, the
    training continues without it, with a warning.

    Args:
        run: the run folder, with a config.json on entry.
    """

    title: ClassVar[str]

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._is_active = False
        self.id: str | None = None

    def get_state(self) -> dict[str, Any]:
        """Return the id of the tracked run, which a resumed training continues."""
        return {"id": self.id} if self.id else {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continue the tracked run of a state."""
        self.id = state["id"]

    def __enter__(self) -> Self:
        """Start the tracked run. Raises UserError if the service fails."""
        try:
            self.start(str(self._run.path), read_json(self._run.config, dict))
        except Exception as error:
            with contextlib.suppress(Exception):  # it may have failed after its start
                self.finish("failed")
            raise UserError(
                f"{self.title} did not start: {_sentence(error)} Fix it, or omit it from --track."
            ) from None
        self._is_active = True
        return self

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Log the metrics of an epoch, counted from 1 through all phases."""
        if self._is_active:
            with self._warn_on_error():
                self.log(epoch + 1, {name: float(value) for name, value in (logs or {}).items()})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Log the files and finish the tracked run with the status of the training."""
        with self._warn_on_error():
            files = (self._run.config, self._run.history, *sorted(self._run.plots.glob("*.png")))
            checkpoints = self._run.list_checkpoints()
            best = str(self._run.checkpoints / checkpoints[0].file) if checkpoints else "none"
            self.log_files([path for path in files if path.exists()], best)
        with self._warn_on_error():
            if kind is None:
                self.finish("completed")
            else:
                self.finish("interrupted" if issubclass(kind, KeyboardInterrupt) else "failed")

    @contextlib.contextmanager
    def _warn_on_error(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # Each request to a server that is down may take minutes: none follows.
            self._is_active = False
            print(
                f"WARNING: {self.title} failed; further epochs of this run are not logged: "
                f"{_sentence(error)}",
                file=sys.stderr,
            )

    @abstractmethod
    def start(self, name: str, settings: dict[str, Any]) -> None:
        """Start a tracked run with this name and these settings."""

    @abstractmethod
    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log metrics, with ``epoch`` as their step."""

    @abstractmethod
    def log_files(self, files: list[Path], best: str) -> None:
        """Store copies of ``files``, under their paths in the run folder.

        Args:
            files: to copy.
            best: path of the best checkpoint, which is stored as text.
        """

    @abstractmethod
    def finish(self, status: Status) -> None:
        """Finish the tracked run."""


class MLflow(Tracker):
    """Track with MLflow."""

    title = "MLflow"
    _STATUS: ClassVar[dict[Status, str]] = {
        "completed": "FINISHED",
        "failed": "FAILED",
        "interrupted": "KILLED",
    }

    def start(self, name: str, settings: dict[str, Any]) -> None:
        """Start or resume a run of MLFLOW_EXPERIMENT_NAME; parameters: the settings."""
        import mlflow

        is_resumed = self.id is not None
        self.id = mlflow.start_run(run_id=self.id, run_name=name).info.run_id
        if not is_resumed:  # MLflow rejects other values of a parameter
            mlflow.log_params(settings)

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log metrics."""
        import mlflow

        mlflow.log_metrics(metrics, step=epoch)

    def log_files(self, files: list[Path], best: str) -> None:
        """Log the files as artifacts and the checkpoint's path as a tag."""
        import mlflow

        mlflow.set_tag("best_checkpoint", best)
        for path in files:
            folder = path.parent.relative_to(self._run.path).as_posix()
            mlflow.log_artifact(str(path), None if folder == "." else folder)

    def finish(self, status: Status) -> None:
        """Finish the run as FINISHED, FAILED or KILLED."""
        import mlflow

        mlflow.end_run(self._STATUS[status])


class WandB(Tracker):
    """Track with Weights & Biases."""

    title = "Weights & Biases"
    _CODE: ClassVar[dict[Status, int]] = {"completed": 0, "failed": 1, "interrupted": INTERRUPTED}
    _tracked: Any

    def start(self, name: str, settings: dict[str, Any]) -> None:
        """Start or resume a run of the project in WANDB_PROJECT; config: the settings."""
        import wandb

        resume = "allow" if self.id else None
        self._tracked = wandb.init(name=name, config=settings, id=self.id, resume=resume)
        self.id = self._tracked.id

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log metrics."""
        self._tracked.log(metrics, step=epoch)

    def log_files(self, files: list[Path], best: str) -> None:
        """Save the files with the run and the checkpoint's path in its summary."""
        self._tracked.summary["best_checkpoint"] = best
        for path in files:
            # W&B stores links; the run folder may be replaced before an offline run is uploaded.
            copy = Path(self._tracked.dir) / path.relative_to(self._run.path)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
            self._tracked.save(str(copy), base_path=self._tracked.dir, policy="now")

    def finish(self, status: Status) -> None:
        """Finish the run with exit code 0, 1, or 130 for Ctrl-C."""
        self._tracked.finish(exit_code=self._CODE[status])


TRACKERS: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WandB}
"""By the names in ``kerakit.training.TRACKER_NAMES``: those of the packages and of the extras."""


def get_trackers(names: Iterable[str], run: Run) -> list[Tracker]:
    """Return the trackers of a run, callbacks of ``fit``.

    Args:
        names: names in TRACKER_NAMES.
        run: the run folder.

    Raises:
        UserError: a package is not installed.

    >>> get_trackers((), Run("progress/test"))  # for example ("mlflow", "wandb")
    []
    """
    names = list(names)
    check_trackers(names)
    return [TRACKERS[name](run) for name in names]


@contextlib.contextmanager
def tracking(callbacks: Iterable[keras.callbacks.Callback]) -> Iterator[None]:
    """Enter the trackers among ``callbacks``, and exit them with the status of the block."""
    with contextlib.ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, Tracker):
                stack.enter_context(callback)
        yield


def _sentence(error: Exception) -> str:
    line = first_line(error)
    return line if line.endswith(".") else f"{line}."
