"""``kerakit pack``: a dataset as shards. After a kill, it continues."""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from kerakit.data.shards.encode import BLOCK, Sample, encode_sample, write_sample
from kerakit.data.shards.index import (
    FILE_COLUMNS,
    INDEX,
    METADATA,
    PLACE,
    VERSION,
    open_shards,
    shard_name,
)
from kerakit.data.shards.member import Member
from kerakit.data.shards.plan import (
    OWN,
    PLAN,
    Contents,
    Plan,
    check_ours,
    combine,
    is_unfinished,
    make_plan,
    part_name,
    remove_all,
    remove_record,
    start,
)
from kerakit.data.shards.source import Source
from kerakit.data.shards.storage import Storage
from kerakit.errors import UserError, list_names, printable
from kerakit.files import remove_temporary_files
from kerakit.machine import available_cores

_PER_TASK, _TASKS_AHEAD = 4, 2
"""Images that a thread encodes one after another, and tasks per core that are not written yet."""


@dataclass(frozen=True)
class Packed:
    """The result of ``pack``.

    Attributes:
        images: number of images in the shards.
        shards: number of shards.
        kept: number of shards of an earlier start.
        bytes: size of the shards.
        unreadable: key and reason of each image that was omitted.
        was_complete: an earlier start had completed the shards.
    """

    images: int
    shards: int
    kept: int = 0
    bytes: int = 0
    unreadable: tuple[tuple[str, str], ...] = ()
    was_complete: bool = False


