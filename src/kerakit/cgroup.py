"""Limits that Linux control groups (cgroup v1 and v2) set on this process, as in containers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
# cgroup v1 writes "no limit" as the largest multiple of the page size.
_NO_LIMIT = 2**60


@dataclass(frozen=True)
class CgroupLimits:
    """Limits of all control groups of this process; None: no limit.

    Attributes:
        cores: CPU time per wall-clock time, such as 1.5 cores.
        memory: bytes.
    """

    cores: float | None = None
    memory: int | None = None


def cgroup_limits(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> CgroupLimits:
    """Return the tightest limits of this process's control groups and of their parents.

    Args:
        root: mount point of the control groups.
        membership: file in the format of ``/proc/self/cgroup``.
    """
    cores = [cores for folder in _folders(root, membership, "cpu") for cores in _cores(folder)]
    memory = [size for folder in _folders(root, membership, "memory") for size in _memory(folder)]
    return CgroupLimits(min(cores, default=None), min(memory, default=None))


def free_cgroup_memory(root: Path = _ROOT, membership: Path = _MEMBERSHIP) -> int | None:
    """Return the bytes that are left of the tightest memory limit; None: no limit.

    File pages that the kernel can drop count as free. See ``cgroup_limits`` for the arguments.
    """
    left = []
    for folder in _folders(root, membership, "memory"):
        used = _read(folder / "memory.current") or _read(folder / "memory.usage_in_bytes")
        found = re.search(
            r"^(?:total_)?inactive_file (\d+)$", _read(folder / "memory.stat"), re.MULTILINE
        )
        in_use = max(0, int(used or 0) - int(found.group(1) if found else 0))
        left += [max(0, limit - in_use) for limit in _memory(folder)]
    return min(left, default=None)


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


def _memory(folder: Path) -> Iterator[int]:
    for name in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        limit = _read(folder / name)
        if limit.isdigit() and int(limit) < _NO_LIMIT:
            yield int(limit)


def _read(path: Path) -> str:
    """Return the text of a small file, "" if it cannot be read."""
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
