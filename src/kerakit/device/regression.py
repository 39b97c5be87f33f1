"""Regression on devices: decoding of numbers.

Needs Python 3.7, NumPy and Pillow only: it is copied into device bundles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if __package__ or TYPE_CHECKING:  # in Kerakit
    from kerakit.device.captions import Labels
else:  # on a device: the files beside this one
    from captions import Labels


class Decoder(Labels):
    """Decodes the outputs of one image, (quantities,), fractions of the range of each quantity.

    Args:
        spec: ``classes``: names of the quantities; ``low`` and ``high``: the values at outputs 0
            and 1, one per quantity.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.names = list(spec["classes"])
        self.low = np.asarray(spec["low"], np.float64)
        self.high = np.asarray(spec["high"], np.float64)

    def decode(self, outputs: Any) -> Any:
        """Return the values, float64 (quantities,)."""
        return self.low + np.asarray(outputs, np.float64) * (self.high - self.low)

    def ties(self, outputs: Any, step: float) -> bool:
        """Whether a difference of ``step`` in the outputs may change them by more than 2 %."""
        return step > 0.02

    def same(self, prediction: Any, other: Any) -> bool:
        """Whether two predictions differ by at most 2 % of the range."""
        span = np.abs(self.high - self.low)
        return bool((np.abs(prediction - other) <= 0.02 * span).all())

    def describe(self, prediction: Any, top: int = 0, size: Any = None) -> list[dict[str, Any]]:
        """Return one record per quantity."""
        return [
            {"quantity": name, "value": float(value)} for name, value in zip(self.names, prediction)
        ]

    def caption(self, prediction: Any, top: int = 0) -> str:
        """Return the quantities and their values."""
        return ", ".join(f"{name} {value:.4g}" for name, value in zip(self.names, prediction))
