"""The command ``kerakit pack``: what it prints, and what it refuses."""

from __future__ import annotations

import contextlib
from pathlib import Path

from kerakit.address import as_place
from kerakit.console import progress
from kerakit.data.shards.index import INDEX, open_shards
from kerakit.data.shards.source import read_source
from kerakit.data.shards.storage import Storage
from kerakit.data.shards.verify import check_shards
from kerakit.data.shards.writer import pack
from kerakit.errors import JobError, UserError
from kerakit.locks import locked

_LISTED = 10


def pack_dataset(
    data: Path,
    to: Path,
    task: str,
    max_side: int | None,
    quality: int,
    skip_unreadable: bool,
    overwrite: bool,
) -> str:
    """Pack a dataset, or continue; return a sentence about the result.

    Args:
        data: the dataset.
        to: folder or address.
        task: name of the task, or "".
        max_side: largest width and height in pixels.
        quality: of JPEG.
        skip_unreadable: omit unreadable images.
        overwrite: replace other shards.

    Raises:
        UserError: no dataset, other content in ``to``, unreadable images.
    """
    storage = Storage(to)
    if storage.url is None:
        _check_apart(data, storage.root)
    source = read_source(as_place(data), task)
    print(f"format: {source.format}; {len(source):,} images", flush=True)
    for warning in source.index.warnings:
        print(warning)
    done = 0

    with (
        contextlib.nullcontext() if storage.url else locked(storage.root),
        progress("packing", len(source)) as show,
    ):

        def advance(count: int) -> None:
            nonlocal done
            done = count
            show(count)

        try:
            packed = pack(source, storage, max_side, quality, skip_unreadable, overwrite, advance)
        except KeyboardInterrupt:
            print(f"\n{done:,} of {len(source):,} images are done. Repeat the command to continue.")
            raise
    if packed.was_complete:
        shards = _count_shards(packed.shards)
        return f"{storage.name} is complete: {packed.images:,} images in {shards}."
    for key, reason in packed.unreadable[:_LISTED]:
        print(f"omitted: {key} ({reason})")
    omitted = f" Unreadable images, omitted: {len(packed.unreadable):,}." * bool(packed.unreadable)
    kept = f" Shards of an earlier start, kept: {packed.kept:,}." * bool(packed.kept)
    return (
        f"Packed {packed.images:,} images into {_count_shards(packed.shards)} "
        f"({packed.bytes / 1e6:,.1f} MB) and {INDEX} in {storage.name}.{omitted}{kept} Use it as "
        f"--data_dir {storage.name}"
    )


def check_packed(data: Path) -> str:
    """Check shards; return a sentence about the result.

    Raises:
        UserError: no shards.
        JobError: there are faults.
    """
    shards = open_shards(data)
    if shards is None:
        raise UserError(f"{as_place(data)} has no {INDEX} that kerakit pack wrote.")
    with progress("checking", len(shards)) as show:
        faults = check_shards(shards, show)
    for fault in faults[:_LISTED]:
        print(fault)
    if faults:
        raise JobError(f"{shards.name}: {len(faults):,} faults. Pack the dataset again.")
    return f"{shards.name}: {len(shards):,} images, all as in {INDEX}."


def _check_apart(data: Path, to: Path) -> None:
    """Raise UserError for a folder of shards in the folder of the dataset, or the reverse."""
    here, there = data.resolve(), to.resolve()
    if not here.is_dir():
        return
    if there.is_relative_to(here):
        raise UserError(f"--to: {to} is in the dataset {data}. Choose a folder outside of it.")
    if here.is_relative_to(there):
        raise UserError(f"--to: {to} contains the dataset {data}. Choose another folder.")


def _count_shards(count: int) -> str:
    return f"{count:,} shard" + "s" * (count != 1)
