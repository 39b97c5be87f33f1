"""Training phases and class weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

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
    """Return inverse class frequencies for ``fit(class_weight=...)``: 1 on average over the images.

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
