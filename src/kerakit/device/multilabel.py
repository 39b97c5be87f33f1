"""Multi-label classification on devices: decoding of independent scores.

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
    """Decodes the scores of one image, (classes,): each class is present or not.

    Args:
        spec: ``classes``: class names in the order of the outputs; ``thresholds``: one per class.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        self.classes = list(spec["classes"])
        self.thresholds = np.asarray(spec["thresholds"], np.float64)

    def decode(self, outputs: Any) -> Any:
        """Return the scores, float (classes,)."""
        return np.asarray(outputs)

    def ties(self, outputs: Any, step: float) -> bool:
        """Whether a difference of ``step`` in the scores may change the predicted labels."""
        return bool((np.abs(np.asarray(outputs, np.float64) - self.thresholds) < step).any())

    def same(self, prediction: Any, other: Any) -> bool:
        """Whether two predictions have the same labels."""
        return bool(((prediction >= self.thresholds) == (other >= self.thresholds)).all())

    def describe(self, prediction: Any, top: int = 0, size: Any = None) -> list[dict[str, Any]]:
        """Return the labels that are present with their confidences, the highest first.

        At least ``top`` labels are returned, the others with ``present`` False.
        """
        scores = np.asarray(prediction, np.float64)
        order = np.argsort(-scores, kind="stable").tolist()
        present = scores >= self.thresholds
        chosen = [i for i in order if present[i]]
        chosen += [i for i in order if not present[i]][: max(0, top - len(chosen))]
        return [
            {"label": self.classes[i], "confidence": float(scores[i]), "present": bool(present[i])}
            for i in chosen
        ]

    def caption(self, prediction: Any, top: int = 0) -> str:
        """Return the labels that are present and their confidences."""
        rows = [row for row in self.describe(prediction) if row["present"]]
        return ", ".join(f"{row['label']} {row['confidence']:.2f}" for row in rows) or "no label"
