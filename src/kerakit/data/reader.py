"""Datasets as columns of keys, class indices and splits. Images are not decoded here."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.data.exclusions import read_exclusions
from kerakit.data.folders import index_folder
from kerakit.data.index import UNASSIGNED, ImageIndex
from kerakit.data.split import CHUNK, MODES, Mode, assign
from kerakit.data.tables import index_table
from kerakit.errors import UserError, list_names


class Reader(Protocol):
    """Interface of a dataset: subclass ``DataReader``, or write a class with these members.

    ``i`` is a dataset index, from 0 to ``len(reader) - 1``.

    Attributes:
        class_names: in the order of the class indices.

    >>> class Pages:
    ...     class_names = ("text", "table")
    ...     def __len__(self) -> int: return 4
    ...     def key(self, i: int) -> str: return f"page-{i}"
    ...     def image_path(self, i: int) -> Path: return Path(f"scans/{i}.png")
    ...     def target(self, i: int) -> np.int32: return np.int32(i % 2)
    ...     def indices(self, mode: Mode) -> NDArray[np.int64]:
    ...         return np.array([3]) if mode == "val" else np.array([0, 1, 2])
    >>> reader: Reader = Pages()
    >>> reader.key(3)
    'page-3'
    """

    class_names: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""

    def key(self, i: int) -> str:
        """Return the name of image ``i``: unique, and independent of other images."""

    def image_path(self, i: int) -> Path:
        """Return the path of image ``i``."""

    def target(self, i: int) -> object:
        """Return the annotation of image ``i``, such as its class index."""

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the dataset indices of the images of one split, ascending, int64 (n,)."""


