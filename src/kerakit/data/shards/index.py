"""The index of shards: one Parquet file with a row per image, which readers use as a table."""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from kerakit.address import as_path, as_url
from kerakit.data.shards.member import Member
from kerakit.data.shards.storage import Storage
from kerakit.errors import UserError, first_line

INDEX = "index.parquet"

METADATA = b"kerakit"
"""Key of the description of the shards, as JSON, in the metadata of the file."""

VERSION = 1

PLACE = {
    "path": pa.string(),
    "split": pa.string(),
    "group": pa.string(),
    "sample_weight": pa.float32(),
    "shard": pa.int32(),
    "offset": pa.int64(),
    "size": pa.int64(),
    "crc32": pa.uint32(),
    "width": pa.int32(),
    "height": pa.int32(),
    "original_width": pa.int32(),
    "original_height": pa.int32(),
}
"""Columns that every index has."""

NUMBERS = ("shard", "offset", "size", "crc32", "width", "height")
"""Columns that have an integer in each row."""

FILE_COLUMNS = ("offset", "size", "crc32")
"""Columns of a file; those of a mask have the name of its column before them: mask_offset."""

_MAX_AHEAD = 2**28
"""Bytes of remote images that were fetched and not read yet."""


def mask_file_columns(masks: Iterable[str]) -> list[str]:
    """Return the names of the columns that say where masks are.

    >>> mask_file_columns(["mask"])
    ['mask_offset', 'mask_size', 'mask_crc32']
    """
    return [f"{mask}_{name}" for mask in masks for name in FILE_COLUMNS]


def shard_name(number: int) -> str:
    """Return the name of a shard.

    >>> shard_name(3)
    'shard-000003.tar'
    """
    return f"shard-{number:06d}.tar"


@dataclass
class _Ahead:
    """Fetched content, and the number of reads that will need it."""

    data: bytes | OSError
    size: int
    reads: int


