"""Training phases and sample weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from kerakit.errors import UserError

Phase = Literal["head", "finetune", "scratch"]
Strategy = Literal["auto", "head", "finetune", "scratch"]


def select_phases(
    strategy: Strategy,
    weights: Literal["imagenet", "none"],
    checkpoint_phases: Sequence[str] | None = None,
    end_to_end: bool = False,
) -> tuple[Phase, ...]:
    """Return the phases of a strategy.

    "auto" is "finetune" with pretrained weights, or from a run of a pretrained model; otherwise
    "scratch". With a checkpoint, the head is already trained, so "finetune" skips its phase.

    Args:
        strategy: value of ``--strategy``.
        weights: the pretrained weights of the model.
        checkpoint_phases: the phases of the run that the initial weights are from; () where they
            are unknown, None without ``--from_ckpt``.
        end_to_end: see ``Task``: "finetune" has no phase of the head alone.

    Raises:
        UserError: the strategy needs pretrained weights, but there are none.

    >>> select_phases("auto", "imagenet")
    ('head', 'finetune')
    >>> select_phases("auto", "imagenet", end_to_end=True)
    ('finetune',)
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
    skips_head = checkpoint_phases is not None or end_to_end
    return ("finetune",) if skips_head else ("head", "finetune")


def apply_sample_weights(batches: Any) -> Any:
    """Return training batches with the sample weights of their reader, or unchanged without any.

    Args:
        batches: a ``BatchGenerator`` or ``FeatureDataset``.

    Raises:
        UserError: invalid weights.

    >>> from types import SimpleNamespace
    >>> batches = SimpleNamespace(sample_weights=lambda epoch: None, epoch=0)
    >>> apply_sample_weights(batches) is batches
    True
    """
    return batches if batches.sample_weights(batches.epoch) is None else _SampleWeighted(batches)


class _SampleWeighted(keras.utils.PyDataset):
    """Batches of inputs, targets, and weights, float32 (batch,), for ``fit``."""

    def __init__(self, batches: Any) -> None:
        super().__init__(workers=1)
        self._batches = batches
        self._epoch, self._weights = -1, np.zeros(0, np.float32)

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, i: int) -> tuple[Any, Any, NDArray[np.float32]]:
        if self._epoch != self._batches.epoch:
            self._epoch = self._batches.epoch
            self._weights = self._batches.sample_weights(self._epoch)
        size = self._batches.batch_size
        return *self._batches[i], self._weights[i * size : (i + 1) * size]
