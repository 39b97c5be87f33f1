"""What there is to read: columns of image names, classes and splits, from a folder or a table. Nothing is decoded here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.split import MODES, Mode, assign
from kerakit.errors import UserError


class Reader(Protocol):
    """What a BatchGenerator asks of a reader: inherit from ``DataReader``, or write these."""

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""

    def key(self, i: int) -> str:
        """Return the name of image ``i``: it stays when images are added, and seeds all that is random of it."""

    def image_path(self, i: int) -> Path:
        """Return where image ``i`` lies."""

    def target(self, i: int) -> object:
        """Return what the model is to answer for image ``i``."""

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the indices of the images of one split, ascending, shape (n,)."""


UNASSIGNED = -1
"""In ``ImageIndex.splits``: where the hash is to decide."""


@dataclass(frozen=True)
class ImageIndex:
    """What was found, in columns of n rows.

    Attributes:
        root: the folder that keys are relative to.
        keys: binary (n,): the path of each image below ``root``, with ``/``, in the file system's encoding.
        targets: int32 (n,), indices into ``class_names``.
        class_names: in the order of the targets.
        splits: int8 (n,), indices into ``MODES`` or UNASSIGNED.
        groups: binary (n,): images of one group stay on one side of the split; None where each stands for itself.
    """

    root: Path
    keys: pa.Array
    targets: NDArray[np.int32]
    class_names: tuple[str, ...]
    splits: NDArray[np.int8]
    groups: pa.Array | None = None


class DataReader:
    """The images of a folder or of a table.

    A folder holds one folder a class, or ``train/``, ``validation/`` (``val/``), ``test/`` of such. A table is a CSV or Parquet
    file with the columns ``path`` and ``label``, and ``split`` and ``group`` if wanted; relative paths belong to its folder.
    Classes are numbered in the order of their names. Where no split is given, it is drawn by a hash of each image's path (or
    group), so that adding images moves none (``kerakit.data.split``). Millions of rows stay columns.

    Args:
        data: the folder or the table.
        train_ratio: share of the images to train on where no split is given, in (0, 1); the rest is halved into validation
            and test. With a given training set alone both are drawn from it; with training and test, validation is.
        seed: of the drawn split.
        exclusions: a list that ``kerakit check`` wrote; images for which it says yes are not there. No list, no such images.

    Attributes:
        num_excluded: how many images the list left out.
        class_names: in the order of the targets.
        targets: int32 (n,), the index of each image's class.

    Raises:
        UserError: no such folder or table, no images, fewer than two classes, a class without training images.
    """

    def __init__(
        self,
        data: Path | str,
        train_ratio: float = 0.8,
        seed: int = 0,
        exclusions: Path | None = None,
    ) -> None:
        listing = _list(Path(data))
        count = len(listing.keys)
        if exclusions is not None and exclusions.exists():
            listing = _without(listing, exclusions)
        self.num_excluded = count - len(listing.keys)
        self.data = Path(data)
        self.root = listing.root
        self.class_names = listing.class_names
        self.targets = listing.targets
        self._keys = listing.keys
        self._splits = listing.splits
        self._refuse_empty_classes()
        self._draw_what_is_not_given(listing, train_ratio, seed)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def image_paths(self) -> Sequence[Path]:
        """The path of every image, in the order of ``targets``; each is made when it is asked for."""
        return _Paths(self)

    def key(self, i: int) -> str:
        """Return the path of image ``i`` below the root, with ``/``."""
        return os.fsdecode(self._keys[i].as_py())

    def image_path(self, i: int) -> Path:
        """Return the path of image ``i``."""
        return self.root / self.key(i)

    def target(self, i: int) -> np.int32:
        """Return the index of the class of image ``i``."""
        return np.int32(self.targets[i])

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the indices of the images of ``mode``, ascending, shape (n,)."""
        if mode not in MODES:
            raise UserError(f"mode {mode!r} is unknown; expected one of {', '.join(MODES)}.")
        return np.flatnonzero(self._splits == MODES.index(mode))

    def counts(self, mode: Mode) -> NDArray[np.int64]:
        """Return the number of images of each class in ``mode``, shape (classes,)."""
        return np.bincount(self.targets[self.indices(mode)], minlength=len(self.class_names))

    def _refuse_empty_classes(self) -> None:
        can_train = (self._splits == MODES.index("train")) | (self._splits == UNASSIGNED)
        counts = np.bincount(self.targets[can_train], minlength=len(self.class_names))
        empty = [name for name, count in zip(self.class_names, counts, strict=True) if count == 0]
        also = (
            f" {self.num_excluded} images are left out by the list of kerakit check."
            if self.num_excluded
            else ""
        )
        if len(empty) == len(self.class_names):
            raise UserError(
                f"{self.data} has no images in its class folders.{also} Expected files such as .jpg or .png."
            )
        if empty:
            raise UserError(
                f"the class {empty[0]!r} in {self.data} has no training images.{also} Add some, or remove the class."
            )

    def _draw_what_is_not_given(self, listing: ImageIndex, train_ratio: float, seed: int) -> None:
        """Decide by the hash where no split was given; take validation from the training images if there is none."""
        given = {MODES[i] for i in np.unique(self._splits) if i != UNASSIGNED}
        drawn_from = self._splits == UNASSIGNED
        if given and "val" not in given:
            drawn_from |= self._splits == MODES.index("train")
        if not drawn_from.any():
            return
        rows = np.flatnonzero(drawn_from)
        names = (listing.keys if listing.groups is None else listing.groups).take(pa.array(rows))
        # In pieces, so that a million names are never objects at the same time.
        pieces = (names[start : start + 2**16].to_pylist() for start in range(0, len(names), 2**16))
        drawn = np.concatenate([assign(piece, seed, train_ratio) for piece in pieces])
        if "test" in given:
            drawn[drawn == MODES.index("test")] = MODES.index("val")
        splits = self._splits.copy()
        splits[rows] = drawn
        self._splits = splits


def held_out_mode(reader: Reader) -> Mode:
    """Return "test" where there are such images, else "val"."""
    return "test" if len(reader.indices("test")) else "val"


def check_class_names(reader: Reader, class_names: tuple[str, ...]) -> None:
    """Raise UserError unless the classes are these: a model's outputs mean nothing for others."""
    if tuple(reader.class_names) != tuple(class_names):
        raise UserError(
            f"the data has the classes {', '.join(reader.class_names)}; the model was trained on {', '.join(class_names)}. "
            "Give the data that it was trained on with --data_dir."
        )


