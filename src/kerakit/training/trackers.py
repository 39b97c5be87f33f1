"""MLflow and Weights & Biases: a training becomes one tracked run, through all of its phases.

Where they store is theirs to say, by their own environment variables and files.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal, Self

import keras

from kerakit.errors import UserError
from kerakit.run import Run
from kerakit.script import INTERRUPTED

Ending = Literal["done", "failed", "interrupted"]


class Tracker(keras.callbacks.Callback, ABC):
    """Log each epoch's metrics, between entering it as a context and leaving it: see ``tracking``.

    The run's configuration is logged when it is entered; its files, the path of the best checkpoint, and how it ended when it
    is left. A service that fails in between costs a warning and the rest of its metrics, not the training.

    Args:
        run: the run folder; its config.json is there when the tracker is entered.
    """

    title: ClassVar[str]

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self._open = False

    def __enter__(self) -> Self:
        """Begin the tracked run. Raises UserError where the service cannot be had."""
        try:
            self.begin(
                str(self._run.path), json.loads(self._run.config.read_text(encoding="utf-8"))
            )
        except Exception as error:
            with contextlib.suppress(Exception):  # it may have begun before it failed
                self.end("failed")
            raise UserError(
                f"{self.title} did not start: {_first_line(error)} Mend that, or leave it out of --track."
            ) from None
        self._open = True
        return self

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Log the metrics of this epoch, counted from 1 through all phases."""
        with self._warning():
            if self._open:
                self.log(epoch + 1, {name: float(value) for name, value in (logs or {}).items()})

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """End the tracked run as the training ended."""
        with self._warning():
            files = (self._run.config, self._run.history, *sorted(self._run.plots.glob("*.png")))
            kept = self._run.list_checkpoints()
            best = str(self._run.checkpoints / kept[0].file) if kept else "none"
            self.keep([path for path in files if path.exists()], best)
        with self._warning():
            self.end(
                "done"
                if kind is None
                else "interrupted"
                if issubclass(kind, KeyboardInterrupt)
                else "failed"
            )

    @contextlib.contextmanager
    def _warning(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            # A server that is gone is asked again for minutes: once is enough.
            self._open = False
            print(
                f"WARNING: {self.title} failed, and logs no more of this run: {_first_line(error)}",
                file=sys.stderr,
            )

    @abstractmethod
    def begin(self, name: str, settings: dict[str, Any]) -> None:
        """Begin a tracked run with this name and these settings."""

    @abstractmethod
    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log metrics, with ``epoch`` as their step."""

    @abstractmethod
    def keep(self, files: list[Path], best: str) -> None:
        """Keep copies of ``files``, under their paths in the run folder, and the path of the best checkpoint."""

    @abstractmethod
    def end(self, how: Ending) -> None:
        """End the tracked run."""


class MLflow(Tracker):
    """Track with MLflow."""

    title = "MLflow"
    _STATUS: ClassVar[dict[Ending, str]] = {
        "done": "FINISHED",
        "failed": "FAILED",
        "interrupted": "KILLED",
    }

    def begin(self, name: str, settings: dict[str, Any]) -> None:
        """Start a run of the experiment that MLflow's environment names; settings become its parameters."""
        import mlflow

        mlflow.start_run(run_name=name)
        mlflow.log_params(settings)

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log metrics."""
        import mlflow

        mlflow.log_metrics(metrics, step=epoch)

    def keep(self, files: list[Path], best: str) -> None:
        """Log files as artifacts, and the checkpoint's path as a tag."""
        import mlflow

        mlflow.set_tag("best_checkpoint", best)
        for path in files:
            folder = path.parent.relative_to(self._run.path).as_posix()
            mlflow.log_artifact(str(path), None if folder == "." else folder)

    def end(self, how: Ending) -> None:
        """End the run as FINISHED, FAILED or KILLED."""
        import mlflow

        mlflow.end_run(self._STATUS[how])


class WandB(Tracker):
    """Track with Weights & Biases."""

    title = "Weights & Biases"
    _CODE: ClassVar[dict[Ending, int]] = {"done": 0, "failed": 1, "interrupted": INTERRUPTED}
    _tracked: Any

    def begin(self, name: str, settings: dict[str, Any]) -> None:
        """Start a run of the project that wandb's environment names; settings become its config."""
        import wandb

        self._tracked = wandb.init(name=name, config=settings)

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        """Log metrics."""
        self._tracked.log(metrics, step=epoch)

    def keep(self, files: list[Path], best: str) -> None:
        """Save files with the run, and the checkpoint's path in its summary."""
        self._tracked.summary["best_checkpoint"] = best
        for path in files:
            # It would keep links, and the run folder may be replaced before an offline run is uploaded.
            copy = Path(self._tracked.dir) / path.relative_to(self._run.path)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
            self._tracked.save(str(copy), base_path=self._tracked.dir, policy="now")

    def end(self, how: Ending) -> None:
        """End the run with exit code 0, 1, or 130 for Ctrl-C."""
        self._tracked.finish(exit_code=self._CODE[how])


TRACKERS: dict[str, type[Tracker]] = {"mlflow": MLflow, "wandb": WandB}
"""By name, as in ``kerakit.training.TRACKER_NAMES``: the name of the package, and of the extra that installs it."""


def get(names: Iterable[str], run: Run) -> list[Tracker]:
    """Return trackers for a run.

    Raises:
        UserError: the package of one is not installed.
    """
    for name in names:
        spec = importlib.util.find_spec(name)
        # A folder named wandb, as its offline runs make one, looks like a package, but comes from no file.
        if spec is None or spec.origin is None:
            raise UserError(
                f"--track {name} needs {TRACKERS[name].title}: pip install 'kerakit[{name}]'"
            )
    return [TRACKERS[name](run) for name in names]


@contextlib.contextmanager
def tracking(callbacks: Iterable[keras.callbacks.Callback]) -> Iterator[None]:
    """Enter the trackers among ``callbacks``, and leave them as the block ends: done, failed, or interrupted."""
    with contextlib.ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, Tracker):
                stack.enter_context(callback)
        yield


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return line if line.endswith(".") else f"{line}."
