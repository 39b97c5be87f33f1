"""Context of a training run: readable errors, safe Ctrl-C, trackers, report."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import keras

from kerakit import world
from kerakit.data.generator import BatchGenerator
from kerakit.errors import JobError, KerakitError, UserError, first_line
from kerakit.files import disk_full_code
from kerakit.run import Run
from kerakit.script import INTERRUPTED, PREEMPTED, deploy_command
from kerakit.signals import Terminated, shielded
from kerakit.training.callbacks import Checkpoints
from kerakit.training.distribution import describe_lost
from kerakit.training.outputs import (
    Output,
    Records,
    check_written,
    tolerant_streams,
    tolerate_file_errors,
)
from kerakit.training.report import write_training_report
from kerakit.training.signals import StopSignals
from kerakit.training.trackers import tracking

if TYPE_CHECKING:
    from kerakit.training.resume import TrainingState

_SHAPE_MISMATCH = r"target.*output.*(rank|shape)|[Ss]hapes? .* incompatible"
"""Pattern of Keras's messages about a loss that does not fit targets and outputs."""


@contextlib.contextmanager
def training_session(
    run: Run,
    generators: Sequence[BatchGenerator],
    callbacks: Sequence[Any] = (),
    state: TrainingState[Any] | None = None,
) -> Iterator[None]:
    """Wrap all calls of ``fit`` of a training run.

    When the block ends, also by an error, the best weights that ``Checkpoints`` holds in memory are
    saved, the report is written, and the generators stop prefetching. An error of a generator (an
    unreadable image) is raised unwrapped, not as a TensorFlow error. Ctrl-C and SIGTERM stop
    between two steps, after the state is saved, print the command that resumes, and exit with 130
    and 33. Trackers among ``callbacks`` log the whole block as one run.

    Args:
        run: the run folder.
        generators: generators of training and validation images.
        callbacks: callbacks of ``fit``.
        state: the saved state; without it, Ctrl-C stops within a step.

    >>> with training_session(Run("progress/test"), generators=()):
    ...     pass  # model.fit(...)
    """
    signals = state.signals if state else StopSignals()
    handlers = contextlib.ExitStack()
    handlers.enter_context(signals.installed())
    handlers.enter_context(tolerant_streams())
    before, start = state.seconds_before if state else 0.0, time.monotonic()
    report, records = Output("report.html"), Records(run)
    try:
        check_callbacks(callbacks)
        _warn_of_partial_saves(callbacks)
        tolerate_file_errors(callbacks)
        if state:
            state.restore_trackers(callbacks)
        with (
            tracking(callbacks),
            write_training_report(run, generators, callbacks, before, report),
        ):
            try:
                yield
            except BaseException:
                signals.defer(False)
                with shielded():  # a second Ctrl-C discards nothing
                    # Of several processes that fail one by one, the saved state remains.
                    is_whole = world.current.size == 1 or signals.is_agreed
                    for callback in callbacks:
                        if isinstance(callback, Checkpoints) and is_whole:
                            callback.on_train_end()
                raise
            run.drop_previous()  # callbacks need not save checkpoints
            records.restore()
        check_written(callbacks, bool(state and state.folder.find()), [report, *records.outputs])
    except KeyboardInterrupt as error:
        is_terminated, exit_code = isinstance(error, Terminated), INTERRUPTED
        run.discard_if_empty(math.inf if is_terminated else before + time.monotonic() - start)
        if isinstance(error, Terminated):
            is_resumable = state and (state.folder.find() or not run.path.exists())
            is_saved_by_main = signals.is_agreed and not world.current.is_main
            exit_code = PREEMPTED if is_resumable or is_saved_by_main else 128 + error.number
        if world.current.is_main:
            print(_resume_advice(run, state, is_terminated), file=sys.stderr)
        if not signals.is_agreed:
            world.current.leave(exit_code)
        raise SystemExit(exit_code) from None
    except Exception as error:
        if lost := describe_lost(error):
            raise JobError(lost) from error
        run.check_intact()  # whatever else failed, it did so by that
        run.discard_if_empty(before + time.monotonic() - start)
        for generator in generators:
            if isinstance(generator.error, (KerakitError, OSError)):
                raise generator.error from None
            if isinstance(generator.error, MemoryError):
                raise JobError(
                    "no memory for the next batch. Choose a smaller --batch_size or --input_size, "
                    "or --cache disk instead of ram."
                ) from None
        if code := _disk_error(error):
            raise OSError(code, os.strerror(code), str(run.path)) from error
        if isinstance(error, ValueError) and re.search(_SHAPE_MISMATCH, str(error)):
            raise UserError(
                f"the loss does not fit targets and outputs: {first_line(error)} If "
                "the targets are class indices, use sparse_categorical_crossentropy."
            ) from None
        raise
    finally:
        handlers.close()
        for generator in generators:
            generator.close()
            for message in generator.unreadable.values():
                print(f"WARNING: replaced in {generator.mode}: {message}", file=sys.stderr)


def _disk_error(error: Exception) -> int | None:
    """Return the system's number of an error that names no file, as of Pillow or TensorBoard."""
    if isinstance(error, OSError) and error.errno:
        return None if error.filename else error.errno
    return disk_full_code(error)


def check_callbacks(callbacks: Sequence[Any]) -> None:
    """Raise UserError for callbacks of Keras that cannot work over the phases of a run.

    >>> check_callbacks([keras.callbacks.SwapEMAWeights()])
    Traceback (most recent call last):
    kerakit.errors.UserError: SwapEMAWeights in callbacks.py would swap twice. Omit it, ...
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise UserError(
                "BackupAndRestore in callbacks.py resumes one fit, and a run has several. Omit it; "
                "to resume, pass --resume."
            )
        if isinstance(callback, keras.callbacks.SwapEMAWeights):
            raise UserError(
                "SwapEMAWeights in callbacks.py would swap twice. Omit it, and pass --ema, which "
                "adds it together with the average."
            )


def _warn_of_partial_saves(callbacks: Sequence[Any]) -> None:
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ModelCheckpoint):
            print(
                "WARNING: ModelCheckpoint in callbacks.py saves only the part of the model that a "
                "phase trains. The checkpoints in ckpt/ hold the whole model.",
                flush=True,
            )


def _resume_advice(run: Run, state: TrainingState[Any] | None, is_preempted: bool) -> str:
    checkpoints = run.list_checkpoints()
    if state and state.folder.find():
        ended = "Preempted" if is_preempted else "Interrupted"
        best = (
            f", the best of epoch {checkpoints[0].epoch}. To deploy it:\n  {deploy_command(run)}"
            if checkpoints
            else "."
        )
        flag = " with --resume" if state.args.resume == "no" else ""
        return (
            f"\n{ended}. The state is saved in {state.folder.path}. To resume, repeat your command"
            f"{flag}\n{run.path} holds {len(checkpoints)} checkpoints{best}"
        )
    if not checkpoints:
        return "\nInterrupted before the end of the first epoch; nothing was saved."
    path = shlex.quote(str(run.path))
    plural = "s" * (len(checkpoints) > 1)
    return (
        f"\nInterrupted. {run.path} holds {len(checkpoints)} checkpoint{plural}, the best of epoch "
        f"{checkpoints[0].epoch}. To resume from it, repeat your command with\n"
        f"  --from_ckpt {path} --save_to {shlex.quote(f'{run.path}-2')}\n"
        f"To deploy it:\n  {deploy_command(run)}"
    )