class Shards:
    """Images in shards, and the columns of their index.

    Args:
        storage: the folder.
        table: the index, without the columns of objects.
        metadata: the description in the index.

    Attributes:
        storage: as passed.
        table: as passed.
        metadata: as passed.
        kind: "classes", "table", "masks" or "objects".
        keys: binary (n,), path of each image when it was packed.
    """

    def __init__(self, storage: Storage, table: pa.Table, metadata: dict[str, Any]) -> None:
        self.storage, self.table, self.metadata = storage, table, metadata
        self.kind: str = metadata["kind"]
        masks = metadata["mask_columns"]
        self._numbers = {
            name: table[name].combine_chunks().to_numpy(zero_copy_only=False)
            for name in ("shard", "width", "height", *FILE_COLUMNS, *mask_file_columns(masks))
        }
        self._paths = {"path": table["path"].combine_chunks()}
        self.keys = self._paths["path"].cast(pa.binary())
        self._paths |= {name: self.labels(name) for name in masks}
        self._ahead: dict[tuple[str, int], _Ahead] = {}
        self._ahead_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def name(self) -> str:
        """Path or address."""
        return self.storage.name

    @property
    def label_names(self) -> list[str]:
        """Names of the columns of labels."""
        return [*self.metadata["label_columns"]]

    def labels(self, name: str) -> pa.Array:
        """Return a column of labels, text (n,)."""
        return self.table[self.metadata["label_columns"][name]].combine_chunks()

    def image(self, row: int) -> Member:
        """Return the image of a row."""
        size = int(self._numbers["width"][row]), int(self._numbers["height"][row])
        return self._member("path", "", row, size)

    def mask(self, column: str, row: int) -> Member:
        """Return the mask of a row."""
        return self._member(column, f"{column}_", row, (0, 0))

    def masks(self, column: str) -> Sequence[Any]:
        """Return the masks of all rows, made on access."""
        return _Masks(self, column)

    def original_sizes(self) -> Any:
        """Return width and height of each upright image before it was packed, int32 (n, 2)."""
        names = ["original_width", "original_height"]
        table = _read_columns(self.storage, names)
        return np.stack([table[name].to_numpy() for name in names], axis=1)

    def read(self, member: Member, is_repeated: bool = False) -> bytes:
        """Return the bytes of a member: fetched before, or by one read.

        With ``is_repeated``, what was fetched is dropped.
        """
        key = member.shard, member.offset
        with self._lock:
            found = self._ahead.get(key)
            if found is not None:
                found.reads = 0 if is_repeated else found.reads - 1
                if found.reads <= 0:
                    del self._ahead[key]
                    self._ahead_bytes -= found.size
        if found is not None and not is_repeated:
            if isinstance(found.data, OSError):
                raise found.data
            return found.data
        return self.storage.read(member.shard, member.offset, member.offset + member.size)

    def fetch(self, members: Iterable[Any]) -> None:
        """Fetch remote members that will be read next, all at once; errors are raised by reads.

        A member that is listed several times is read so many times.
        """
        if self.storage.url is None:
            return
        listed = [(one.shard, one.offset, one.offset + one.size) for one in members]
        counts = Counter(listed)
        with self._lock:
            room = _MAX_AHEAD - self._ahead_bytes
            wanted = []
            for one, count in counts.items():
                found = self._ahead.get(one[:2])
                if found is not None and isinstance(found.data, bytes):
                    found.reads += count
                elif (room := room - (one[2] - one[1])) > 0:
                    wanted.append(one)
        if not wanted:
            return
        for one, data in zip(wanted, self.storage.read_many(wanted), strict=True):
            size = len(data) if isinstance(data, bytes) else 0
            with self._lock:
                found = self._ahead.get(one[:2])
                # Of another thread. An error may be that of a batch that was given up.
                if found is not None and isinstance(found.data, bytes):
                    found.reads += counts[one]
                else:
                    self._ahead[one[:2]] = _Ahead(data, size, counts[one])
                    self._ahead_bytes += size

    def annotations(self, name: str) -> pa.Array | None:
        """Return a column of annotations of objects; None if the index has no such column."""
        if name not in self.metadata["sets"]:
            return None
        return _read_columns(self.storage, [name])[name].combine_chunks()

    def _member(self, name: str, prefix: str, row: int, size: tuple[int, int]) -> Member:
        numbers = self._numbers
        offset, length, crc32 = (int(numbers[prefix + one][row]) for one in FILE_COLUMNS)
        path = self._paths[name][row].as_py()
        shard = shard_name(int(numbers["shard"][row]))
        text = path if isinstance(path, str) else os.fsdecode(path)
        return Member(self, text, shard, offset, length, crc32, size)


class _Masks(Sequence[Any]):
    """Masks that are made on access; a slice is fetched at once."""

    def __init__(self, shards: Shards, column: str) -> None:
        self._shards, self._column = shards, column

    def __len__(self) -> int:
        return len(self._shards)

    def __getitem__(self, i: Any) -> Any:
        if not isinstance(i, slice):
            return self._shards.mask(self._column, i)
        members = [self[row] for row in range(*i.indices(len(self)))]
        self._shards.fetch(members)
        return members


def open_shards(data: Path | str) -> Shards | None:
    """Return the shards in a folder or at an address; None if a folder has none.

    Raises:
        UserError: an address without an index, or a damaged index.
    """
    folder, url = as_path(data), as_url(data)
    if folder.name == INDEX:
        folder, url = folder.parent, url and url.removesuffix(f"/{INDEX}")
    if url is None and not (folder / INDEX).is_file():
        return None
    storage = Storage(url or folder)
    try:
        stamp = storage.stamp(INDEX)
    except OSError as error:
        raise UserError(f"cannot read {storage.name}/{INDEX}: {first_line(error)}.") from None
    if stamp is None:
        raise UserError(
            f"there is no {INDEX} in {storage.name}. Expected shards that kerakit pack wrote; a "
            "remote dataset of another format has to be packed, or downloaded, first."
        )
    return _load(url or str(folder.absolute()), stamp)


