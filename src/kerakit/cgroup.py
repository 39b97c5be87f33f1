"""Limits that Linux control groups (cgroup v1 and v2) set on this process, as in containers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# cgroup v1 writes "no limit" as the largest multiple of the page size.
_NO_LIMIT = 2**60
# v2, v1: limit, usage, and the key of memory.stat for file pages that the kernel frees on demand.
_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


@dataclass(frozen=True)
class CgroupLimits:
    """Limits of all control groups that hold this process; None: no limit.

    Attributes:
        cores: processor time per time, such as 1.5 cores.
        memory: bytes.
        free_memory: bytes until ``memory`` is reached; reclaimable page cache counts as free.
    """

    cores: float | None = None
    memory: int | None = None
    free_memory: int | None = None


def cgroup_limits(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> CgroupLimits:
    """Return the tightest limits of this process's control groups and of their parents.

    Args:
        root: mount point of the control groups.
        membership: file in the format of ``/proc/self/cgroup``.
    """
    cores = [cores for folder in _folders(root, membership, "cpu") for cores in _cores(folder)]
    memory = [pair for folder in _folders(root, membership, "memory") for pair in _memory(folder)]
    return CgroupLimits(
        min(cores, default=None),
        min((limit for limit, _ in memory), default=None),
        min((free for _, free in memory), default=None),
    )


def _folders(root: Path, membership: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of the control groups of ``controller``, each group before its parent."""
    for line in _read(membership).splitlines():
        _, controllers, path = line.split(":", 2)
        if not controllers:
            mounts = [root, root / "unified"]
        elif controller in controllers.split(","):
            mounts = [root / controller]
        else:
            continue
        for mount in mounts:
            # In a container the path may be the host's and lead nowhere: the mount is its group.
            folder = mount / path.strip("/")
            while folder != mount and mount in folder.parents:
                yield folder
                folder = folder.parent
            yield mount


def _cores(folder: Path) -> Iterator[float]:
    quota, _, period = _read(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if quota.isdigit() and period.isdigit() and int(period):
        yield int(quota) / int(period)


def _memory(folder: Path) -> Iterator[tuple[int, int]]:
    for limit_name, usage_name, cache_key in _MEMORY_FILES:
        limit, usage = _read(folder / limit_name), _read(folder / usage_name)
        if limit.isdigit() and usage.isdigit() and int(limit) < _NO_LIMIT:
            stat = dict(line.split(" ", 1) for line in _read(folder / "memory.stat").splitlines())
            used = int(usage) - int(stat.get(cache_key, 0))
            yield int(limit), max(0, int(limit) - used)


def _read(path: Path) -> str:
    """Return the text of a small file, "" if it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
