"""Hyperparameter search: one training per trial, each with flags that Optuna suggests.

A search folder holds study.db (the Optuna study, in SQLite), trial_000 and so on (run folders, each
trained in a process of its own), trials.csv and trials.png. Several processes may share a search:
each takes the next trial, under a lock. To browse the study:
``optuna-dashboard sqlite:///progress/search/study.db``.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kerakit import __version__
from kerakit.config import Config
from kerakit.console import print_table
from kerakit.errors import JobError, UserError
from kerakit.extras import install_command, is_installed
from kerakit.files import write_text
from kerakit.locks import Holder
from kerakit.run import Run
from kerakit.script import INTERRUPTED, deploy_command
from kerakit.signals import Terminated
from kerakit.state_folder import StateFolder
from kerakit.training.launch import Launch, find_launch
from kerakit.training.search_folder import SearchFolder, find_cause
from kerakit.training.search_processes import SearchProcesses
from kerakit.training.trial_process import run_process

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial, TrialState

FAILURES_TO_STOP = 3
"""If this many trials fail and none completes, the search stops: the cause is not their flags."""

_POLL_S = 0.5
_PROCESS = "process"
"""Attribute of a trial: the name of the process that trains it."""


class Search:
    """A hyperparameter search.

    The flags of a trial only depend on ``args.seed`` and the previous trials. To resume a search
    that was interrupted or killed, repeat the command; the results are the same. To train several
    trials at once, start the command several times, such as by ``srun``, for one folder.

    Args:
        args: ``Config`` with ``trials``, ``save_to``, ``overwrite`` and ``seed``. Flags that were
            given apply to all trials.
        suggest: function of an ``optuna.trial.BaseTrial`` and ``args`` that returns further flags
            of the trial, by name; without side effects.
        score: column of history.csv. A trial's score is its value at the best checkpoint's epoch.
        higher_is_better: whether the largest score is the best one.

    >>> class Flags(Config):
    ...     save_to: str = "progress/search"
    ...     trials: int = 20
    ...     overwrite: bool = False
    ...     seed: int = 0
    ...     ema: float = 0
    >>> def suggest(trial, args):
    ...     return {"ema": trial.suggest_float("ema", 0.9, 0.999)}
    >>> search = Search(Flags(), suggest, score="val_accuracy", higher_is_better=True)
    >>> search.folder.database.as_posix()  # search.run() stores the trials there
    'progress/search/study.db'
    """

    def __init__(
        self,
        args: Any,
        suggest: Callable[[Any, Any], dict[str, Any]],
        score: str,
        higher_is_better: bool,
    ) -> None:
        self.folder = SearchFolder(args.save_to)
        self._processes = SearchProcesses(self.folder.path)
        self._launch: Launch | None = None
        self._args, self._suggest = args, suggest
        self._score, self._higher_is_better = score, higher_is_better
        self._given = args.model_fields_set - {
            *("trials", "save_to", "overwrite", "resume", "allow_changes"),
        }

    def run(self) -> None:
        """Train until ``args.trials`` trials have ended; print, write and plot their scores.

        Raises:
            UserError: Optuna is not installed, or the folder holds a search with other flags, a
                damaged one, or something else; or another process of the search that would be
                replaced runs.
            JobError: no trial completed, or the database could not be written.
        """
        if not is_installed("optuna"):
            raise UserError(f"--trials needs Optuna: {install_command('search')}")
        if Run(self.folder.path).config.exists():
            raise UserError(f"{self.folder.path} is a run folder. Choose another --save_to.")
        import optuna
        from sqlalchemy.exc import SQLAlchemyError

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._launch = find_launch(os.environ, needs_address=False)
        if self._launch and self._args.overwrite:
            raise UserError(
                f"{self._launch.size} processes were started ({self._launch.launcher}): each would "
                f"replace the search of the others. Omit --overwrite, and remove "
                f"{self.folder.path}, or choose another --save_to."
            )
        with contextlib.ExitStack() as stack:
            try:
                with self._processes.alone():
                    study = self._open()
                    stack.enter_context(self._processes.joined())
                self._run_trials(study)
            except (SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
                raise JobError(
                    f"cannot use {self.folder.database}: {find_cause(error)}. Check its "
                    "permissions and the free space; then repeat the command without --overwrite."
                ) from None

    def _run_trials(self, study: Study) -> None:
        try:
            while (trial := self._next(study)) is not None:
                self._train(study, trial)
        except KeyboardInterrupt as error:
            self._report(study)
            words = [word for word in self._args.as_flags() if word != "--overwrite"]
            print(
                f"\nInterrupted. {len(_ended(study))} of {self._args.trials} trials have ended. "
                f"To resume, run\n  {shlex.join(['python', sys.argv[0], *words])}",
                file=sys.stderr,
            )
            raise SystemExit(
                error.exit_code if isinstance(error, Terminated) else INTERRUPTED
            ) from None
        self._report(study)
        ended = _ended(study)
        if all(trial.value is None for trial in ended):
            raise JobError(f"no trial completed. Last error: {ended[-1].user_attrs.get('error')}")

    # ---------------------------------------------------------------------------------- the study

    def _open(self) -> Study:
        """Load the study, or create it where there is none or with --overwrite."""
        study = self.folder.load_study() if self.folder.database.exists() else None
        flags = self._args.model_dump(mode="json", include=self._given)
        flags |= {"SCORE": self._score, "HIGHER_IS_BETTER": self._higher_is_better}
        if study is None or self._args.overwrite:
            self._processes.check_none()
            self.folder.check_new(self._args.overwrite)
            attributes = {"kerakit": __version__, "flags": flags, "score": self._score}
            return self.folder.create_study(
                "maximize" if self._higher_is_better else "minimize", attributes
            )
        before = study.user_attrs["flags"]
        changed = [
            f"{name} was {before.get(name, 'not given')}, is {flags.get(name, 'not given')}"
            for name in sorted(before.keys() | flags.keys())
            if before.get(name) != flags.get(name)
        ]
        if changed:
            raise UserError(
                f"{self.folder.path} holds a search with other flags: {'; '.join(changed)}. Repeat "
                "its flags, choose another --save_to, or pass --overwrite to replace it."
            )
        for trial in study.trials:
            if trial.params:  # optuna-dashboard may add trials without
                self._make_args(trial, trial.number)
        ended = len(_ended(study))
        state = f"resuming after {ended} trials" if ended else "no trial has ended yet"
        print(f"{self.folder.path}: {state}", flush=True)
        return study

    def _next(self, study: Study) -> FrozenTrial | None:
        """Return the trial to train; None: as many as requested have ended."""
        is_said = False
        while True:
            with self._processes.alone():
                found = self._take(study)
            if not isinstance(found, Holder):
                return found
            if not is_said:
                is_said = True
                left = "the trial that a killed search left" if found.is_dead() else "other trials"
                print(f"waiting for {left} in {self.folder.path}: {found}", flush=True)
            time.sleep(_POLL_S)

    def _take(self, study: Study) -> FrozenTrial | Holder | None:
        """Return a trial that no process trains, a new one, or a process to wait for."""
        import optuna

        states = optuna.trial.TrialState
        others, running = [], []
        # Of a killed search: running; of an interrupted one: waiting. Others may add waiting ones.
        for trial in study.get_trials(deepcopy=False, states=[states.RUNNING, states.WAITING]):
            if trial.state == states.WAITING and "run" not in trial.user_attrs:
                continue
            if trial.state == states.RUNNING:
                holder = self._processes.find(trial.user_attrs.get(_PROCESS))
                if holder is not None:
                    others.append(holder)
                    running.append(trial)
                    continue
            study._storage.set_trial_user_attr(trial._trial_id, _PROCESS, self._processes.name)
            _set_state(study, trial, states.RUNNING)
            return trial
        ended = _ended(study)
        if len(ended) + len(others) >= self._args.trials or _is_failing(study):
            return others[0] if others else None
        # Of a killed search: its result counts for the next suggestion, as without the kill.
        if (dead := next((one for one in others if one.is_dead()), None)) is not None:
            return dead
        # Suggested in memory and stored in one transaction: a kill leaves no incomplete trial.
        number = len(study.trials)
        sampler = optuna.samplers.TPESampler(seed=(self._args.seed + number) % 2**32)
        in_memory = optuna.create_study(sampler=sampler, direction=study.direction)
        in_memory.add_trials([*ended, *running])
        asked = in_memory.ask()
        self._suggest(asked, self._args)
        trial = optuna.trial.create_trial(
            state=states.RUNNING,
            params=asked.params,
            distributions=asked.distributions,
            user_attrs={
                "run": str(self.folder.run(number).path),
                _PROCESS: self._processes.name,
            },
        )
        self._make_args(trial, number)
        study.add_trial(trial)
        return study.trials[number]

    def _make_args(self, trial: FrozenTrial, number: int) -> Config:
        """Return the flags of a trial. Raises UserError if invalid, or if search.py changed."""
        import optuna

        fixed = optuna.trial.FixedTrial(trial.params, number)
        flags = None
        # An unknown parameter is a ValueError, one out of its range a warning.
        with warnings.catch_warnings(), contextlib.suppress(ValueError):
            warnings.simplefilter("ignore")
            flags = self._suggest(fixed, self._args)
        run = self.folder.run(number)
        if flags is None or fixed.distributions != trial.distributions:
            raise UserError(
                f"search.py changed: its parameters are not those of {run.path}. Undo the change, "
                "choose another --save_to, or pass --overwrite to replace the search."
            )
        given = {name: getattr(self._args, name) for name in self._given}
        config_class: type[Config] = type(self._args)
        try:
            return config_class(**{**given, **flags, "save_to": run.path, "overwrite": True})
        except UserError as error:
            raise UserError(f"search.py suggests invalid flags: {error}") from None

    # ---------------------------------------------------------------------------------- one trial

    def _train(self, study: Study, trial: FrozenTrial) -> None:
        """Train a trial in a process of its own and store the result."""
        import optuna

        command = [sys.argv[0], *self._make_args(trial, trial.number).as_flags()]
        label = f"trial {trial.number + 1} of {self._args.trials}"
        print(f"{label}: python {shlex.join(command)}", flush=True)
        start = time.monotonic()
        score = epoch = error = None
        try:
            prefix = f"[{self.folder.run(trial.number).path.name}] " * (self._launch is not None)
            run_process([sys.executable, *command], self._processes.lock, prefix)
            score, epoch = self._read_score(self.folder.run(trial.number))
            StateFolder(self.folder.run(trial.number).state).prune(0)  # a trial is not resumed
        except JobError as failure:
            error = str(failure)
        except BaseException:
            # It does not run any more, which other programs read from the study.
            with self._processes.alone():
                _set_state(study, trial, optuna.trial.TrialState.WAITING)
            raise
        seconds = round(time.monotonic() - start, 1)
        stored = optuna.Trial(study, trial._trial_id)
        with self._processes.alone():
            for key, value in {"seconds": seconds, "epoch": epoch, "error": error}.items():
                stored.set_user_attr(key, value)
            states = optuna.trial.TrialState
            study.tell(trial.number, score, states.FAIL if error else states.COMPLETE)

    def _read_score(self, run: Run) -> tuple[float, int]:
        """Return score and epoch of the best checkpoint. Raises JobError without one or for NaN."""
        checkpoints = run.list_checkpoints()
        if not checkpoints:
            raise JobError("no checkpoint was saved")
        epoch = checkpoints[0].epoch
        row = next(row for row in run.read_history() if row["epoch"] == epoch)
        if self._score not in row:
            raise UserError(
                f"SCORE in search.py is {self._score!r}, which is not a column of {run.history}. "
                f"Expected one of {', '.join(row)}."
            )
        if not math.isfinite(row[self._score]):
            raise JobError(f"{self._score} is {row[self._score]}")
        return row[self._score], epoch

    # --------------------------------------------------------------------------------- the result

    def _report(self, study: Study) -> None:
        """Print, write and plot the trials that have ended, best first, failed ones last."""
        ended = _ended(study)
        if not ended or (self._launch and self._launch.rank):
            return
        completed = [trial for trial in ended if trial.value is not None]
        ranked = sorted(completed, key=lambda trial: trial.value, reverse=self._higher_is_better)
        failed = [trial for trial in ended if trial.value is None]
        names = list(dict.fromkeys(name for trial in ended for name in trial.params))
        headings = ["trial", self._score, "epoch", "seconds", *names, "error"]
        rows = [
            [
                self.folder.run(trial.number).path.name,
                trial.value,
                *map(trial.user_attrs.get, ("epoch", "seconds")),
                *map(trial.params.get, names),
                trial.user_attrs.get("error"),
            ]
            for trial in (*ranked, *failed)
        ]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([headings, *rows])
        write_text(self.folder.table, text.getvalue())
        print_table(
            headings[:-1],
            [[_format(value) for value in row[:-1]] for row in rows],
            title=f"{len(completed)} of {len(ended)} trials completed",
        )
        for row in rows[len(ranked) :]:
            print(f"{row[0]} failed: {row[-1]}")
        if not ranked:
            return
        from kerakit.report import charts

        points = [(trial.number, trial.value, trial.params) for trial in completed]
        figure = charts.plot_trials(points, names, self._score, self._higher_is_better)
        charts.save_png(figure, self.folder.chart)
        best = self.folder.run(ranked[0].number)
        print(f"trials: {self.folder.table}, plot: {self.folder.chart}")
        print(f"best trial: {best.path}, {self._score} {ranked[0].value:.4f}")
        print(f"next: {deploy_command(best)}")


def _set_state(study: Study, trial: FrozenTrial, state: TrialState) -> None:
    if trial.state != state or state.name == "WAITING":
        study._storage.set_trial_state_values(trial._trial_id, state)


def _ended(study: Study) -> list[FrozenTrial]:
    """Return the trials that completed or failed, in their order."""
    return [trial for trial in study.trials if trial.state.is_finished()]


def _is_failing(study: Study) -> bool:
    ended = _ended(study)
    return len(ended) >= FAILURES_TO_STOP and all(trial.value is None for trial in ended)


def _format(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
