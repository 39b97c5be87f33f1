"""Time spent reading batches and waiting for them: the basis of the throughput report."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class ReadTimer:
    """Seconds spent reading, summed over threads, and seconds spent waiting for batches.

    Attributes:
        images: number of images read.
        reading: seconds, summed over threads.
        waiting: seconds between the request of a batch and its arrival.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Set all counters to 0."""
        self.images, self.reading, self.waiting = 0, 0.0, 0.0

    @contextlib.contextmanager
    def read(self, images: int) -> Iterator[None]:
        """Time the reading of a batch."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.images += images
            self.reading += time.perf_counter() - start

    @contextlib.contextmanager
    def wait(self) -> Iterator[None]:
        """Time the waiting for a batch."""
        start = time.perf_counter()
        yield
        self.waiting += time.perf_counter() - start
