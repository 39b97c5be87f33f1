"""Models: construction with a task's head, backbones that Keras does not include, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kerakit.lazy import lazy_names

if TYPE_CHECKING:
    from kerakit.models.build import ModelFiles, build_model
    from kerakit.models.efficientnet_lite import EfficientNetLite
    from kerakit.models.levels import feature_levels, feature_pyramid

_HOMES = {
    "EfficientNetLite": "kerakit.models.efficientnet_lite",
    "ModelFiles": "kerakit.models.build",
    "build_model": "kerakit.models.build",
    "feature_levels": "kerakit.models.levels",
    "feature_pyramid": "kerakit.models.levels",
}

__all__ = [
    "EfficientNetLite",
    "ModelFiles",
    "build_model",
    "feature_levels",
    "feature_pyramid",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