class DataReader:
    r"""Dataset of images in a folder or in a table.

    A folder has one folder per class, or ``train/``, ``validation/`` (``val/``), ``test/`` with one
    folder per class each. A table is a CSV or Parquet file with the columns ``path`` and ``label``,
    and optionally ``split`` and ``group``; paths are relative to its folder. Class indices follow
    the sorted class names. Without a given split, it is drawn within each class, by hashes of the
    paths (or groups): every class has training images, and an added image moves at most one image
    per border between two splits. Millions of rows are stored as columns.

    Args:
        data: folder or table.
        train_ratio: fraction of the images for training where no split is given, in (0, 1); the
            rest is divided equally into validation and test. Given training images alone,
            validation and test are drawn from them; given training and test images, validation is
            drawn from training.
        seed: seed of the split.
        exclusions: images to omit: a CSV file of ``kerakit check``, which need not exist (those
            with "yes" in its column exclude), or the names in ``recipe()["exclusions"]``.

    Attributes:
        data: folder or table.
        train_ratio: as passed.
        seed: as passed.
        root: folder that keys are relative to.
        num_excluded: number of excluded images.
        class_names: in the order of the class indices.
        targets: int32 (n,), class index of each image.
        warnings: sentences about the dataset, such as the number of files that are not used.
        skipped: paths of files in class folders that are not images of a supported format.

    Raises:
        UserError: no such folder or table, no images, fewer than two classes, a class without
            training images.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     rows = ["path,label,split", "a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,dog,val"]
    ...     _ = table.write_text("\n".join(rows))
    ...     reader = DataReader(table)
    >>> reader.class_names, reader.targets.tolist()
    (('cat', 'dog'), [0, 1, 1])
    >>> reader.key(2), reader.indices("val").tolist()
    ('c.jpg', [2])
    """

    def __init__(
        self,
        data: Path | str,
        train_ratio: float = 0.8,
        seed: int = 0,
        exclusions: Path | Sequence[str] | None = None,
    ) -> None:
        data = Path(data)
        index = index_table(data) if data.is_file() else index_folder(data)
        excluded = pc.is_in(index.keys, value_set=_excluded_keys(exclusions))
        usable = ~excluded.to_numpy(zero_copy_only=False)
        # All images have a split, so that an exclusion moves no other image.
        self._splits = _draw_splits(index, train_ratio, seed, usable)[usable]
        self._keys = index.keys.filter(pc.invert(excluded))
        self._excluded = index.keys.filter(excluded)
        self.num_excluded = len(self._excluded)
        self.train_ratio = train_ratio
        self.seed = seed
        self.data = data
        self.warnings = index.warnings
        self.skipped = index.skipped
        self.root = index.root
        self.class_names = index.class_names
        self.targets = index.targets[usable]
        self._check_classes()

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def image_paths(self) -> Sequence[Path]:
        """The path of every image, in the order of ``targets``, as a lazy sequence."""
        return _Paths(self)

    def key(self, i: int) -> str:
        """Return the path of image ``i`` relative to ``root``, with ``/``."""
        return os.fsdecode(self._keys[i].as_py())

    def image_path(self, i: int) -> Path:
        """Return the path of image ``i``."""
        return self.root / self.key(i)

    def target(self, i: int) -> np.int32:
        """Return the class index of image ``i``."""
        return np.int32(self.targets[i])

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the dataset indices of the images of ``mode``, ascending, int64 (n,)."""
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}; expected one of {', '.join(MODES)}.")
        return np.flatnonzero(self._splits == MODES.index(mode))

    def counts(self, mode: Mode) -> NDArray[np.int64]:
        """Return the number of images per class in ``mode``, int64 (classes,)."""
        return np.bincount(self.targets[self.indices(mode)], minlength=len(self.class_names))

    def recipe(self) -> dict[str, Any]:
        r"""Return the split's recipe and a fingerprint of its result, as JSON values.

        ``DataReader(data, recipe["train_ratio"], recipe["seed"], recipe["exclusions"])`` restores
        the split. Equal fingerprints: the same keys, labels and split, in any order.

        Returns:
            ``train_ratio`` and ``seed`` as passed; ``exclusions``, the sorted keys of the excluded
            images (percent-encoded if they are not UTF-8); ``fingerprint``, the SHA-256 of the
            sorted rows of key, class name and mode; ``counts``, the number of images per mode.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     table = Path(folder) / "labels.csv"
        ...     rows = ["path,label,split", "a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,dog,val"]
        ...     _ = table.write_text("\n".join(rows))
        ...     recipe = DataReader(table, exclusions=["c.jpg"]).recipe()
        >>> recipe["exclusions"], recipe["counts"], len(recipe["fingerprint"])
        (['c.jpg'], {'train': 2, 'val': 0, 'test': 0}, 64)
        """
        sides = np.zeros(len(self), np.int8)
        for number, mode in enumerate(MODES):
            sides[self.indices(mode)] = number
        names = pa.array([name.encode() for name in self.class_names], pa.binary())
        modes = pa.array([mode.encode() for mode in MODES], pa.binary())
        rows = pc.binary_join_element_wise(
            self._keys, names.take(pa.array(self.targets)), modes.take(pa.array(sides)), b"\0"
        )
        digest = sha256()
        rows = rows.take(pc.sort_indices(rows))
        for start in range(0, len(rows), CHUNK):
            digest.update(b"".join(row + b"\n" for row in rows[start : start + CHUNK].to_pylist()))
        return {
            "train_ratio": self.train_ratio,
            "seed": self.seed,
            "exclusions": sorted(_printable(key) for key in self._excluded.to_pylist()),
            "fingerprint": digest.hexdigest(),
            "counts": {mode: len(self.indices(mode)) for mode in MODES},
        }

    def _check_classes(self) -> None:
        note = (
            f" {self.num_excluded} images are excluded by the list of kerakit check."
            if self.num_excluded
            else ""
        )
        unreadable = (line for line in self.warnings if line.startswith("unreadable"))
        note += "".join(f" {line[0].upper()}{line[1:]}" for line in unreadable)
        if not len(self):
            raise UserError(
                f"{self.data} has no images in its class folders.{note} Expected files such as "
                ".jpg or .png."
            )
        empty = self._classes_without("train")
        if empty and not _are_measurements(self.class_names):
            raise UserError(
                f"{_describe_classes(empty)} in {self.data}: no training images.{note} Add some, "
                "or remove the class."
            )

    def _classes_without(self, mode: Mode) -> list[str]:
        counts = self.counts(mode)
        return [name for name, n in zip(self.class_names, counts, strict=True) if not n]


def held_out_mode(reader: Reader) -> Mode:
    """Return the split for evaluation: "test" where the dataset has test images, else "val".

    >>> class WithoutTest:
    ...     def indices(self, mode: Mode) -> NDArray[np.int64]:
    ...         return np.arange(0 if mode == "test" else 8)
    >>> held_out_mode(WithoutTest())
    'val'
    """
    return "test" if len(reader.indices("test")) else "val"


def check_class_names(reader: Reader, class_names: Any) -> None:
    """Raise UserError unless the dataset has exactly these classes, in this order.

    >>> from types import SimpleNamespace
    >>> check_class_names(SimpleNamespace(class_names=("cat", "dog")), ("cat", "dog"))
    """
    found, expected = _describe_names(reader.class_names), _describe_names(class_names)
    if found != expected:
        raise UserError(
            f"the dataset has the classes {found}, the model {expected}. Pass the training dataset "
            "with --data_dir."
        )


def _describe_names(names: Any) -> str:
    """Return class names, also those of several outputs, as text."""
    if isinstance(names, dict):
        return "; ".join(f"{output}: {', '.join(one)}" for output, one in names.items())
    return ", ".join(names)


def data_warnings(reader: Reader) -> list[str]:
    r"""Return warnings about a dataset before training; none for readers other than ``DataReader``.

    They name: excluded images; files, folders and links that are not used; GIFs, of which only the
    first frame is read; classes without validation or test images.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder) / "labels.csv"
    ...     rows = ["path,label,split", "a.jpg,cat,train", "b.jpg,dog,train", "c.jpg,dog,val"]
    ...     _ = table.write_text("\n".join(rows))
    ...     print(*data_warnings(DataReader(table)), sep="\n")
    class 'cat': no validation images, so the accuracy of this class cannot be measured.
    """
    lines: list[str] = []
    if not isinstance(reader, DataReader):
        return lines
    if reader.num_excluded:
        lines.append(f"images excluded by the list of kerakit check: {reader.num_excluded}.")
    if missing := reader._classes_without("train"):
        lines.append(
            f"{_describe_classes(missing)}: no training images, so the model cannot learn them. "
            "Labels that are numbers need a task of your own."
        )
    lines += reader.warnings
    if gifs := pc.sum(pc.ends_with(reader._keys, ".gif", ignore_case=True)).as_py():
        lines.append(f"GIF images (only the first frame is read): {gifs}.")
    return [*lines, *unmeasured_classes(reader)]


def unmeasured_classes(reader: DataReader) -> list[str]:
    """Return a warning for each held-out split that lacks images of some classes."""
    lines = []
    held_out: dict[Mode, str] = {"val": "validation", "test": "test"}
    for mode, split in held_out.items():
        missing = reader._classes_without(mode)
        if missing and len(missing) < len(reader.class_names):
            lines.append(
                f"{_describe_classes(missing)}: no {split} images, so the accuracy of "
                f"{'these classes' if len(missing) > 1 else 'this class'} cannot be measured."
            )
    return lines


class _Paths(Sequence[Path]):
    """Paths that are made on access: a million Path objects would take 300 MB."""

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


def _excluded_keys(exclusions: Path | Sequence[str] | None) -> pa.Array:
    """Return the keys to exclude, binary (n,)."""
    if isinstance(exclusions, Path):
        return read_exclusions(exclusions) if exclusions.exists() else pa.array([], pa.binary())
    names = exclusions or ()
    # A name with "%" may be percent-encoded, or not.
    encoded = [unquote_to_bytes(os.fsencode(name)) for name in names if "%" in name]
    return pa.array([*(os.fsencode(name) for name in names), *encoded], pa.binary())


def _printable(key: bytes) -> str:
    """Return a key as valid Unicode: JSON cannot represent other names."""
    try:
        return key.decode()
    except UnicodeDecodeError:
        return quote_from_bytes(key)


def _are_measurements(labels: Sequence[str]) -> bool:
    """Whether all labels are numbers, and some are no integers."""
    try:
        return any(not float(label).is_integer() for label in labels)
    except (ValueError, OverflowError):
        return False


def _describe_classes(names: Sequence[str]) -> str:
    quoted = list_names([repr(name) for name in names])
    return f"class {quoted}" if len(names) == 1 else f"{len(names)} classes ({quoted})"


def _draw_splits(
    index: ImageIndex, train_ratio: float, seed: int, usable: NDArray[np.bool_]
) -> NDArray[np.int8]:
    """Return the splits, with those drawn that are not given, as indices into MODES, int8 (n,).

    Validation images may come from the given training images.
    """
    given = {MODES[i] for i in np.unique(index.splits) if i != UNASSIGNED}
    drawn_from = index.splits == UNASSIGNED
    if given and "val" not in given:
        drawn_from |= index.splits == MODES.index("train")
    if not drawn_from.any():
        return index.splits
    mask = pa.array(drawn_from)
    names = (index.keys if index.groups is None else index.groups).filter(mask)
    strata = index.targets[drawn_from]
    if _are_measurements(index.class_names) and (np.bincount(strata) == 1).sum() > len(strata) / 2:
        # For a reader whose targets are numbers: each image would be a class of its own.
        strata = np.zeros_like(strata)
    drawn = assign(names, strata, seed, train_ratio, usable[drawn_from])
    if "test" in given:
        drawn[drawn == MODES.index("test")] = MODES.index("val")
    if index.groups is not None:
        # Images of a group with a given split follow it.
        fixed = pc.index_in(names, value_set=index.groups.filter(pc.invert(mask)))
        follows = fixed.is_valid().to_numpy(zero_copy_only=False)
        leaders = fixed.drop_null().to_numpy()
        drawn[follows] = index.splits[~drawn_from][leaders]
    splits = index.splits.copy()
    splits[drawn_from] = drawn
    return splits