def pack(
    source: Source,
    storage: Storage,
    max_side: int | None = None,
    quality: int = 90,
    skip_unreadable: bool = False,
    overwrite: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Packed:
    """Write a dataset as shards, or continue an earlier start.

    Args:
        source: the dataset.
        storage: folder or address of the shards.
        max_side: larger images are scaled down to this width or height, as JPEG; None: none.
        quality: of these JPEG files.
        skip_unreadable: omit unreadable images.
        overwrite: replace the shards of another dataset.
        advance: called with the number of images that are packed so far.

    Raises:
        UserError: other files or shards are there, or images are unreadable.
    """
    plan = make_plan(source, max_side, quality)
    names = [name for name in storage.names() if OWN.fullmatch(name)]
    if INDEX in names and not overwrite:
        return _check_complete(storage, source, plan, names)
    if names and overwrite and not is_unfinished(storage, names, plan):
        check_ours(storage, names)
        remove_all(storage, names, plan)
        names = [PLAN]
    plan = start(storage, names, plan)
    digests = Contents(source, plan)
    if storage.url is None:
        remove_temporary_files(
            storage.root / name for name in (*map(shard_name, range(digests.count)), INDEX)
        )
    tables, inputs, kept, done = [], [], 0, 0
    with ThreadPoolExecutor(available_cores()) as pool:
        try:
            for number in range(digests.count):
                rows, digest = digests.rows(number), digests.digest(number)
                inputs.append(digest)
                table = _finished(storage, number, digest)
                if table is None:
                    show = partial(_advance, advance, done)
                    table = _write_shard(source, storage, number, digests, pool, show)
                    _save(storage, number, table, digest)
                else:
                    kept += 1
                tables.append(table)
                done += len(rows)
                advance(done)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    unreadable = _unreadable(source, tables, skip_unreadable)
    size = _write_index(source, storage, plan, tables, combine(inputs))
    remove_record(storage, len(tables))
    return Packed(len(source) - len(unreadable), len(tables), kept, size, unreadable)


def _check_complete(storage: Storage, source: Source, plan: Plan, names: Sequence[str]) -> Packed:
    """Return the result of an earlier start with the same data; raise UserError for another one."""
    check_ours(storage, names)
    shards = open_shards(storage.name)
    assert shards is not None  # noqa: S101 - by check_ours
    earlier = shards.metadata["plan"]
    digests = Contents(source, replace(plan, per_shard=earlier["per_shard"]))
    is_same = earlier == asdict(digests.plan)
    if not is_same or shards.metadata["inputs"] != combine(
        digests.digest(number) for number in range(digests.count)
    ):
        raise UserError(
            f"{storage.name} already holds shards, of other data or settings. Choose another --to, "
            "or pass --overwrite to replace them."
        )
    remove_record(storage, digests.count)  # a kill may have left it
    return Packed(len(shards), digests.count, digests.count, was_complete=True)


def _write_shard(
    source: Source,
    storage: Storage,
    number: int,
    contents: Contents,
    pool: ThreadPoolExecutor,
    advance: Callable[[int], None],
) -> pa.Table:
    """Write a shard; return its part of the index."""
    records, plan = [], contents.plan
    first = number * plan.per_shard

    def encode(row: int) -> Sample:
        described = contents.described(row)
        return encode_sample(source, row, described, plan.max_side, plan.quality)

    samples = _in_order(pool, encode, contents.rows(number).tolist())
    with storage.new_file(shard_name(number)) as path, path.open("wb", 2**20) as file:
        for i, sample in enumerate(samples):
            records.append(write_sample(file, f"{first + i:09d}", sample, [*source.masks]))
            advance(i + 1)
        file.write(bytes(2 * BLOCK))
        size = file.tell()
    table = pa.Table.from_pylist(records, _schema(source))
    return table.replace_schema_metadata({"size": str(size)})


def _advance(advance: Callable[[int], None], start: int, count: int) -> None:
    advance(start + count)


def _in_order(
    pool: ThreadPoolExecutor, call: Callable[[int], Sample], rows: Sequence[int]
) -> Iterator[Sample]:
    """Yield the results of ``call`` in order, a few of them ahead."""
    ahead: deque[Future[list[Sample]]] = deque()
    limit = _TASKS_AHEAD * available_cores()
    for first in range(0, len(rows), _PER_TASK):
        part = rows[first : first + _PER_TASK]
        ahead.append(pool.submit(lambda part: [*map(call, part)], part))
        if len(ahead) >= limit:
            yield from ahead.popleft().result()
    while ahead:
        yield from ahead.popleft().result()


def _schema(source: Source) -> pa.Schema:
    numbers = ["offset", "size", "crc32", "width", "height", "original_width", "original_height"]
    masks = [(f"{mask}_{name}", PLACE[name]) for mask in source.masks for name in FILE_COLUMNS]
    places = [(name, PLACE[name]) for name in numbers]
    return pa.schema([("row", pa.int64()), ("error", pa.string()), *places, *masks])


def _save(storage: Storage, number: int, table: pa.Table, digest: str) -> None:
    metadata = {**(table.schema.metadata or {}), b"digest": digest.encode()}
    with storage.new_file(part_name(number)) as path:
        parquet.write_table(table.replace_schema_metadata(metadata), path)


def _finished(storage: Storage, number: int, digest: str) -> pa.Table | None:
    """Return the part of the index of a shard of an earlier start, if it is complete.

    Of local shards, every image is read again; of remote ones, the size is compared.
    """
    try:
        table = parquet.read_table(pa.BufferReader(storage.read(part_name(number))))
        metadata = table.schema.metadata or {}
        if metadata.get(b"digest") != digest.encode():
            return None
        if storage.size(shard_name(number)) != int(metadata[b"size"]):
            return None
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
    if storage.url is None and not _is_intact(storage, number, table):
        return None
    return table


def _is_intact(storage: Storage, number: int, table: pa.Table) -> bool:
    """Whether all images and masks of a shard have the CRC-32 of its part of the index."""
    prefixes = [name.removesuffix("crc32") for name in table.column_names if "crc32" in name]
    for prefix in prefixes:
        columns = [table[f"{prefix}{name}"].to_pylist() for name in FILE_COLUMNS]
        for offset, size, crc32 in zip(*columns, strict=True):
            try:
                Member(_Direct(storage), "", shard_name(number), offset, size, crc32).read_bytes()
            except UserError:
                return False
    return True


@dataclass(frozen=True)
class _Direct:
    """Files of a storage, for members."""

    storage: Storage
    name: str = ""

    def read(self, member: Member, is_repeated: bool = False) -> bytes:  # noqa: ARG002 - of _Files
        return self.storage.read(member.shard, member.offset, member.offset + member.size)


def _unreadable(
    source: Source, tables: Sequence[pa.Table], skip_unreadable: bool
) -> tuple[tuple[str, str], ...]:
    """Return key and reason of each image that is not in a shard.

    Raises:
        UserError: there are some, and they are not to be skipped.
    """
    errors: dict[int, str] = {}
    for table in tables:
        faulty = table.filter(pc.not_equal(table["error"], ""))
        errors |= zip(faulty["row"].to_pylist(), faulty["error"].to_pylist(), strict=True)
    found = tuple(
        (printable(os.fsdecode(source.index.keys[row].as_py())), printable(errors[row]))
        for row in sorted(errors)
    )
    if found and (not skip_unreadable or len(found) == len(source)):
        listed = list_names([f"{key} ({error})" for key, error in found])
        raise UserError(
            f"{len(found):,} of {len(source):,} images are unreadable: {listed}. Fix them, or pass "
            "--skip_unreadable to omit them, and repeat the command: finished shards are kept."
        )
    return found


def _write_index(
    source: Source, storage: Storage, plan: Plan, tables: Sequence[pa.Table], inputs: str
) -> int:
    """Write the index; return the size of the shards in bytes."""
    numbers = np.repeat(np.arange(len(tables), dtype=np.int32), [len(table) for table in tables])
    size = sum(int((table.schema.metadata or {})[b"size"]) for table in tables)
    parts = pa.concat_tables([table.replace_schema_metadata(None) for table in tables])
    parts = parts.append_column("shard", pa.array(numbers))
    # In the order of the dataset: its batches are the same from shards.
    parts = parts.filter(pc.equal(parts["error"], "")).sort_by("row")
    rows = parts["row"].combine_chunks()
    found = {name: column.take(rows) for name, column in source.columns().items()}
    placed = {name: parts[name] for name in parts.column_names if name not in ("row", "error")}
    names = [*dict.fromkeys((*PLACE, *found, *placed))]
    metadata = {
        "version": VERSION,
        "kind": source.kind,
        "format": source.format.name,
        "label_columns": source.label_columns,
        "mask_columns": [*source.masks],
        "sets": {},
        "max_side": plan.max_side,
        "plan": asdict(plan),
        "inputs": inputs,
        **source.metadata,
    }
    table = pa.table({name: found.get(name, placed.get(name)) for name in names})
    table = table.replace_schema_metadata({METADATA: json.dumps(metadata).encode()})
    with storage.new_file(INDEX) as path:
        parquet.write_table(table, path, compression="zstd", row_group_size=2**16)
    return size
