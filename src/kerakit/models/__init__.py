"""Models: construction with a task's head, backbones that Keras does not include, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerakit.lazy import lazy_names

if TYPE_CHECKING:
    from kerakit.models.build import ModelFiles, build_model
    from kerakit.models.efficientnet_lite import EfficientNetLite

_HOMES = {
    "EfficientNetLite": "kerakit.models.efficientnet_lite",
    "ModelFiles": "kerakit.models.build",
    "build_model": "kerakit.models.build",
}

__all__ = ["EfficientNetLite", "ModelFiles", "build_model"]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
