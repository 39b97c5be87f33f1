"""``kerakit pack --check``: every member of every shard against the index."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from kerakit.data.shards.index import FILE_COLUMNS, Shards, shard_name
from kerakit.errors import first_line, printable

_CHUNK = 2**22


def check_shards(shards: Shards, advance: Callable[[int], None] = lambda _: None) -> list[str]:
    """Return the faults of shards: damaged members, members that differ from the index.

    Args:
        shards: the shards; each is read once, from its start to its end.
        advance: called with the number of images that are checked so far.
    """
    numbers = shards.table["shard"].to_numpy()
    faults: list[str] = []
    done = 0
    for number in np.unique(numbers).tolist():
        rows = np.flatnonzero(numbers == number)
        faults += _check_shard(shards, shard_name(number), rows)
        done += len(rows)
        advance(done)
    return faults


def _check_shard(shards: Shards, name: str, rows: Any) -> Iterator[str]:
    expected: dict[int, tuple[str, int, int]] = {}
    keys = shards.table["path"]
    for prefix in ("", *(f"{mask}_" for mask in shards.metadata["mask_columns"])):
        columns = [shards.table[f"{prefix}{one}"].to_numpy()[rows] for one in FILE_COLUMNS]
        for row, offset, size, crc32 in zip(rows.tolist(), *columns, strict=True):
            text = printable(str(keys[row].as_py()))
            if int(offset) in expected:
                yield f"{name}: two images of the index at byte {offset} ({text})"
            expected[int(offset)] = (text, int(size), int(crc32))
    try:
        with shards.storage.open(name) as file, tarfile.open(fileobj=file, mode="r|") as tar:
            for member in tar:
                found = expected.pop(member.offset_data, None)
                if found is None:
                    continue  # the JSON of an image
                text, size, crc32 = found
                if member.size != size:
                    yield f"{name}: {text} has {member.size} bytes, in the index {size}"
                elif _crc32(tar.extractfile(member)) != crc32:
                    yield f"{name}: {text} is damaged (its CRC-32 differs)"
    except (OSError, tarfile.TarError, EOFError) as error:
        yield f"{name}: {first_line(error)}"
    for text, _, _ in expected.values():
        yield f"{name}: {text} is missing"


def _crc32(file: Any) -> int:
    crc32 = 0
    while data := file.read(_CHUNK):
        crc32 = zlib.crc32(data, crc32)
    return crc32
