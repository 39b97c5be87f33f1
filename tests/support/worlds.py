"""Several processes on this machine that train together."""

from __future__ import annotations

import socket

TOLERANCE = 1e-5
"""Largest relative difference of a loss from that of one device."""


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def variables(rank: int, size: int, port: int, devices: int = 1) -> dict[str, str]:
    """Return the environment of one of the processes, each with so many virtual devices."""
    # Without optimization, programs are compiled in less time.
    options = f"--xla_force_host_platform_device_count={devices}"
    found = {
        "KERAS_BACKEND": "jax",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"{options} --xla_backend_optimization_level=0",
    }
    if size > 1:
        found["KERAS_DISTRIBUTION_JOB_ADDRESSES"] = f"127.0.0.1:{port}"
        found["KERAS_DISTRIBUTION_NUM_PROCESSES"] = str(size)
        found["KERAS_DISTRIBUTION_PROCESS_ID"] = str(rank)
    return found
