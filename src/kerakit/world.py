"""The processes and devices that train together, and how they divide a batch.

A training of one process on one device has a world of its own: nothing is divided, nothing is sent.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.errors import JobError, first_line
from kerakit.locks import release_all

WAIT_MS = 24 * 3600 * 1000
"""Longest wait for another process; one that is lost ends it after a minute."""

_CHUNK_BYTES = 2**26
"""Largest number of bytes that a process sends at once."""

FAILED_KEY = "kerakit/failed/"
"""Prefix of keys in JAX's coordination service, one per process. A failing process sets all of
them, to its number and exit code."""


@dataclass(frozen=True)
class World:
    """The processes and devices of a training.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        devices: number of devices of all processes, which divide a batch.

    >>> world = World()
    >>> world.is_main, world.rows(32)
    (True, slice(0, 32, None))
    """

    rank: int = 0
    size: int = 1
    devices: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run folder, and prints."""
        return self.rank == 0

    def is_divided(self, count: int) -> bool:
        """Whether a batch of ``count`` samples is divided; otherwise each device gets all of it.

        >>> World(devices=2).is_divided(4), World(devices=2).is_divided(3)
        (True, False)
        """
        return self.devices > 1 and count > 0 and count % self.devices == 0

    def rows(self, count: int) -> slice:
        """Return the rows of a batch of ``count`` samples that this process reads.

        >>> World(rank=1, size=2, devices=2).rows(6)
        slice(3, 6, None)
        >>> World(rank=1, size=2, devices=2).rows(5)
        slice(0, 5, None)
        """
        if self.size == 1 or not self.is_divided(count):
            return slice(0, count)
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def batches(self, count: int, rank: int | None = None) -> range:
        """Return the batches that a process predicts, of ``count``: whole ones, in their order.

        >>> [list(World(size=3).batches(5, rank)) for rank in range(3)]
        [[0], [1, 2], [3, 4]]
        """
        rank = self.rank if rank is None else rank
        return range(count * rank // self.size, count * (rank + 1) // self.size)

    # ------------------------------------------------------------------------ arrays on devices

    @cached_property
    def _mesh(self) -> Any:
        import jax

        # By process: the rows of a process are one part of the batch.
        devices = sorted(jax.devices(), key=lambda one: (one.process_index, one.id))
        return jax.sharding.Mesh(np.array(devices), ("batch",))

    @cached_property
    def _local_mesh(self) -> Any:
        import jax

        if self.size == 1:
            return self._mesh
        devices = sorted(jax.local_devices(), key=lambda one: one.id)
        return jax.sharding.Mesh(np.array(devices), ("batch",))

    @lru_cache(maxsize=8)  # noqa: B019 - there is one world per process
    def _sharding(self, is_local: bool, is_divided: bool) -> Any:
        import jax

        mesh = self._local_mesh if is_local else self._mesh
        spec: Any = jax.sharding.PartitionSpec(*["batch"] * is_divided)  # type: ignore[no-untyped-call]
        return jax.sharding.NamedSharding(mesh, spec)

    def place(self, array: Any) -> Any:
        """Return a batch on all devices: divided where that is possible, or whole on each.

        Args:
            array: the whole batch, the same in all processes; or one that is placed already.
        """
        import jax

        is_placed = isinstance(array, jax.Array) and len(array.sharding.device_set) == self.devices
        if array is None or is_placed:
            return array
        count = np.shape(array)[0] if np.ndim(array) else 0
        sharding = self._sharding(False, self.is_divided(count))
        if self.size == 1:
            return jax.device_put(array, sharding)
        values = np.asarray(array)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    def assemble(self, part: Any, count: int) -> Any:
        """Return a batch of ``count`` samples on all devices, of which each process has its rows.

        With one process, arrays stay as they are.
        """
        if self.size == 1:
            return part
        import jax

        first = self.rows(count).start
        sharding = self._sharding(False, self.is_divided(count))

        def assemble_one(array: Any) -> Any:
            values = np.asarray(array)

            def read(index: Any) -> NDArray[Any]:
                start, stop, _ = index[0].indices(count)
                return values[start - first : stop - first]

            return jax.make_array_from_callback((count, *values.shape[1:]), sharding, read)

        return nested.map_arrays(assemble_one, part)

    def replicate(self, value: Any, sharding: Any) -> Any:
        """Return a value that all processes have as an array on all devices, without sending it.

        JAX's ``device_put`` compares it among the processes at each call.
        """
        import jax

        values = np.asarray(value)
        return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])

    def to_local(self, variable: Any) -> Any:
        """Return an array that all devices hold as one on the devices of this process."""
        if self.size == 1:
            return variable
        import jax

        shards = sorted(variable.addressable_shards, key=lambda one: one.device.id)
        parts = [shard.data for shard in shards]
        sharding = self._sharding(True, False)
        return jax.make_array_from_single_device_arrays(variable.shape, sharding, parts)

    def place_local(self, array: Any) -> Any:
        """Return a batch on the devices of this process, divided where that is possible."""
        import jax

        local = self.devices // self.size
        is_divided = local > 1 and len(array) > 0 and len(array) % local == 0
        return jax.device_put(array, self._sharding(True, is_divided))

    # ---------------------------------------------------------------------------- communication

    def maximum(self, *values: int) -> tuple[int, ...]:
        """Return the largest of each value among the processes; all call this at the same point.

        >>> World().maximum(1, 0)
        (1, 0)
        """
        if self.size == 1:
            return values
        part = np.tile(np.array(values, np.int32), (self.devices // self.size, 1))
        largest = _maximum(self._sharding(False, False))
        return tuple(np.asarray(largest(self.assemble(part, self.devices))).tolist())

    def any(self, condition: bool) -> bool:
        """Whether a condition is true in any process; all call this at the same point.

        >>> World().any(True)
        True
        """
        return bool(self.maximum(int(condition))[0])

    def from_main(self, value: float) -> float:
        """Return the value of process 0; all call this at the same point.

        >>> World().from_main(0.5)
        0.5
        """
        if self.size == 1:
            return value
        content = np.array([value], np.float64).tobytes()
        return float(np.frombuffer(self.gather_bytes(content)[0], np.float64)[0])

    def gather_bytes(self, content: bytes, keeps: bool = True) -> list[bytes]:
        """Return the bytes of each process; those of all have the same length.

        Args:
            content: the bytes of this process.
            keeps: whether this process needs the others, which take memory.

        >>> World().gather_bytes(b"1")
        [b'1']
        """
        if self.size == 1:
            return [content]
        from jax.experimental import multihost_utils

        parts: list[list[bytes]] = [[] for _ in range(self.size)]
        for start in range(0, len(content), _CHUNK_BYTES):
            chunk = np.frombuffer(content[start : start + _CHUNK_BYTES], np.uint8)
            for part, row in zip(parts, multihost_utils.process_allgather(chunk), strict=True):
                if keeps:
                    part.append(np.asarray(row).tobytes())
        return [b"".join(part) for part in parts]

    def send_from_main(self, content: bytes) -> bytes:
        """Return the bytes of process 0; those of the others are ignored.

        >>> World().send_from_main(b"1")
        b'1'
        """
        if self.size == 1:
            return content
        from jax.experimental import multihost_utils

        length = int(self.from_main(len(content)))
        content = content if self.is_main else bytes(length)
        chunks = (content[start : start + _CHUNK_BYTES] for start in range(0, length, _CHUNK_BYTES))
        return b"".join(
            np.asarray(
                multihost_utils.broadcast_one_to_all(np.frombuffer(chunk, np.uint8), self.is_main)
            ).tobytes()
            for chunk in chunks
        )

    def gather_rows(self, rows: Any, counts: Sequence[int], to_all: bool = True) -> Any:
        """Return the rows of all processes, in the order of their numbers.

        Args:
            rows: arrays with the rows of this process.
            counts: numbers of rows of the processes.
            to_all: otherwise process 0 alone gets them, and the others their own ones.

        >>> World().gather_rows(np.arange(3), [3])
        array([0, 1, 2])
        """
        if self.size == 1:
            return rows
        keeps = to_all or self.is_main

        def gather_one(array: Any) -> NDArray[Any]:
            values = np.ascontiguousarray(array)
            missing = max(counts) - len(values)
            padded = np.concatenate([values, np.zeros((missing, *values.shape[1:]), values.dtype)])
            parts = self.gather_bytes(padded.tobytes(), keeps)
            if not keeps:
                return values
            shape = (-1, *values.shape[1:])
            arrays = (np.frombuffer(part, values.dtype).reshape(shape) for part in parts)
            return np.concatenate([one[:n] for one, n in zip(arrays, counts, strict=True)])

        return nested.map_arrays(gather_one, rows)

    def call_on_main(self, function: Callable[[], str]) -> str:
        """Return the text that a function returns in process 0, for which the others wait.

        Raises:
            JobError: process 0 was lost meanwhile.

        >>> World().call_on_main(lambda: "1")
        '1'
        """
        if self.size == 1:
            return function()
        from jax._src.distributed import global_state

        client: Any = global_state.client
        key = f"kerakit/main/{next(_calls)}"
        if self.is_main:
            text = function()
            client.key_value_set(key, text)
            return text
        try:
            return str(client.blocking_key_value_get(key, WAIT_MS))
        except Exception as error:  # JAX has errors of several types for it
            raise JobError(f"process 0 was lost ({first_line(error)}).") from None

    # ---------------------------------------------------------------------------------- failing

    def leave(self, code: int) -> None:
        """End this process at once, and tell the others; with one process, do nothing.

        At its normal exit, JAX waits until all processes have ended, and those wait for this one.
        """
        if self.size == 1:
            return
        from jax._src.distributed import global_state

        client: Any = global_state.client
        for rank in range(self.size):
            with contextlib.suppress(Exception):  # another was first, or process 0 has ended
                client.key_value_set(f"{FAILED_KEY}{rank}", f"{self.rank} {code}")
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        for function in _cleanups:
            function()
        release_all()
        if self.is_main:
            time.sleep(1)  # the others read the message from this process
        os._exit(code)


@lru_cache(maxsize=1)
def _maximum(sharding: Any) -> Any:
    import jax

    return jax.jit(lambda values: values.max(axis=0), out_shardings=sharding)


_calls = itertools.count()
"""Number of calls of ``World.call_on_main``, the same in all processes."""

_cleanups: list[Callable[[], Any]] = []

current = World()
"""The world of this process; ``join`` replaces it."""


def join(world: World) -> None:
    """Set the world of this process."""
    global current
    current = world


def on_leave(function: Callable[[], Any]) -> None:
    """Let ``World.leave`` call a function."""
    _cleanups.append(function)
