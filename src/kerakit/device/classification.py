"""Classification on devices: decoding of class scores.

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
    """Decodes the scores of one image, (classes,).

    Args:
        spec: ``classes``: class names in the order of the outputs.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.classes = list(spec["classes"])

    def decode(self, outputs: Any) -> Any:
        """Return the scores, float (classes,)."""
        return np.asarray(outputs)

    def ties(self, outputs: Any, step: float) -> bool:
        """Whether a difference of ``step`` in the scores may change the predicted class."""
        ordered = np.sort(np.asarray(outputs, np.float64))
        return len(ordered) > 1 and bool(ordered[-1] - ordered[-2] < step)

    def same(self, prediction: Any, other: Any) -> bool:
        """Whether two predictions are of the same class."""
        return int(np.argmax(prediction)) == int(np.argmax(other))

    def describe(self, prediction: Any, top: int = 1, size: Any = None) -> list[dict[str, Any]]:
        """Return the ``top`` labels with their confidences, the highest first."""
        order = np.argsort(-np.asarray(prediction, np.float64), kind="stable")[:top]
        return [{"label": self.classes[i], "confidence": float(prediction[i])} for i in order]

    def caption(self, prediction: Any, top: int = 1) -> str:
        """Return the ``top`` labels and their confidences."""
        rows = self.describe(prediction, top)
        return ", ".join(f"{row['label']} {row['confidence']:.2f}" for row in rows)
