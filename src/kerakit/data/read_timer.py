"""How long reading took, and how long it was waited for: what the verdict on speed stands on."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator


class ReadTimer:
    """Seconds that reading took, summed over the threads, and that were spent waiting for it.

    Attributes:
        images: how many were read.
        reading: seconds of all threads together.
        waiting: seconds until an asked batch was there.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
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
