"""What is known of a training when it ends: report.json and the page."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from kerakit import machine
from kerakit.data.generator import BatchGenerator
from kerakit.data.reader import DataReader
from kerakit.data.split import MODES
from kerakit.files import write_json
from kerakit.run import Run
from kerakit.training.callbacks import Checkpoints, History
from kerakit.training.page import write_page

_PACKAGES = ("kerakit", "keras", "numpy")


@contextlib.contextmanager
def reported(
    run: Run, generators: Sequence[BatchGenerator], callbacks: Sequence[Any]
) -> Iterator[None]:
    """Write the report and the page of a training when the block ends, however it ends, if an epoch was finished.

    Args:
        run: where to.
        generators: what is trained and validated on.
        callbacks: of ``fit``; Kerakit's own among them know what it was ranked by and where phases began.
    """
    started, ended = time.monotonic(), "failed"
    try:
        yield
        ended = "done"
    except KeyboardInterrupt:
        ended = "interrupted"
        raise
    finally:
        # What failed without a checkpoint is discarded.
        if run.history.exists() and (ended == "done" or run.list_checkpoints()):
            lasted = {"ended": ended, "seconds": round(time.monotonic() - started, 1)}
            write_json(
                run.report,
                {
                    **machine.describe_machine(_PACKAGES),
                    **lasted,
                    **_images(generators),
                    **_of_callbacks(callbacks),
                },
            )
            write_page(run)
            print(f"to look at: {run.page}")


def _images(generators: Sequence[BatchGenerator]) -> dict[str, Any]:
    """Return how many images there are, and of each class where the reader is a ``DataReader``."""
    reader = generators[0].data_reader
    if not isinstance(reader, DataReader):
        return {
            "images": {generator.mode: len(generator.index) for generator in generators},
            "classes": [],
        }
    counts = {mode: reader.counts(mode).tolist() for mode in MODES}
    return {
        "images": {mode: sum(of_mode) for mode, of_mode in counts.items()},
        "classes": [
            {"class": name, **{mode: counts[mode][i] for mode in MODES}}
            for i, name in enumerate(reader.class_names)
        ],
    }


def _of_callbacks(callbacks: Sequence[Any]) -> dict[str, Any]:
    return {
        "monitor": next((one.monitor for one in callbacks if isinstance(one, Checkpoints)), None),
        "phase_starts": next((one.starts for one in callbacks if isinstance(one, History)), []),
    }
