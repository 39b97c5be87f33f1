"""Waiting for threads that read: one that has died or hangs is named, and ends the job."""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kerakit.errors import JobError

WARNING_S = 20
"""Seconds without a batch after which threads that have died are an error, others a warning."""

LIMIT_S = 600
"""Seconds without a batch after which threads that hang are an error."""

stuck: set[threading.Thread] = set()
"""Threads that hang: Python waits for them at its end, for ever."""


class Watch:
    """Record of what each thread reads, and a wait for the result.

    Args:
        describe: function from what ``begin`` was given to its name, for messages.

    >>> Watch(str).wait(iter([7]))
    7
    """

    def __init__(self, describe: Callable[[int], str]) -> None:
        self._describe = describe
        self._current: dict[threading.Thread, int] = {}
        self._requests: queue.SimpleQueue[Iterator[Any] | None] | None = None
        self._results: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def begin(self, item: int) -> None:
        """Record what the current thread reads."""
        self._current[threading.current_thread()] = item

    def end(self) -> None:
        """Record that the current thread has read it."""
        self._current.pop(threading.current_thread(), None)

    def wait(self, iterator: Iterator[Any]) -> Any:
        """Return the next item of an iterator, which threads prepare.

        Raises:
            JobError: a thread has died, or nothing arrives within LIMIT_S.
        """
        if self._requests is None:
            self._requests, self._results = queue.SimpleQueue(), queue.SimpleQueue()
            # A thread of its own: nothing else can end the wait of a thread in native code.
            threading.Thread(
                target=_serve, args=(self._requests, self._results), daemon=True
            ).start()
        self._requests.put(iterator)
        start = time.monotonic()
        while True:
            try:
                item, error = self._results.get(timeout=WARNING_S)
            except queue.Empty:
                self._check(time.monotonic() - start)
                continue
            if error is not None:
                raise error
            return item

    def close(self) -> None:
        """End the thread that waits."""
        if self._requests is not None:
            self._requests.put(None)
            self._requests = None

    def _check(self, seconds: float) -> None:
        current = dict(self._current)
        names = ", ".join(sorted({self._describe(item) for item in current.values()})[:4])
        dead = [thread for thread in current if not _is_alive(thread)]
        if dead:
            self._requests = None  # its thread waits for ever
            names = self._describe(current[dead[0]])
            raise JobError(f"a thread died while it read {names}. Check the file, and datagen.py.")
        if seconds >= LIMIT_S:
            self._requests = None
            stuck.update(current)
            raise JobError(
                f"no batch for {seconds:.0f} s; reading: {names}. Check the file system, and "
                "get_aug_pipeline() and preprocess() in datagen.py."
            )
        print(f"WARNING: no batch for {seconds:.0f} s; reading: {names}", file=sys.stderr)


def _is_alive(thread: threading.Thread) -> bool:
    """Whether a thread runs, also for the system: native code can end it without Python."""
    tasks = Path("/proc/self/task")
    return thread.is_alive() and not (
        tasks.is_dir() and not (tasks / f"{thread.native_id}").exists()
    )


def _serve(
    requests: queue.SimpleQueue[Iterator[Any] | None],
    results: queue.SimpleQueue[tuple[Any, BaseException | None]],
) -> None:
    while (iterator := requests.get()) is not None:
        try:
            results.put((next(iterator), None))
        except BaseException as error:
            results.put((None, error))
        del iterator
