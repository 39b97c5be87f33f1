"""An entry of a run's list of checkpoints, and the order of checkpoints."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

WEIGHTS_FILE = r"epoch-\d{4,9}\.weights\.h5"
"""Pattern of the names of weights files."""


@dataclass(frozen=True)
class Checkpoint:
    """A saved weights file of a run.

    Attributes:
        file: its name in the checkpoint folder.
        epoch: the epoch after which it was saved, counted from 1.
        value: the monitored metric at that epoch; None for NaN.
        sha256: SHA-256 of the file, 64 hexadecimal digits.

    Raises:
        ValueError: a value is invalid, such as a file outside the checkpoint folder.
    """

    file: str
    epoch: int
    value: float | None
    sha256: str

    def __post_init__(self) -> None:
        """Check values that were read from a file."""
        if not (isinstance(self.file, str) and re.fullmatch(WEIGHTS_FILE, self.file)):
            raise ValueError(
                f"file: expected a name such as epoch-0001.weights.h5, got {self.file!r}"
            )
        if type(self.epoch) is not int or not 0 < self.epoch < 10**9:
            raise ValueError(f"epoch: expected a positive integer, got {self.epoch!r}")
        if self.value is not None and type(self.value) not in (int, float):
            raise ValueError(f"value: expected a number or null, got {self.value!r}")
        if not (isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256)):
            raise ValueError(f"sha256: expected 64 hexadecimal digits, got {self.sha256!r}")


def sort_key(value: float | None, higher_is_better: bool) -> float:
    """Return the key that sorts values of a metric, the best first; infinite and None or NaN last.

    >>> sorted([0.5, None, 0.9], key=lambda value: sort_key(value, higher_is_better=True))
    [0.9, 0.5, None]
    """
    if value is None or not math.isfinite(value):
        return math.inf
    return -value if higher_is_better else value
