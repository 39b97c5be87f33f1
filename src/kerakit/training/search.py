"""``--trials``: one training after another, each with other flags, and which of them did best.

A search is a folder: search.json (what was asked for, and how each trial ended; written whole after each), trial_000 and so on
(runs like any other, each trained by a process of its own), trials.csv and trials.png.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import math
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kerakit import __version__
from kerakit.errors import JobError, UserError
from kerakit.files import make_dir, write_json
from kerakit.run import Run
from kerakit.script import INTERRUPTED
from kerakit.training.trials import Trial, show

FAILURES_TO_STOP = 3
"""If the first so many trials all fail, the search stops: it is not their flags, then."""

Suggest = Callable[[Any, Any], dict[str, Any]]
"""From a trial of Optuna's and the flags given to the flags of this trial."""


class Search:
    """A folder of trials.

    Which flags a trial gets depends on ``args.seed`` and on the trials before it, and on nothing else: a search that was
    stopped goes on as if it had not been.

    Args:
        args: a ``Config`` with ``trials``, ``save_to``, ``overwrite`` and ``seed``. The flags given hold for each trial.
        suggest: chooses the others.
        score: a column of history.csv: what a trial's best checkpoint has there is its score.
        higher_is_better: whether the largest score is the best one.
    """

    def __init__(self, args: Any, suggest: Suggest, score: str, higher_is_better: bool) -> None:
        self._args, self._suggest, self._score, self._higher_is_better = (
            args,
            suggest,
            score,
            higher_is_better,
        )
        self._folder: Path = args.save_to
        self._file = self._folder / "search.json"
        self._given = {
            name: getattr(args, name)
            for name in args.model_fields_set - {"trials", "save_to", "overwrite"}
        }
        self._trials: list[Trial] = []

    def run(self) -> None:
        """Train until there are ``args.trials`` trials, and show how they ended.

        Raises:
            UserError: Optuna is missing, or the folder holds something else, such as a search with other flags.
            JobError: no trial ended well.
        """
        if importlib.util.find_spec("optuna") is None:
            raise UserError("--trials needs Optuna: pip install 'kerakit[search]'")
        if Run(self._folder).config.exists():
            raise UserError(
                f"{self._folder} is a run, not a folder of trials. Choose another --save_to."
            )
        make_dir(self._folder)
        with self._alone() as lock:
            self._open()
            try:
                while len(self._trials) < self._args.trials and not self._hopeless():
                    self._trials.append(self._train(lock))
                    self._save()
            except KeyboardInterrupt:
                show(self._folder, self._trials, self._score, self._higher_is_better)
                print(
                    f"\ninterrupted: {len(self._trials)} of {self._args.trials} trials have ended. "
                    "The same command, without --overwrite, goes on.",
                    file=sys.stderr,
                )
                raise SystemExit(INTERRUPTED) from None
            show(self._folder, self._trials, self._score, self._higher_is_better)
        if all(trial.score is None for trial in self._trials):
            raise JobError(f"no trial ended well. The last one said: {self._trials[-1].error}")

    # ------------------------------------------------------------------------------------------------------- the folder

    @contextlib.contextmanager
    def _alone(self) -> Iterator[int]:
        """Wait until no other process searches here; a trial whose search was killed holds the lock until it has ended."""
        with (self._folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(
                    f"waiting for another search in {self._folder}, or for the last trial of one that was killed.",
                    flush=True,
                )
                fcntl.flock(file, fcntl.LOCK_EX)
            yield file.fileno()

    def _asked(self) -> dict[str, Any]:
        values = self._args.model_dump(mode="json")
        flags = {name: values[name] for name in values if name in self._given}
        return {**flags, "SCORE": self._score, "HIGHER_IS_BETTER": self._higher_is_better}

    def _open(self) -> None:
        """Read the trials that have ended; with --overwrite, remove them."""
        if not self._file.exists():
            self._save()
            return
        found = self._read()
        if self._args.overwrite:
            for folder in self._folder.glob("trial_*"):
                run = Run(folder)
                run.check_new(overwrite=True)
                run.remove()
            self._save()
            return
        before, now = found["asked"], self._asked()
        if before != now:
            changed = [
                f"{name} was {before.get(name, 'not given')}, is {now.get(name, 'not given')}"
                for name in sorted(before.keys() | now.keys())
                if before.get(name) != now.get(name)
            ]
            raise UserError(
                f"{self._folder} holds another search: {'; '.join(changed)}. Give the same ones, another --save_to, "
                "or --overwrite to begin anew."
            )
        self._trials = found["trials"]
        if self._trials:
            print(
                f"{self._folder}: {len(self._trials)} of {self._args.trials} trials have ended before.",
                flush=True,
            )

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(self._file.read_text(encoding="utf-8"))
            return {
                "asked": dict(found["asked"]),
                "trials": [Trial(**trial) for trial in found["trials"]],
            }
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._file} is damaged, or not Kerakit's ({error}). Restore it from a copy, or choose another --save_to."
            ) from None

    def _save(self) -> None:
        trials = [asdict(trial) for trial in self._trials]
        write_json(self._file, {"kerakit": __version__, "asked": self._asked(), "trials": trials})

    # --------------------------------------------------------------------------------------------------------- one trial

    def _train(self, lock: int) -> Trial:
        """Ask for the flags of the next trial, train with them, and return how it ended."""
        number = len(self._trials)
        params, flags = self._ask(number)
        run = Run(self._folder / Trial(number, {}, 0).name)
        try:
            args = type(self._args)(
                **{**self._given, **flags, "save_to": run.path, "overwrite": True}
            )
        except UserError as error:
            raise UserError(f"search.py suggests what train.py refuses: {error}") from None
        command = [sys.argv[0], *args.as_flags()]
        print(
            f"trial {number + 1} of {self._args.trials}: python {shlex.join(command)}", flush=True
        )
        start = time.monotonic()
        failure = _failure_of([sys.executable, *command], lock)
        seconds = round(time.monotonic() - start, 1)
        if failure is not None:
            return Trial(number, params, seconds, error=failure)
        kept = run.list_checkpoints()
        if not kept:
            return Trial(number, params, seconds, error="it saved no checkpoint")
        epoch = kept[0].epoch
        row = next(row for row in run.read_history() if row["epoch"] == epoch)
        if self._score not in row:
            raise UserError(
                f"search.py compares trials by {self._score!r}, which {run.history} has not: {', '.join(row)}."
            )
        if not math.isfinite(row[self._score]):
            return Trial(number, params, seconds, error=f"{self._score} is {row[self._score]}")
        return Trial(number, params, seconds, row[self._score], epoch)

    def _ask(self, number: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what Optuna chooses after the trials so far, and the flags that search.py makes of it."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=(self._args.seed + number) % 2**32)
        study = optuna.create_study(
            sampler=sampler, direction="maximize" if self._higher_is_better else "minimize"
        )
        for trial in self._trials:
            fixed = optuna.trial.FixedTrial(trial.params)
            state = (
                optuna.trial.TrialState.FAIL
                if trial.score is None
                else optuna.trial.TrialState.COMPLETE
            )
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # what it warns of is refused below
                    self._suggest(fixed, self._args)
                ended = optuna.trial.create_trial(
                    params=fixed.params,
                    distributions=fixed.distributions,
                    value=trial.score,
                    state=state,
                )
                study.add_trial(ended)
            except ValueError as error:
                raise UserError(
                    f"search.py was changed: {trial.name} does not fit any more ({error}). Change it back, give another "
                    "--save_to, or --overwrite to begin anew."
                ) from None
        asked = study.ask()
        flags = self._suggest(asked, self._args)
        return dict(asked.params), flags

    def _hopeless(self) -> bool:
        return len(self._trials) >= FAILURES_TO_STOP and all(
            trial.score is None for trial in self._trials
        )


def _failure_of(command: list[str], lock: int) -> str | None:
    """Run a command, print what it says as it says it, and return None if it ended well, else its last word.

    Ctrl-C is for the search alone, which passes it on: hence the session of its own. ``lock`` stays open in it.
    """
    process = subprocess.Popen(  # noqa: S603 - the script that runs already, with flags that were checked
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,
        pass_fds=(lock,),
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    last = error = ""
    try:
        for line in process.stdout or ():
            print(line, end="", flush=True)
            last = line.strip() or last
            if line.startswith("error: "):
                error = line.removeprefix("error: ").strip()
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.communicate()
        raise
    if code < 0:
        return f"killed by {signal.Signals(-code).name}; out of memory?"
    return (error or last or f"exit code {code}") if code else None
