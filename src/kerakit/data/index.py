"""The index of a dataset: columns of keys, class indices, splits and groups."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

if TYPE_CHECKING:
    from kerakit.data.shards.index import Shards

UNASSIGNED = -1
"""Value in ``ImageIndex.splits`` of images whose split is drawn by a hash."""


@dataclass(frozen=True)
class ImageIndex:
    """Index of a dataset of n images: columns, never one Python object per image.

    Attributes:
        root: folder that keys are relative to.
        keys: binary (n,): path of each image relative to ``root``, with ``/``, in the file system's
            encoding.
        targets: int32 (n,), class indices.
        class_names: in the order of the class indices.
        splits: int8 (n,), indices into ``MODES``, or UNASSIGNED.
        groups: binary (n,): images of one group are always in the same split; None: no groups.
        warnings: sentences about the dataset, such as the number of files that are not used.
        skipped: paths of files in class folders that are not images of a supported format.
        sample_weights: float32 (n,), factor of each image in the loss; None: 1.
        shards: shards that contain the images, in the order of ``keys``; None: files.

    >>> index = ImageIndex(
    ...     root=Path("photos"),
    ...     keys=pa.array([b"cat/1.jpg", b"dog/1.jpg"]),
    ...     targets=np.array([0, 1], np.int32),
    ...     class_names=("cat", "dog"),
    ...     splits=np.full(2, UNASSIGNED, np.int8),
    ... )
    >>> len(index.keys)
    2
    """

    root: Path
    keys: pa.Array
    targets: NDArray[np.int32]
    class_names: tuple[str, ...]
    splits: NDArray[np.int8]
    groups: pa.Array | None = None
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    sample_weights: NDArray[np.float32] | None = None
    shards: Shards | None = None
