"""Building the project's models, with pretrained weights or without."""

from kerakit.models.build import build

__all__ = ["build"]
