"""Start of this process by a launcher, alone or as one of several."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

from kerakit.errors import UserError

_ADDRESSES = "KERAS_DISTRIBUTION_JOB_ADDRESSES"
_COUNT = "KERAS_DISTRIBUTION_NUM_PROCESSES"
_NUMBER = "KERAS_DISTRIBUTION_PROCESS_ID"

_LAUNCHERS = (
    ("KERAS_DISTRIBUTION variables", _COUNT, _NUMBER),
    ("SLURM", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("Open MPI", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("MPI", "PMI_SIZE", "PMI_RANK"),
    ("torchrun", "WORLD_SIZE", "RANK"),
)
"""Launchers: name, and the variables of the number of processes and of the number of this one."""


@dataclass(frozen=True)
class Launch:
    """Start of this process by a launcher.

    Attributes:
        launcher: its name.
        size: number of processes.
        rank: number of this one.
        address: host and port of process 0; None: JAX finds it.
        local_devices: numbers of the GPUs of this process; None: JAX chooses.
    """

    launcher: str
    size: int
    rank: int
    address: str | None = None
    local_devices: tuple[int, ...] | None = None


def find_launch(environment: Mapping[str, str], needs_address: bool = True) -> Launch | None:
    """Return how several processes were started, by the environment of one; None: it is alone.

    Args:
        environment: the variables.
        needs_address: whether the processes will join, and not only divide files.

    Raises:
        UserError: variables are missing or invalid.

    >>> find_launch({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    True
    >>> find_launch({"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "1",
    ...              "JAX_COORDINATOR_ADDRESS": "node1:1234"})
    Launch(launcher='Open MPI', size=2, rank=1, address='node1:1234', local_devices=None)
    """
    for launcher, count, number in _LAUNCHERS:
        if count not in environment:
            continue
        size = _read_number(environment, count)
        if size <= 1:
            continue
        if number == _NUMBER and number not in environment:
            number = "JOB_COMPLETION_INDEX"  # of an indexed Job of Kubernetes
            if number not in environment:
                raise _unset(launcher, size, f"{_NUMBER}, or {number} of a Kubernetes Job,")
        elif number not in environment:
            raise _unset(launcher, size, number)
        rank = _read_number(environment, number)
        if not 0 <= rank < size:
            raise UserError(f"{number} is {rank}; expected 0 to {size - 1}, by {count}.")
        address = environment.get(_ADDRESSES, "").split(",")[0]
        address = address or environment.get("JAX_COORDINATOR_ADDRESS", "")
        is_found_by_jax = launcher == "SLURM" or "OMPI_MCA_orte_hnp_uri" in environment
        if not address and not is_found_by_jax:
            address = _find_address(environment, size)
        if not address and not is_found_by_jax and needs_address:
            raise UserError(
                f"{size} processes were started ({launcher}), but the address of process 0 is "
                "unknown. Set JAX_COORDINATOR_ADDRESS=HOST:PORT, the same in all processes: the "
                "host of process 0, and any free port."
            )
        return Launch(launcher, size, rank, address or None, _find_local_devices(environment))
    return None


def without_launch(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a process that works alone, though this one is one of several.

    >>> without_launch({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "1", "HOME": "/root"})
    {'SLURM_PROCID': '1', 'HOME': '/root'}
    """
    counts = {_ADDRESSES, *(count for _, count, _ in _LAUNCHERS)}
    return {name: value for name, value in environment.items() if name not in counts}


def _unset(launcher: str, size: int, number: str) -> UserError:
    return UserError(
        f"{size} processes were started ({launcher}), but {number} is not set. Expected a number "
        f"from 0 to {size - 1}, a different one in each process."
    )


def _read_number(environment: Mapping[str, str], name: str) -> int:
    value = environment[name]
    if not value.isdecimal():
        raise UserError(f"the environment variable {name} is {value!r}; expected a number.")
    return int(value)


def _find_address(environment: Mapping[str, str], size: int) -> str:
    """Return an address for the processes of one machine, by the job of Open MPI 5; or ""."""
    job = environment.get("PMIX_NAMESPACE")
    if job is None or environment.get("OMPI_COMM_WORLD_LOCAL_SIZE") != str(size):
        return ""
    return f"127.0.0.1:{61440 + zlib.crc32(job.encode()) % 4096}"  # as JAX does for Open MPI 4


def _find_local_devices(environment: Mapping[str, str]) -> tuple[int, ...] | None:
    """Return the GPUs of a process, where JAX would use the wrong number of them.

    Under SLURM and Open MPI, JAX gives each process the GPU of its number on the machine. That is
    one of several where a machine has one process, and none where each process sees only its own.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    if not visible or "JAX_LOCAL_DEVICE_IDS" in environment:
        return None
    count = len(visible.split(","))
    names = ("OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_NTASKS_PER_NODE")
    local = next((environment[name] for name in names if name in environment), None)
    return tuple(range(count)) if local == "1" or count == 1 else None
