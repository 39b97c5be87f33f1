"""Training phases and class weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import keras
import numpy as np

from kerakit.data.reader import DataReader, Reader
from kerakit.errors import UserError

Phase = Literal["head", "finetune", "scratch"]
Strategy = Literal["auto", "head", "finetune", "scratch"]


def select_phases(
    strategy: Strategy,
    weights: Literal["imagenet", "none"],
    checkpoint_phases: Sequence[str] | None = None,
) -> tuple[Phase, ...]:
    """Return the phases of a strategy.

    "auto" is "finetune" with pretrained weights, or from a run of a pretrained model; otherwise
    "scratch". With a checkpoint, the head is already trained, so "finetune" skips its phase.

    Args:
        strategy: value of ``--strategy``.
        weights: the pretrained weights of the model.
        checkpoint_phases: the phases of the run that the initial weights are from; () where they
            are unknown, None without ``--from_ckpt``.

    Raises:
        UserError: the strategy needs pretrained weights, but there are none.

    >>> select_phases("auto", "imagenet")
    ('head', 'finetune')
    >>> select_phases("auto", "none")
    ('scratch',)
    """
    if strategy == "auto":
        resumes = bool(checkpoint_phases) and "scratch" not in (checkpoint_phases or ())
        strategy = "finetune" if weights == "imagenet" or resumes else "scratch"
    if strategy == "scratch":
        return ("scratch",)
    if checkpoint_phases is None and weights == "none":
        raise UserError(
            f"--strategy {strategy} needs pretrained weights, and this model has none. Omit it, or "
            "pass --from_ckpt."
        )
    if strategy == "head":
        return ("head",)
    return ("finetune",) if checkpoint_phases is not None else ("head", "finetune")


def compute_class_weights(reader: Reader) -> dict[int, float]:
    """Return inverse class frequencies: 1 on average over the images.

    Raises:
        UserError: the reader does not count classes.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from kerakit.data.digits import write_digits
    >>> with TemporaryDirectory() as folder:
    ...     write_digits(Path(folder))
    ...     weights = compute_class_weights(DataReader(folder))
    >>> sorted(weights) == list(range(10))
    True
    """
    if not isinstance(reader, DataReader):
        raise UserError(
            "--class_weights needs one class per image, as in a DataReader. Omit it, or count the "
            "classes in your reader."
        )
    counts = reader.counts("train")
    total = int(counts.sum())
    return {i: total / (len(counts) * max(int(count), 1)) for i, count in enumerate(counts)}


class ClassWeighted(keras.utils.PyDataset):
    """Batches with a weight per image: that of its class, or of its soft label, the weighted mean.

    ``fit(class_weight=...)`` counts the largest class of a soft label alone.

    Args:
        batches: batches of (inputs, targets); targets are class indices (batch,) or soft labels
            (batch, classes).
        weights: weight per class index.

    >>> batches = [(np.zeros((2, 3)), np.array([[1.0, 0.0], [0.5, 0.5]]))]
    >>> ClassWeighted(batches, {0: 1.0, 1: 3.0})[0][2].tolist()
    [1.0, 2.0]
    """

    def __init__(self, batches: Any, weights: Mapping[int, float]) -> None:
        super().__init__(workers=1)
        self._batches = batches
        self._weights = np.array([weights[i] for i in range(len(weights))], np.float32)

    def __len__(self) -> int:
        """Return the number of batches."""
        return len(self._batches)

    def __getitem__(self, i: int) -> tuple[Any, Any, Any]:
        """Return inputs, targets and weights, float32 (batch,), of batch ``i``."""
        inputs, targets = self._batches[i]
        weights = self._weights
        if isinstance(targets, np.ndarray) and targets.shape[1:] == weights.shape:
            return inputs, targets, targets.astype(np.float32) @ weights
        if isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu":
            return inputs, targets, weights[targets]
        raise UserError(
            "--class_weights needs a class index or a soft label per image as the target. Omit it."
        )
