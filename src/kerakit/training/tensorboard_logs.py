"""TensorBoard logs: on every backend, also without TensorFlow."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import keras
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.plugins.scalar.summary_v2 import scalar_pb  # type: ignore[import-untyped]
from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]

from kerakit.training.outputs import Output, is_file_error_of_others


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
        self._output = Output("TensorBoard logs")
        self._name = f"events.out.tfevents.{time.time_ns() / 1e9:.6f}.{os.getpid()}"

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Append the metrics of an epoch, counted from 0."""
        logs = {"learning_rate": float(self.model.optimizer.learning_rate), **(logs or {})}
        parts: dict[str, dict[str, float]] = {"train": {}, "validation": {}}
        for name, value in logs.items():
            part = "validation" if name.startswith("val_") else "train"
            parts[part][f"epoch_{name.removeprefix('val_')}"] = float(value)
        with self._output.writing(f"TensorBoard logs of epoch {epoch + 1}"):
            for part, scalars in parts.items():
                if scalars:
                    _append(self.folder / part / self._name, _encode(scalars, epoch))


def _append(path: Path, records: bytes) -> None:
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


def measure_logs(folder: Path, callbacks: Iterable[Any] = ()) -> dict[str, int]:
    """Return the size of each file, after ``keras.callbacks.TensorBoard`` has written its own."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.TensorBoard):  # added in callbacks.py
            for writer in callback._writers.values():
                try:
                    writer.flush()
                except Exception as error:
                    if not is_file_error_of_others(error):
                        raise
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _events(folder)}


def truncate_logs(sizes: dict[str, int], folder: Path) -> None:
    """Remove what was logged after the sizes were measured, such as what is logged again."""
    for path in _events(folder):
        size = sizes.get(path.relative_to(folder).as_posix(), 0)
        if size == 0:
            path.unlink()
        elif path.stat().st_size > size:
            with path.open("rb+") as file:
                file.truncate(size)


def _events(folder: Path) -> list[Path]:
    if folder.is_symlink():
        return []
    return [
        path
        for path in sorted(folder.rglob("events.out.tfevents.*"))
        if path.is_file() and not path.is_symlink()
    ]
