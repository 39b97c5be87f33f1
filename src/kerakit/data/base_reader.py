"""Base of the readers: keys, splits, groups and exclusions as columns."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kerakit.address import as_place
from kerakit.data.exclusions import read_exclusions
from kerakit.data.index import UNASSIGNED, ImageIndex
from kerakit.data.labels import are_measurements
from kerakit.data.shards.member import Member
from kerakit.data.split import CHUNK, MODES, Mode, assign
from kerakit.errors import ImageError, UserError

_SAMPLED_FILES = 256
"""Number of image files whose content is part of ``recipe``: the rest may be terabytes."""


class LabelFault(NamedTuple):
    """A fault of a label, for ``kerakit check``.

    Attributes:
        key: key of the image, or path of the file.
        kind: a kind of ``kerakit.data.findings.FINDINGS``.
        detail: the object or the value.
    """

    key: str
    kind: str
    detail: str = ""


class BaseReader:
    r"""Base of the readers of Kerakit: everything but the labels.

    A subclass has ``read_index(data)``, which lists the images, and ``target(i)``. It may read
    labels in ``read_index``; ``rows[i]`` is the row of image ``i`` in that index, since excluded
    images have no dataset index.

    Args:
        data: folder, table or annotation file.
        train_ratio: fraction of the images for training where no split is given, in (0, 1); the
            rest is divided equally into validation and test. Given training images alone,
            validation and test are drawn from them; given training and test images, validation is
            drawn from training.
        seed: seed of the split.
        exclusions: images to omit: a CSV file of ``kerakit check``, which need not exist (those
            with "yes" in its column exclude), or the names in ``recipe()["exclusions"]``.

    Attributes:
        data: folder, table or annotation file.
        train_ratio: as passed.
        seed: as passed.
        root: folder that keys are relative to; of shards, their folder.
        num_excluded: number of excluded images.
        class_names: in the order of the class indices.
        rows: int64 (n,), row of each image in the index.
        sample_weights: float32 (n,), factor of each training image in the loss; None: 1.
        warnings: sentences about the dataset, such as the number of files that are not used.
        skipped: paths of files that are not images of a supported format.

    >>> from tempfile import TemporaryDirectory
    >>> class Brightness(BaseReader):
    ...     def read_index(self, data: Path) -> ImageIndex:
    ...         self.values = [float(path.stem) for path in sorted(data.glob("*.png"))]
    ...         keys = pa.array([f"{value}.png".encode() for value in self.values])
    ...         return ImageIndex(data, keys, np.zeros(len(keys), np.int32), ("brightness",),
    ...                           np.full(len(keys), UNASSIGNED, np.int8))
    ...     def target(self, i: int) -> NDArray[np.float32]:
    ...         return np.array([self.values[self.rows[i]]], np.float32)
    >>> with TemporaryDirectory() as folder:
    ...     for value in (0.25, 0.5, 0.75):
    ...         (Path(folder) / f"{value}.png").touch()
    ...     reader = Brightness(folder, exclusions=["0.5.png"])
    >>> len(reader), reader.key(1), reader.target(1).tolist()
    (2, '0.75.png', [0.75])
    """

    def __init__(
        self,
        data: Path | str,
        train_ratio: float = 0.8,
        seed: int = 0,
        exclusions: Path | Sequence[str] | None = None,
    ) -> None:
        if not 0 < train_ratio < 1:  # also NaN
            raise UserError(
                f"train_ratio: expected more than 0 and less than 1, got {train_ratio}. In a "
                "project it is TRAIN_RATIO_DEFAULT of config.py."
            )
        self.data = as_place(data)
        self.train_ratio = train_ratio
        self.seed = seed
        index = self.read_index(self.data)
        excluded = pc.is_in(index.keys, value_set=_excluded_keys(exclusions))
        usable = ~excluded.to_numpy(zero_copy_only=False)
        # All images have a split, so that an exclusion moves no other image.
        self._splits = _draw_splits(index, train_ratio, seed, usable)[usable]
        self._keys = index.keys.filter(pc.invert(excluded))
        self._excluded = index.keys.filter(excluded)
        self.rows: NDArray[np.int64] = np.flatnonzero(usable)
        self.sample_weights: NDArray[np.float32] | None = (
            None if index.sample_weights is None else index.sample_weights[usable]
        )
        self.num_excluded = len(self._excluded)
        self.warnings = index.warnings
        self.skipped = index.skipped
        self.root = index.root
        self._shards = index.shards
        if index.shards is not None:
            self._shard_rows: NDArray[Any] = self.rows
            if index.keys is not index.shards.keys:
                self._shard_rows = pc.index_in(self._keys, index.shards.keys).to_numpy()
        # An owner's reader may replace the names of the classes by others.
        self._stratum_names = index.class_names
        # Of several outputs, a dictionary.
        self.class_names: Any = index.class_names
        self._strata: NDArray[np.int32] = index.targets[usable]
        self._check_classes()

    def read_index(self, data: Path) -> ImageIndex:
        """Return the index of the images in ``data``. Its targets are the strata of the split."""
        raise NotImplementedError(f"{type(self).__name__} has no read_index()")

    def target(self, i: int) -> Any:
        """Return the annotation of image ``i``."""
        raise NotImplementedError(f"{type(self).__name__} has no target()")

    def label_faults(self) -> Iterator[LabelFault]:
        """Yield the faults of the labels, for ``kerakit check``."""
        yield from ()

    def declared_sizes(self) -> NDArray[np.int32]:
        """Return width and height of each image in its annotations, (n, 2); 0 where unknown."""
        return np.zeros((len(self), 2), np.int32)

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def image_paths(self) -> Sequence[Any]:
        """The path of every image, in the order of ``targets``, as a lazy sequence."""
        return _Paths(self)

    def key(self, i: int) -> str:
        """Return the path of image ``i`` relative to ``root``, with ``/``."""
        return os.fsdecode(self._keys[i].as_py())

    def image_path(self, i: int) -> Any:
        """Return the path of image ``i``, or the member of a shard; both have ``read_bytes()``."""
        if self._shards is not None:
            return self._shards.image(int(self._shard_rows[i]))
        return self.root / self.key(i)

    @property
    def is_remote(self) -> bool:
        """Whether images are read from a remote address, whose latency threads have to hide."""
        return self._shards is not None and self._shards.storage.url is not None

    def fetch(self, indices: Sequence[int]) -> None:
        """Fetch images and masks that are read next from a remote address, all at once."""
        if self._shards is not None and self.is_remote:
            self._shards.fetch(place for i in indices for place in self._members(i))

    def _members(self, i: int) -> Iterator[Member]:
        """Yield the members of shards that image ``i`` consists of."""
        assert self._shards is not None  # noqa: S101 - by the caller
        yield self._shards.image(int(self._shard_rows[i]))

    def indices(self, mode: Mode) -> NDArray[np.int64]:
        """Return the dataset indices of the images of ``mode``, ascending, int64 (n,)."""
        if mode not in MODES:
            raise UserError(f"unknown mode {mode!r}; expected one of {', '.join(MODES)}.")
        return np.flatnonzero(self._splits == MODES.index(mode))

    def counts(self, mode: Mode) -> NDArray[np.int64]:
        """Return the number of images with each class in ``mode``, int64 (classes,)."""
        counts: NDArray[np.int64] = self.presence()[self.indices(mode)].sum(axis=0, dtype=np.int64)
        return counts

    def presence(self) -> NDArray[np.bool_]:
        """Return the classes that each image has, bool (n, classes)."""
        return np.ones((len(self), len(self.class_names)), np.bool_)

    def label_codes(self) -> NDArray[np.int64]:
        """Return a number per image, equal for equal labels, int64 (n,)."""
        codes = pa.array(self._labels(), pa.binary()).dictionary_encode().indices
        numbers: NDArray[np.int64] = codes.to_numpy().astype(np.int64)
        return numbers

    def leak_classes(self) -> NDArray[np.int32]:
        """Return a number per image, int32 (n,): near copies count as leaks where it is equal."""
        return np.zeros(len(self), np.int32)

    def recipe(self) -> dict[str, Any]:
        r"""Return the split's recipe and a fingerprint of its result, as JSON values.

        ``type(reader)(data, recipe["train_ratio"], recipe["seed"], recipe["exclusions"])`` restores
        the split. Equal fingerprints: the same keys, labels and split, in any order.

        Returns:
            ``train_ratio`` and ``seed`` as passed; ``exclusions``, the sorted keys of the excluded
            images (percent-encoded if they are not UTF-8); ``fingerprint``, the SHA-256 of the
            sorted rows of key, label and mode; ``content``, the SHA-256 of up to 256 image files,
            evenly spaced in the order of their keys; ``counts``, the number of images per mode.
        """
        sides = np.zeros(len(self), np.int8)
        for number, mode in enumerate(MODES):
            sides[self.indices(mode)] = number
        modes = pa.array([mode.encode() for mode in MODES], pa.binary())
        rows = pc.binary_join_element_wise(
            self._keys, self._labels(), modes.take(pa.array(sides)), b"\0"
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
            "content": self._sample_content(),
            "counts": {mode: len(self.indices(mode)) for mode in MODES},
        }

    def _sample_content(self) -> str:
        """Return the SHA-256 of the sampled image files."""
        order = pc.sort_indices(self._keys).to_numpy()
        digest = sha256()
        sample = np.unique(np.linspace(0, max(0, len(order) - 1), _SAMPLED_FILES).astype(int))
        sampled = order[sample[: len(order)]].tolist()
        self.fetch(sampled)
        for i in sampled:
            try:
                content = self.image_path(i).read_bytes()
            except (OSError, ImageError):
                content = b""  # reading the image for training will fail with its name
            digest.update(sha256(content).digest())
        return digest.hexdigest()

    def _labels(self) -> pa.Array:
        """Return the annotation of each image as bytes, binary (n,)."""
        return pa.array((_to_bytes(self.target(i)) for i in range(len(self))), pa.binary())

    def _check_classes(self) -> None:
        """Raise UserError if the dataset cannot be trained on."""
        if not len(self):
            raise UserError(
                f"{self.data} {self._without_images}.{self._note()} Expected files such "
                "as .jpg or .png."
            )

    _without_images = "has no images"
    """Start of the message above."""

    def _note(self) -> str:
        """Return the reasons why images may be missing, as sentences after a space."""
        note = (
            f" {self.num_excluded} images are excluded by the list of kerakit check."
            if self.num_excluded
            else ""
        )
        unreadable = (line for line in self.warnings if line.startswith("unreadable"))
        return note + "".join(f" {line[0].upper()}{line[1:]}" for line in unreadable)

    def _classes_without(self, mode: Mode) -> list[str]:
        """Return the classes without images; none if an owner's reader has other names."""
        counts = self.counts(mode)
        if len(counts) != len(self.class_names):
            return []
        return [name for name, n in zip(self.class_names, counts, strict=True) if not n]


class _Paths(Sequence[Any]):
    """Paths that are made on access: a million Path objects would take 300 MB."""

    def __init__(self, reader: BaseReader) -> None:
        self._reader = reader

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, i: int) -> Any:  # type: ignore[override] # no slices
        if not -len(self) <= i < len(self):
            raise IndexError(f"image {i} of {len(self)}")
        return self._reader.image_path(i % len(self))

    def __iter__(self) -> Iterator[Any]:
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


def _to_bytes(annotation: Any) -> bytes:
    """Return an annotation as bytes: equal for equal annotations."""
    if isinstance(annotation, dict):
        return b"".join(name.encode() + _to_bytes(annotation[name]) for name in annotation)
    if isinstance(annotation, list | tuple):
        return b"".join(map(_to_bytes, annotation))
    if isinstance(annotation, str):
        return os.fsencode(annotation)
    array = np.asarray(annotation)
    return f"{array.dtype.str}{array.shape}".encode() + array.tobytes()


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
    if are_measurements(index.class_names) and (np.bincount(strata) == 1).sum() > len(strata) / 2:
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
