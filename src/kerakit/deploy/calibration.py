"""Which images the ranges of an int8 model are measured on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def calibration_images(generator: Any, count: int) -> Callable[[], Iterator[NDArray[np.uint8]]]:
    """Return a function that starts anew over the first ``count`` images of an endless ``ImageGenerator``.

    The same images each time, since its order is seeded; each image once, so fewer than ``count`` where there are fewer.
    """
    return lambda: itertools.islice(iter(generator), min(count, len(generator)))