# One: a million images take 100 MB. The reader of the images holds the same object.
@lru_cache(maxsize=1)
def _load(place: str, stamp: str) -> Shards | None:  # noqa: ARG001 - part of the key
    storage = Storage(place)
    schema = _open(storage).schema_arrow
    content = (schema.metadata or {}).get(METADATA)
    if content is None:
        return None
    try:
        metadata = json.loads(content)
        version = metadata["version"]
        if version == VERSION:
            _check_metadata(metadata)
            labels = metadata["label_columns"].values()
            places = [name for name in PLACE if not name.startswith("original_")]
            names = [*places, *labels, *mask_file_columns(metadata["mask_columns"])]
            table = _read_columns(storage, names).combine_chunks()
            _check_columns(table, metadata)
            return Shards(storage, table, metadata)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise damaged_index(storage, error) from None
    raise UserError(
        f"{storage.name}/{INDEX} has the version {str(version)[:20]}, which this version of "
        "Kerakit does not know. Update Kerakit, or pack the dataset again."
    )


def _check_metadata(metadata: dict[str, Any]) -> None:
    """Raise ValueError for a description that Kerakit did not write."""
    types = {"kind": str, "format": str, "label_columns": dict, "mask_columns": list, "sets": dict}
    for name, kind in types.items():
        if not isinstance(metadata[name], kind):
            raise ValueError(f"{name} in its metadata is not a {kind.__name__}")
    names = [*metadata["label_columns"].values(), *metadata["mask_columns"]]
    if not all(isinstance(name, str) for name in [*names, *metadata.get("class_names", [])]):
        raise ValueError("a name in its metadata is not text")
    if unknown := set(metadata["mask_columns"]) - set(metadata["label_columns"]):
        raise ValueError(f"it has no column {min(unknown)!r}")
    for name, one in metadata["sets"].items():
        lists = [one["class_names"], one["point_names"]]
        if name not in ("objects", "poses") or not all(
            isinstance(names, list) and all(isinstance(text, str) for text in names)
            for names in lists
        ):
            raise ValueError(f"the annotations {name!r} in its metadata are invalid")
    if metadata["kind"] == "objects" and "objects" not in metadata["sets"]:
        raise ValueError("it has no objects")


def _check_columns(table: pa.Table, metadata: dict[str, Any]) -> None:
    """Raise ValueError for columns of other types, and places of files that are missing."""
    if table["path"].null_count:
        raise ValueError("its column 'path' has empty cells")
    for name in ("path", "split", "group", *metadata["label_columns"].values()):
        kind = table[name].type
        if not (pa.types.is_string(kind) or (name == "path" and pa.types.is_binary(kind))):
            raise ValueError(f"its column {name!r} is not text")
    for name in (*NUMBERS, *mask_file_columns(metadata["mask_columns"])):
        column = table[name]
        if not pa.types.is_integer(column.type) or column.null_count:
            raise ValueError(f"its column {name!r} is not of numbers")
        if len(column) and pc.min(column).as_py() < 0:
            raise ValueError(f"its column {name!r} has a negative number")


def _open(storage: Storage) -> parquet.ParquetFile:
    try:
        if storage.url is None:
            return parquet.ParquetFile(storage.root / INDEX)
        return parquet.ParquetFile(pa.BufferReader(storage.read(INDEX)))
    except pa.ArrowInvalid as error:
        raise damaged_index(storage, error) from None
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise UserError(f"cannot read {storage.name}/{INDEX}: {reason.rstrip('.')}.") from None


def _read_columns(storage: Storage, names: Sequence[str]) -> pa.Table:
    file = _open(storage)
    try:
        if missing := [name for name in names if name not in file.schema_arrow.names]:
            raise ValueError(f"it has no column {missing[0]!r}")
        table = file.read(columns=[*names])
        table.validate(full=True)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise damaged_index(storage, error) from None
    return table


def damaged_index(storage: Storage, error: Exception) -> UserError:
    """Return the error for an index that Kerakit did not write, or that was damaged since."""
    return UserError(
        f"the index {storage.name}/{INDEX} is damaged: {first_line(error).rstrip('.')}. Pack the "
        "dataset again."
    )
