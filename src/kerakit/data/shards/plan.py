"""The plan of shards: which images each one has, and the record of shards that are not complete."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kerakit.data.order import permutation
from kerakit.data.shards.encode import BLOCK
from kerakit.data.shards.index import INDEX, VERSION, open_shards, shard_name
from kerakit.data.shards.member import Member
from kerakit.data.shards.source import Source
from kerakit.data.shards.storage import Storage
from kerakit.errors import UserError

PLAN = ".pack/plan.json"
"""Record of packing that is not complete."""

OWN = re.compile(r"shard-\d{6}\.tar|index\.parquet|\.pack/(plan\.json|\d{6}\.parquet)")
_MIN_BYTES, _MAX_BYTES = 2**24, 2**28
"""Sizes of shards, in bytes: a kill loses at most one."""

_SHARDS = 64
"""Number of shards of a dataset whose shards are between these sizes."""

_MAX_IMAGES = 10_000
_SAMPLED = 500
"""Files whose size decides about the number of images per shard."""

_BYTES_PER_PIXEL = 0.3
"""Of a JPEG of quality 90, to choose the number of images per shard."""


@dataclass(frozen=True)
class Plan:
    """Everything that decides about the shards, besides the files of the dataset.

    Attributes:
        images: number of images of the dataset.
        per_shard: number of images per shard.
        max_side: largest width and height; None: images stay as they are.
        quality: of JPEG, for images that are scaled down.
        version: that of the format.
    """

    images: int
    per_shard: int
    max_side: int | None
    quality: int
    version: int = VERSION


def make_plan(source: Source, max_side: int | None, quality: int) -> Plan:
    """Return a plan of shards of 16 to 256 MiB, of at most 10,000 images."""
    sizes = [
        sum(size for size, _ in map(_state, source.files(row)))
        for row in range(0, len(source), max(1, len(source) // _SAMPLED))
    ]
    mean = max(1.0, float(np.mean(sizes)) if sizes else 1.0) + 3 * BLOCK
    if max_side is not None:
        mean = min(mean, _BYTES_PER_PIXEL * 0.75 * max_side**2)
    size = min(max(mean * len(source) / _SHARDS, _MIN_BYTES), _MAX_BYTES)
    per_shard = int(min(max(size / mean, 1), _MAX_IMAGES))
    return Plan(len(source), per_shard, max_side, quality)


def _state(place: Path | Member) -> tuple[int, int]:
    """Return the size of a file, and its time of modification or CRC-32; 0 if it is missing."""
    if isinstance(place, Member):
        return place.size, place.crc32
    try:
        status = os.stat(place)
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


class Contents:
    """The images of each shard, and digests of everything that decides about a shard."""

    def __init__(self, source: Source, plan: Plan) -> None:
        self._source, self.plan = source, plan
        # Shuffled: readers that read shards from their start get images of all classes.
        self._order = permutation(plan.images, 0, 0)
        self.count = -(-plan.images // plan.per_shard)
        self._described: dict[int, bytes] = {}

    def rows(self, number: int) -> NDArray[np.int64]:
        """Return the images of a shard."""
        size = self.plan.per_shard
        return self._order[number * size : (number + 1) * size]

    def digest(self, number: int) -> str:
        """Return 32 hexadecimal digits of files, annotations and settings of a shard."""
        state = blake2b(repr(asdict(self.plan)).encode(), digest_size=16)
        self._described = {}
        for row in self.rows(number).tolist():
            files = [*map(_state, self._source.files(row))]
            text = self._described[row] = self._source.describe(row)
            state.update(repr(files).encode() + text)
        return state.hexdigest()

    def described(self, row: int) -> bytes:
        """Return the JSON of an image of the shard whose digest was computed last."""
        return self._described[row]


def combine(digests: Iterable[str]) -> str:
    """Return the digest of all shards."""
    return blake2b("".join(digests).encode(), digest_size=16).hexdigest()


def check_ours(storage: Storage, names: Sequence[str]) -> None:
    """Raise UserError for files with names of shards that Kerakit did not write."""
    if PLAN in names:
        return
    shards = None
    if INDEX in names:
        with contextlib.suppress(UserError):  # damaged
            shards = open_shards(storage.name)
    if shards is None:
        raise UserError(
            f"{storage.name}/{names[0]} was not written by Kerakit and is kept. Choose another "
            "--to, or move it."
        )


def is_unfinished(storage: Storage, names: Sequence[str], plan: Plan) -> bool:
    """Whether an earlier start with the same settings can be continued."""
    if PLAN not in names or INDEX in names:
        return False
    with contextlib.suppress(UserError):
        _read_plan(storage, plan)
        return True
    return False


def start(storage: Storage, names: Sequence[str], plan: Plan) -> Plan:
    """Return the plan of an earlier start, or record a new one."""
    if PLAN in names:
        return _read_plan(storage, plan)
    if names:
        check_ours(storage, names)
    storage.write(PLAN, json.dumps(asdict(plan)).encode())
    return plan


def _read_plan(storage: Storage, plan: Plan) -> Plan:
    try:
        found = json.loads(storage.read(PLAN))
        earlier = Plan(**found)
        per_shard = earlier.per_shard
        if type(per_shard) is not int or per_shard < 1:
            raise ValueError
    except (ValueError, TypeError):
        earlier, per_shard = None, 0
    if earlier is None or earlier != replace(plan, per_shard=per_shard):
        raise UserError(
            f"{storage.name} holds unfinished shards of other data or settings. Choose another "
            "--to, or pass --overwrite to replace it."
        )
    return earlier


def remove_all(storage: Storage, names: Sequence[str], plan: Plan) -> None:
    """Remove shards, so that a kill leaves no index with shards of another dataset."""
    # First the record: without an index, it marks the rest as Kerakit's.
    storage.write(PLAN, json.dumps(asdict(plan)).encode())
    for name in sorted(names, key=lambda name: name != INDEX):
        if name != PLAN:
            storage.remove(name)


def part_name(number: int) -> str:
    """Return the name of the part of the index that belongs to a shard."""
    return f".pack/{number:06d}.parquet"


def remove_record(storage: Storage, shards: int) -> None:
    """Remove the record of unfinished shards, and shards of an earlier dataset that had more."""
    last = shard_name(shards - 1)
    for name in storage.names():
        if OWN.fullmatch(name) and name != PLAN and (name.startswith(".") or last < name):
            storage.remove(name)
    storage.remove(PLAN)
    if storage.url is None:
        with contextlib.suppress(OSError):
            (storage.root / ".pack").rmdir()
