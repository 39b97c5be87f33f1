"""Settings of glibc's malloc, which TensorFlow changes."""

from __future__ import annotations

import contextlib
import ctypes

# From glibc's malloc.h; 32 MiB is the largest M_MMAP_THRESHOLD.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_BYTES, _MMAP_BYTES = 2**30, 2**25


def retain_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory for later allocations; elsewhere, do nothing.

    TensorFlow's ``from_generator``, through which Keras reads every Sequence, sets M_TRIM_THRESHOLD
    to 128 KiB (generator_dataset_op.cc, 2.21). Each freed activation is then returned to the kernel
    and faulted in again at the next step, which made training 2.8 times slower on a CPU (see the
    decisions page). Call this after reading has started, since TensorFlow sets it then.
    """
    # AttributeError: macOS and musl have no mallopt. TypeError: Windows has no library of this
    # name.
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
