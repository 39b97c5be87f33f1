"""The split into training, validation and test: a pure function of (seed, key)."""

from __future__ import annotations

import hashlib
import os
from typing import Literal, get_args

Mode = Literal["train", "val", "test"]
MODES: tuple[Mode, ...] = get_args(Mode)


def assign(key: str, seed: int, train_ratio: float) -> Mode:
    """Return the split of the image named ``key``.

    What is not for training is halved into validation and test. Since nothing but the seed and the key enters, adding or
    removing images moves no other image; a change of ``train_ratio`` moves only those between the old bound and the new.

    Args:
        key: the image's path below the data folder, with ``/``.
        seed: any whole number.
        train_ratio: share of the images to train on, in (0, 1).
    """
    digest = hashlib.sha256(b"%d:%s" % (seed, os.fsencode(key))).digest()
    # 53 bits: what a float holds exactly, so that the draw is uniform in [0, 1).
    draw = (int.from_bytes(digest[:8], "big") >> 11) / 2**53
    if draw < train_ratio:
        return "train"
    return "val" if draw < (1 + train_ratio) / 2 else "test"
