"""Ends its own process at a chosen point of a training, by SIGKILL, which nothing can handle.

A point is a kind and a number: the process ends at the n-th event of this kind.

- save: a file operation of a save of the state; a write is cut off in its middle.
- file: a change of another file of the run folder, such as a checkpoint.
- step, validation, epoch: between two callbacks at the end of a step of training or of validation,
  or of an epoch, before the first and after the last one.
- epoch_end: after the last callback at the end of an epoch.
- phase: the same as "epoch" at the start and the end of a phase; and at the end of the training.
- begin: before a phase is begun or skipped; 2 is between the phases.
- save_end: the end of a save; the process does not end, but says so: for a kill at random later.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from functools import partial
from typing import Any

KINDS = (
    *("save", "file", "step", "validation", "epoch", "epoch_end", "phase", "begin", "save_end"),
)

_CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")
"""Audit events of Python."""


class _Point:
    """Counts the events.

    Args:
        kind: one of KINDS.
        number: of the event at which the process ends, from 1.
        report: called at the end of the n-th save.
    """

    def __init__(self, kind: str, number: int, report: Callable[[], object]) -> None:
        self._kind, self._left, self._report = kind, number, report
        self.is_saving = False

    def is_next(self, kind: str) -> bool:
        """Whether the next event of this kind ends the process."""
        return kind == self._kind and self._left == 1

    def hit(self, kind: str) -> None:
        """An event."""
        if kind != self._kind:
            return
        self._left -= 1
        if self._left == 0 and kind == "save_end":
            self._report()
        elif self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def install(kind: str, number: int, report: Callable[[], object]) -> None:
    """Let this process end at a point of the training that it will run."""
    import sys

    point = _Point(kind, number, report)
    if kind in ("save", "file"):
        sys.addaudithook(partial(_audit, point))
    if kind in ("save", "file", "save_end"):
        _watch_saves(point)
    else:
        _watch_callbacks(point)


def _audit(point: _Point, event: str, args: tuple[Any, ...]) -> None:
    is_opened = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
    if not (is_opened or event in _CHANGES) or not isinstance(args[0], str | os.PathLike):
        return
    if point.is_saving:
        point.hit("save")
    elif f"{os.sep}progress{os.sep}" in os.path.join(os.getcwd(), args[0]):
        point.hit("file")


def _watch_saves(point: _Point) -> None:
    from kerakit import state_folder

    save, write = state_folder.StateFolder.save, state_folder._Hashed.write

    def watched_save(*args: Any) -> Any:
        point.is_saving = True
        try:
            return save(*args)
        finally:
            point.is_saving = False
            point.hit("save_end")

    def watched_write(file: Any, data: Any) -> int:
        file.count = getattr(file, "count", 0) + 1
        if file.count.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ... of a file
            if point.is_next("save"):
                file._file.write(bytes(data)[: len(data) // 2])
                file.flush()
            point.hit("save")
        return write(file, data)

    def watched_sync(function: Any) -> Any:
        def sync(target: Any) -> None:
            point.hit("save")
            function(target)

        return sync

    setattr(state_folder.StateFolder, "save", watched_save)  # noqa: B010 - mypy
    setattr(state_folder._Hashed, "write", watched_write)  # noqa: B010
    for name in ("sync_file", "sync_dir"):
        setattr(state_folder, name, watched_sync(getattr(state_folder, name)))


def _watch_callbacks(point: _Point) -> None:
    """Put a callback before, between and after the callbacks of each ``fit``."""
    import keras

    from kerakit.training.resume import TrainingState

    class Probe(keras.callbacks.Callback):
        def on_train_begin(self, logs: Any = None) -> None:  # noqa: ARG002 - Keras's signature
            point.hit("phase")

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            point.hit("step")

        def on_test_batch_end(self, batch: int, logs: Any = None) -> None:  # noqa: ARG002
            point.hit("validation")

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
            point.hit("epoch")

        def on_train_end(self, logs: Any = None) -> None:  # noqa: ARG002
            point.hit("phase")

    class LastProbe(Probe):
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            point.hit("epoch_end")

    callbacks, begin, complete = (
        getattr(TrainingState, name) for name in ("callbacks", "begin", "complete")
    )

    def watched_callbacks(state: Any, given: Any) -> list[Any]:
        watched: list[Any] = []
        for callback in callbacks(state, given):
            watched += [Probe(), callback]
        return [*watched, LastProbe()]

    def watched_begin(*args: Any) -> Any:
        point.hit("begin")
        return begin(*args)

    def watched_complete(state: Any) -> None:
        point.hit("phase")
        complete(state)
        point.hit("phase")

    setattr(TrainingState, "callbacks", watched_callbacks)  # noqa: B010
    setattr(TrainingState, "begin", watched_begin)  # noqa: B010
    setattr(TrainingState, "complete", watched_complete)  # noqa: B010