def data_warnings(reader: Reader) -> list[str]:
    """Return what a user should know before training, one line each: nothing of readers that are no ``DataReader``.

    How many images are left out; how many GIFs there are, of which the first frame is read; each class without a validation or
    test image, in a split that has images of others.
    """
    lines: list[str] = []
    if not isinstance(reader, DataReader):
        return lines
    if reader.num_excluded:
        lines.append(
            f"{reader.num_excluded} images are left out, as the list of kerakit check says."
        )
    if gifs := pc.sum(pc.ends_with(reader._keys, ".gif", ignore_case=True)).as_py():
        lines.append(f"{gifs} images are GIFs: the first frame of each is read.")
    for mode in MODES[1:]:
        counts = reader.counts(mode)
        missing = [
            name for name, count in zip(reader.class_names, counts, strict=True) if not count
        ]
        if counts.any():
            lines += [
                f"the class {name!r} has no {mode} images: nothing is known of how well it is told."
                for name in missing
            ]
    return lines


class _Paths(Sequence[Path]):
    """Paths that are made when they are asked for: a million of them as objects would be 300 MB."""

    def __init__(self, reader: DataReader) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, i: int) -> Path:  # type: ignore[override] # no slices
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        return self._reader.image_path(i % len(self))

    def __iter__(self) -> Iterator[Path]:
        return map(self._reader.image_path, range(len(self)))


def _without(listing: ImageIndex, exclusions: Path) -> ImageIndex:
    from kerakit.data.tables import read_exclusions

    keep = pc.invert(pc.is_in(listing.keys, value_set=read_exclusions(exclusions)))
    rows = keep.to_numpy(zero_copy_only=False)
    return replace(
        listing,
        keys=listing.keys.filter(keep),
        targets=listing.targets[rows],
        splits=listing.splits[rows],
        groups=None if listing.groups is None else listing.groups.filter(keep),
    )


def _list(data: Path) -> ImageIndex:
    # Imported here: both make a ImageIndex of this module.
    from kerakit.data.folders import index_folder
    from kerakit.data.tables import index_table

    return index_table(data) if data.is_file() else index_folder(data)
