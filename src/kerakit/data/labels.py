"""Labels: classes or numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable


def are_measurements(labels: Iterable[str]) -> bool:
    """Whether all labels are numbers, and some are no integers, as those of a regression.

    >>> are_measurements(["0.085", "12", "nan"]), are_measurements(["1", "2", "3.0"])
    (True, False)
    """
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        return False
    return any(math.isfinite(number) and not number.is_integer() for number in numbers)
