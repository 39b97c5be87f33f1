"""Sample datasets of each task that need no download."""

from kerakit.data.ready.datasets import write_ready_data

__all__ = ["write_ready_data"]
