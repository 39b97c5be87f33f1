"""Datasets as columns of keys, class indices and splits. Images are not decoded here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit import world
from kerakit.data.base_reader import BaseReader
from kerakit.data.folders import index_folder
from kerakit.data.index import ImageIndex
from kerakit.data.labels import are_measurements
from kerakit.data.shards.member import Member
from kerakit.data.split import Mode
from kerakit.data.table_files import is_table
from kerakit.data.tables import index_table
from kerakit.errors import UserError, list_names


class Reader(Protocol):
    """Interface of a dataset: subclass ``DataReader``, or write a class with these members.

    ``i`` is a dataset index, from 0 to ``len(reader) - 1``. A reader may also have
    ``sample_weights``, float32 (n,): the factor of each training image in the loss.

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

    def image_path(self, i: int) -> Path | Member:
        """Return the path of image ``i``, or the member of a shard."""

    def target(self, i: int) -> object:
        """Return the annotation of image ``i``, such as its class index."""

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the dataset indices of the images of one split, ascending, int64 (n,)."""


class DataReader(BaseReader):
    r"""Dataset of images in a folder or in a table.

    A folder has one folder per class, or ``train/``, ``validation/`` (``val/``), ``test/`` with one
    folder per class each. A table is a CSV or Parquet file with the columns ``path`` and ``label``,
    and optionally ``split``, ``group`` and ``sample_weight``; paths are relative to its folder.
    Class indices follow the sorted class names. Without a given split, it is drawn within each
    class, by hashes of the paths (or groups): every class has training images, and an added image
    moves at most one image per border between two splits. Millions of rows are stored as columns.

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

    _without_images = "has no images in its class folders"

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of a folder or a table."""
        return index_table(data) if data.is_file() or is_table(data) else index_folder(data)

    @property
    def targets(self) -> NDArray[np.int32]:
        """Class index of each image, int32 (n,)."""
        return self._strata

    def target(self, i: int) -> np.int32:
        """Return the class index of image ``i``."""
        return np.int32(self.targets[i])

    def counts(self, mode: Mode) -> NDArray[np.int64]:
        """Return the number of images per class in ``mode``, int64 (classes,)."""
        return np.bincount(self.targets[self.indices(mode)], minlength=len(self.class_names))

    def label_codes(self) -> NDArray[np.int64]:
        """Return the class index of each image, int64 (n,)."""
        return self.targets.astype(np.int64)

    def leak_classes(self) -> NDArray[np.int32]:
        """Return the class index of each image, int32 (n,)."""
        return self.targets

    def _labels(self) -> pa.Array:
        names = pa.array([name.encode() for name in self._stratum_names], pa.binary())
        return names.take(pa.array(self.targets))

    def _check_classes(self) -> None:
        super()._check_classes()
        empty = self._classes_without("train")
        if empty and not are_measurements(self.class_names):
            raise UserError(
                f"{_describe_classes(empty)} in {self.data}: no training images.{self._note()} "
                "Add some, or remove the class."
            )


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


def data_warnings(reader: Reader, batch_size: int = 0) -> list[str]:
    r"""Return warnings about a dataset before training.

    They name: a batch size of more than the training images, or one that the devices do not divide.
    Of readers with ``BaseReader``:
    excluded images; files, folders and links that are not used; GIFs, of which only the
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
    if batch_size > (count := len(reader.indices("train"))):
        lines.append(
            f"--batch_size {batch_size:,} is larger than the {count:,} training images: each epoch "
            "is one step."
        )
    if (devices := world.current.devices) > 1 and batch_size % devices:
        lines.append(
            f"--batch_size {batch_size:,} is not a multiple of the {devices} devices: each "
            "computes whole batches, which is no faster than one device."
        )
    if not isinstance(reader, BaseReader):
        return lines
    if reader.num_excluded:
        lines.append(f"images excluded by the list of kerakit check: {reader.num_excluded}.")
    if missing := reader._classes_without("train"):
        hint = ""
        if isinstance(reader, DataReader) and are_measurements(reader.class_names):
            hint = " Labels that are numbers need the task regression."
        lines.append(
            f"{_describe_classes(missing)}: no training images, so the model cannot learn them."
            f"{hint}"
        )
    lines += reader.warnings
    if gifs := pc.sum(pc.ends_with(reader._keys, ".gif", ignore_case=True)).as_py():
        lines.append(f"GIF images (only the first frame is read): {gifs}.")
    return [*lines, *unmeasured_classes(reader)]


def unmeasured_classes(reader: BaseReader) -> list[str]:
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


def _describe_classes(names: Sequence[str]) -> str:
    quoted = list_names([repr(name) for name in names])
    return f"class {quoted}" if len(names) == 1 else f"{len(names)} classes ({quoted})"
