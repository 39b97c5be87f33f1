"""Errors of a training session."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from kerakit import Run
from kerakit.training import training_session


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.EFBIG, "File too large"), errno.EFBIG),
        (RuntimeError("{{node}} logs/events.out; No space left on device"), errno.ENOSPC),
        (OSError("write failed: File too large"), errno.EFBIG),
    ],
)
def test_a_full_disk_names_the_run(error: Exception, expected: int, tmp_path: Path) -> None:
    """Pillow, TensorBoard and HDF5 name no file."""
    with pytest.raises(OSError, match=r".") as caught, training_session(Run(tmp_path / "r"), ()):
        raise error
    assert (caught.value.errno, caught.value.filename) == (expected, str(tmp_path / "r"))
