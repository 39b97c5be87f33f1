"""TensorBoard logs: on every backend, also without TensorFlow."""

from __future__ import annotations

import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.plugins.scalar.summary_v2 import scalar_pb  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from kerakit.errors import first_line


class TensorBoard(keras.callbacks.Callback):
    """Writes the metrics of each epoch for ``tensorboard --logdir``.

    The tags are those of ``keras.callbacks.TensorBoard``, which needs TensorFlow and ends the
    training where a file cannot be written. Here, such an epoch is omitted, with a warning.

    Args:
        folder: of the logs; training and validation have a folder each in it.

    >>> TensorBoard(Path("progress/test/logs")).folder.name
    'logs'
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        # TensorBoard reads the files of a folder in the order of their names.
        self._name = f"events.out.tfevents.{time.time_ns() / 1e9:.6f}.{os.getpid()}"

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Append the metrics of an epoch, counted from 0."""
        logs = {"learning_rate": float(self.model.optimizer.learning_rate), **(logs or {})}
        parts: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in logs.items():
            part = "validation" if name.startswith("val_") else "train"
            parts[part][f"epoch_{name.removeprefix('val_')}"] = float(value)
        try:
            for part, scalars in parts.items():
                if scalars:
                    append(self.folder / part / self._name, _encode(scalars, epoch))
        except OSError as error:
            print(
                f"WARNING: the TensorBoard logs of epoch {epoch + 1} could not be written: "
                f"{first_line(error)}",
                file=sys.stderr,
            )


def append(path: Path, records: bytes) -> None:
    """Append ``records`` to a file of events, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as file:
        size = file.tell()
        if size == 0:
            records = _record(Event(wall_time=time.time(), file_version="brain.Event:2")) + records
        try:
            written = file.write(records)
            while written < len(records):  # the next call says why
                written += file.write(records[written:])
        except OSError:
            file.truncate(size)
            raise


def _encode(scalars: dict[str, float], step: int) -> bytes:
    now = time.time()
    events = (
        Event(wall_time=now, step=step, summary=scalar_pb(tag, value))
        for tag, value in scalars.items()
    )
    return b"".join(map(_record, events))


def _record(event: Any) -> bytes:
    buffer = io.BytesIO()
    RecordWriter(buffer).write(event.SerializeToString())
    return buffer.getvalue()
