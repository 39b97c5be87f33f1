"""Resuming a training: what continues, where, and with which flags."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from kerakit.config import Config
from kerakit.errors import UserError
from kerakit.files import make_dir, read_json, write_json
from kerakit.locks import check_unlocked
from kerakit.run import Run
from kerakit.script import PREEMPTED
from kerakit.signals import exit_with, ignore_termination
from kerakit.state_folder import SavedState, StateFolder
from kerakit.training.callback_state import CallbackStates
from kerakit.training.signals import StopSignals

if TYPE_CHECKING:
    import keras

    from kerakit.training.state_callback import Remaining

ConfigT = TypeVar("ConfigT", bound=Config)

FIXED = {
    "model": "it is another model",
    "input_size": "the layers have other shapes",
    "strategy": "the phases are others",
    "weights": "training has begun with other weights",
    "from_ckpt": "training has begun with other weights",
    "mixed_precision": "the variables have other types",
    "ema": "the optimizer has other variables",
    "seed": "split and order of the images are others",
}
"""Flags that a run keeps, with the reasons."""

FREE = {
    *("save_to", "data_dir", "cache", "cache_limit", "target", "track", "skip_unreadable"),
    *("resume", "allow_changes", "overwrite", "trials", "save_minutes", "kerakit"),
}
"""Flags that may change without notice: they do not change the result."""

RESOLVED = ("batch_size", "weights")
"""Flags whose value "auto" is recorded as what was chosen."""

SAME = ("class_names", "phases", "preprocessing", "architecture")
"""Keys of config.json that a run keeps."""


class TrainingState(Generic[ConfigT]):
    """State of a training: saved during ``fit``, restored by ``--resume``.

    Saved are all variables (weights, optimizer, metrics, seeds of Dropout), the position in the
    data, and the state of the callbacks: at the end of each phase, every ``args.save_minutes``, at
    the ends of epochs where that takes at most a fiftieth of the time, and on Ctrl-C and SIGTERM.

    Args:
        run: the run folder.
        args: flags, with ``resume`` ("no", "yes" or "auto"), ``allow_changes``, ``overwrite`` and
            ``save_minutes``.

    Attributes:
        args: the flags of the run; if it is resumed, those of its config.json, with the changes of
            this command.
        is_resumed: whether a saved state is continued.
        first_epoch: of the current phase, from where it continues; epochs are counted from 0.
        last_epoch: number of epochs after the current phase.
        phase_epochs: number of epochs of the current phase.

    Raises:
        UserError: the folder cannot be used, or flags differ from those of its run.
        SystemExit: the run is complete.

    >>> class Flags(Config):
    ...     resume: str = "auto"
    ...     overwrite: bool = False
    ...     save_minutes: float = 5
    >>> TrainingState(Run("progress/test"), Flags()).is_resumed
    False
    """

    def __init__(self, run: Run, args: ConfigT) -> None:
        self.run, self.args = run, args
        self.signals = StopSignals()
        self.folder = StateFolder(run.state)
        self.saved: SavedState | None = None
        self.phase, self.phase_start = "", 0
        self.first_epoch = self.last_epoch = self.phase_epochs = 0
        self.epochs_done = 0
        self.recalled: dict[str, Any] = {}
        self.batch_ratio = 1.0
        self.seconds_before = 0.0
        self.model: keras.Model | None = None
        self.saves_seconds = 0.0
        self.callback_states = CallbackStates()
        self.changes: dict[str, Any] = {}
        self._start = time.monotonic()
        self._remaining: Remaining | None = None
        if args.resume == "no":  # type: ignore[attr-defined] # a flag of the project
            run.check_new(args.overwrite)  # type: ignore[attr-defined]
        else:
            self._open()
        self.is_resumed = self.saved is not None
        exit_with(PREEMPTED)  # nothing is written yet, and the same command can be repeated

    @property
    def seconds(self) -> float:
        """Return the seconds of training, those before a resume included."""
        return self.seconds_before + time.monotonic() - self._start

    # ----------------------------------------------------------------------------- for train.py

    def attach(self, model: keras.Model, recorded: Mapping[str, Any]) -> None:
        """Set the model; if the run is resumed, check it, and restore its variables.

        Args:
            model: the whole model.
            recorded: entries of config.json: ``class_names``, ``phases``, ``architecture``, ...

        Raises:
            UserError: the run was started with another model, or other classes.
        """
        from kerakit.training.backend_state import restore_variables
        from kerakit.training.tensorboard_logs import truncate_logs

        self.model = model
        if self.saved is None:
            return
        self._check_recorded(recorded)
        restore_variables("model", model.variables, self.saved)
        values = self.saved.values
        truncate_logs(values["logs"], self.run.logs)  # before TensorBoard opens new files
        self.phase_start = self.epochs_done = values["phase_start"]
        self.recalled = dict(values["recalled"])
        self.seconds_before = values["seconds"]
        epoch, batch = values["epoch"] + 1, values["batch"]
        position = f"after batch {batch} of {values['steps']} in epoch" if batch else "before epoch"
        print(
            f"resuming {self.run.path} from its saved state: phase {values['phase']}, {position} "
            f"{epoch}",
            flush=True,
        )

    def restore_trackers(self, callbacks: Sequence[Any]) -> None:
        """Let trackers continue the tracked runs of the saved state, before they start."""
        if self.saved is not None:
            trackers = [each for each in callbacks if hasattr(each, "finish")]
            states, arrays = self.saved.values["callbacks"], self.saved.arrays
            self.callback_states.restore(trackers, states, arrays)

    def begin(self, phase: str, epochs: int) -> bool:
        """Begin a phase, which is one call of ``fit``; False if it was completed before.

        Args:
            phase: its name.
            epochs: its number of epochs.
        """
        if self.saved is not None and self.saved.values["phase"] != phase:
            return False
        self.phase, self.phase_epochs = phase, epochs
        self.phase_start = self.first_epoch = self.epochs_done
        self.last_epoch = self.phase_start + epochs
        if self.saved is not None:
            self.first_epoch = self.saved.values["epoch"]
            if self.saved.values["stopped"]:
                self.last_epoch = self.first_epoch
            self.last_epoch = max(self.first_epoch, self.last_epoch)
        return True

    def recall(self, name: str, compute: Callable[[], Any]) -> Any:
        """Return a value for JSON that is computed once per phase, also over resumes."""
        key = f"{self.phase}/{name}"
        if key not in self.recalled:
            self.recalled[key] = compute()
        return self.recalled[key]

    def remaining(self, batches: Any) -> Any:
        """Return the training batches of a phase, for ``fit``, from the saved position on.

        Args:
            batches: a ``keras.utils.PyDataset``.
        """
        from kerakit.training.state_callback import Remaining

        self._remaining = None
        if self.saved is not None and self.saved.values["batch"]:
            batch = int(self.saved.values["batch"] * self.batch_ratio)
            self._remaining = Remaining(batches, min(batch, len(batches)))
        return self._remaining or batches

    def callbacks(self, callbacks: Sequence[keras.callbacks.Callback]) -> list[Any]:
        """Return the callbacks of a phase and the one that saves and restores the state, last."""
        from kerakit.training.state_callback import StateSaver

        return [*callbacks, StateSaver(self, callbacks, self._remaining)]

    def complete(self) -> None:
        """Record that the run is complete; one saved state remains, for more epochs."""
        try:
            make_dir(self.run.state)
            write_json(self.run.complete, {"epochs": self.epochs_done})
            self.folder.prune(1)
            ignore_termination()
        except (OSError, UserError) as error:
            print(f"WARNING: the end of the training could not be recorded: {error}", flush=True)

    # -------------------------------------------------------------------------------- internals

    def _open(self) -> None:
        """Load the newest state and compare flags."""
        args: Any = self.args
        run = self.run
        if args.overwrite:
            raise UserError("--resume and --overwrite are mutually exclusive; omit one.")
        check_unlocked(run.path)
        if not run.is_ours():
            if args.resume == "yes":
                raise UserError(
                    f"there is no run in {run.path} to resume. Check --save_to, or start one: omit "
                    "--resume, or pass --resume auto, which starts or continues."
                )
            run.check_new(False)
            return
        self.saved = self.folder.load()
        if self.saved is None:
            if run.has_results():
                raise UserError(
                    f"{run.path} has checkpoints, but no saved state to resume. Start a new run "
                    f"from its best checkpoint, with --from_ckpt {run.path} and another --save_to, "
                    "or replace it with --overwrite."
                )
            print(f"{run.path} has no saved state: training starts from the beginning", flush=True)
            return
        recorded = type(args).read(run.config)
        self._update_flags(recorded)
        if run.complete.exists() and not self.changes:
            epochs = read_json(run.complete, dict).get("epochs")
            print(
                f"{run.path} is complete: {epochs} epochs. To train it longer, pass a larger "
                "--num_epochs and --allow_changes."
            )
            raise SystemExit(0)
        run.complete.unlink(missing_ok=True)

    def _update_flags(self, recorded: Any) -> None:
        """Set ``args`` to the recorded flags with those that were given."""
        args: Any = self.args
        given = {
            name: getattr(args, name)
            for name in args.model_fields_set
            if getattr(args, name) != getattr(recorded, name)
            and not (name in RESOLVED and getattr(args, name) == "auto")
        }
        fixed = [name for name in FIXED if name in given]
        if fixed:
            listed = "; ".join(
                f"--{name} was {_text(getattr(recorded, name))}, now {_text(given[name])}: "
                f"{FIXED[name]}"
                for name in fixed
            )
            raise UserError(
                f"{self.run.path} cannot be resumed so. {listed}. Omit the flag, or start a new "
                "run with another --save_to."
            )
        self.changes = {name: value for name, value in given.items() if name not in FREE}
        listed = ", ".join(
            f"--{name} {_text(getattr(recorded, name))}, now {_text(value)}"
            for name, value in sorted(self.changes.items())
        )
        if self.changes and not args.allow_changes:
            raise UserError(
                f"{self.run.path} was started with {listed}. Pass --allow_changes to continue with "
                "the new value, or omit the flag."
            )
        if self.changes and self.saved is not None:
            print(f"changed: {listed}", flush=True)
            self.saved.values["stopped"] = False
            if "batch_size" in self.changes:
                self.batch_ratio = recorded.batch_size / args.batch_size
            self.run.drop_checkpoints_after(self.saved.values["epoch"])
        update = {**given, "save_to": args.save_to, "resume": args.resume, "overwrite": False}
        self.args = recorded.model_copy(update=update)

    def _check_recorded(self, recorded: Mapping[str, Any]) -> None:
        for name in SAME:
            before, now = getattr(self.args, name, None), recorded.get(name)
            if name not in recorded or not before or _plain(before) == _plain(now):
                continue
            if name == "architecture" and before.get("keras") != recorded[name].get("keras"):
                print(
                    f"WARNING: {self.run.path} was started with Keras {before.get('keras')}; the "
                    f"architecture cannot be compared by Keras {recorded[name].get('keras')}.",
                    flush=True,
                )
                continue
            detail = "" if name == "architecture" else f": {_text(before)}, now {_text(now)}"
            raise UserError(
                f"{self.run.path} cannot be resumed: its {name} changed since it was started"
                f"{detail}. Undo the change, or start a new run with another --save_to."
            )


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    return json.loads(json.dumps(value, default=str, sort_keys=True))


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value)
