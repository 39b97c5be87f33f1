"""The machine: processor, cores, and versions for reports."""

from __future__ import annotations

import importlib
import math
import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from kerakit import __version__
from kerakit.cgroup import cgroup_limits, free_cgroup_memory

_CPU_INFO = Path("/proc/cpuinfo")
_MEMORY_INFO = Path("/proc/meminfo")

_ASSUMED_MEMORY = 4 * 2**30
"""Available memory in bytes where the system does not tell."""

MIN_ADDRESS_SPACE = 16 * 2**30
"""Address space in bytes below which a warning is printed: see ``find_address_limit``."""

_THREAD_VARIABLES = (
    *("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"),
    "PJRT_NPROC",  # of JAX on CPUs
)


def available_cores() -> int:
    """Return the number of cores that this process may use, within its control group's limit."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    cores = len(affinity) if affinity else os.cpu_count() or 1
    return min(cores, math.ceil(cgroup_limits().cores or cores))


def available_memory(info: Path = _MEMORY_INFO) -> int:
    """Return the available physical memory in bytes, at most what the control group has left.

    File pages that the kernel can drop count as available, as in Linux's ``MemAvailable``.

    Args:
        info: file in the format of ``/proc/meminfo``; without it, only free pages count.
    """
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB$", info.read_text("ascii"), re.MULTILINE)
    except (OSError, ValueError):
        found = None
    if found:
        available = int(found.group(1)) * 1024
    else:
        available = memory_pages("SC_AVPHYS_PAGES") or _ASSUMED_MEMORY
    left = free_cgroup_memory()
    return available if left is None else min(available, left)


def memory_pages(name: Literal["SC_PHYS_PAGES", "SC_AVPHYS_PAGES"]) -> int | None:
    """Return a number of memory pages in bytes; None where the system does not have it."""
    try:
        return os.sysconf(name) * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return None


def limit_threads() -> None:
    """Let native libraries start as many threads as the control group has cores.

    They count the cores of the host. To be called before TensorFlow and NumPy are imported.
    """
    cores = cgroup_limits().cores
    if cores is not None and cores < (os.cpu_count() or 1):
        for name in _THREAD_VARIABLES:
            os.environ.setdefault(name, str(math.ceil(cores)))


def find_address_limit() -> int | None:
    """Return the limit of ``ulimit -v`` in bytes where native libraries may abort by it, or None.

    They reserve far more addresses than memory: 4 GB aborted TensorFlow on two cores.
    """
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return limit if 0 <= limit < MIN_ADDRESS_SPACE else None


def describe_machine(packages: Iterable[str]) -> dict[str, Any]:
    """Return time, machine, and versions of the Keras backend and ``packages``, for a report."""
    import keras

    backend = keras.backend.backend()
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cpu": cpu_name(),
        "cores": available_cores(),
        "versions": {
            backend: importlib.import_module(backend).__version__,
            "kerakit": __version__,
            **{name: version(name) for name in packages},
        },
    }


def cpu_name() -> str | None:
    """Return the processor's name from ``/proc/cpuinfo``; None where there is none."""
    try:
        text = _CPU_INFO.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:model name|Model)\s*:\s*(\S.*)$", text, re.MULTILINE)
    return found.group(1).strip() if found else None


def list_devices() -> list[str]:
    """Return the names of the devices of Keras's backend: ``cpu:0``, ``gpu:0``."""
    import keras

    if keras.backend.backend() == "torch":  # Keras lists the devices of the other backends only
        import torch

        gpus = [f"gpu:{i}" for i in range(torch.cuda.device_count())]
        return gpus or [str(keras.ops.zeros(1).device)]
    return list(keras.distribution.list_devices())


def has_accelerator() -> bool:
    """Whether Keras computes on a GPU or TPU."""
    return any(not device.startswith("cpu") for device in list_devices())


def package_version(name: str) -> str | None:
    """Return the version of an installed package; None if it is not installed.

    >>> package_version("no-such-package") is None
    True
    """
    try:
        return version(name)
    except PackageNotFoundError:
        return None
