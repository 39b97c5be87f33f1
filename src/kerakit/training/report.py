"""report.json and report.html of a run."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from kerakit.data.generator import BatchGenerator
from kerakit.data.reader import DataReader
from kerakit.data.split import MODES
from kerakit.files import write_json
from kerakit.machine import describe_machine
from kerakit.run import Run
from kerakit.training.callbacks import Checkpoints, HistoryWriter
from kerakit.training.outputs import Output
from kerakit.training.page import write_page

_PACKAGES = ("keras", "numpy")


@contextlib.contextmanager
def write_training_report(
    run: Run,
    generators: Sequence[BatchGenerator],
    callbacks: Sequence[Any],
    seconds_before: float = 0,
    output: Output | None = None,
) -> Iterator[None]:
    """Write report and page when the block ends, however it ends, if an epoch was completed.

    Args:
        run: the run folder.
        generators: generators of training and validation images.
        callbacks: callbacks of ``fit``; Kerakit's hold the monitored metric and phase starts.
        seconds_before: seconds of training before a resume.
        output: takes a failed write; default: it is raised.
    """
    start, status = time.monotonic(), "failed"
    try:
        yield
        status = "completed"
    except KeyboardInterrupt:
        status = "interrupted"
        raise
    finally:
        run.check_intact()
        # A training that failed without a checkpoint is discarded.
        with output.writing() if output else contextlib.nullcontext():
            if run.history.exists() and (status == "completed" or run.list_checkpoints()):
                report = {
                    **describe_machine(_PACKAGES),
                    "status": status,
                    "seconds": round(seconds_before + time.monotonic() - start, 1),
                    **_count_images(generators),
                    **_describe_callbacks(callbacks),
                }
                write_json(run.report, report)
                write_page(run)
                print(f"report: {run.page}")


def _count_images(generators: Sequence[BatchGenerator]) -> dict[str, Any]:
    """Return the number of images per split, and per class where the reader is a ``DataReader``."""
    reader = generators[0].data_reader
    if not isinstance(reader, DataReader):
        return {"images": {one.mode: len(one.index) for one in generators}, "classes": []}
    counts = {mode: reader.counts(mode).tolist() for mode in MODES}
    return {
        "images": {mode: sum(of_mode) for mode, of_mode in counts.items()},
        "classes": [
            {"class": name, **{mode: counts[mode][i] for mode in MODES}}
            for i, name in enumerate(reader.class_names)
        ],
    }


def _describe_callbacks(callbacks: Sequence[Any]) -> dict[str, Any]:
    monitors = (each.monitor for each in callbacks if isinstance(each, Checkpoints))
    starts = (each.phase_starts for each in callbacks if isinstance(each, HistoryWriter))
    return {"monitor": next(monitors, None), "phase_starts": next(starts, [])}
