"""``kerakit check``: every image is read once, and what may spoil a training is listed. No file of the user's is changed."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from rich.table import Table

from kerakit.console import print_table, printable
from kerakit.data.decode import decode, detect_extension, read_bytes, size_of
from kerakit.data.folders import is_hidden
from kerakit.data.reader import DataReader
from kerakit.data.similar import THUMBNAIL, fingerprint, near_duplicates
from kerakit.data.split import MODES
from kerakit.errors import ImageError
from kerakit.files import atomic_write

TINY, HUGE = 32, 50_000_000
"""An image is tiny with a side of fewer pixels, huge with more pixels in all."""

KINDS = {
    "unreadable": "cannot be read, or is cut off",
    "two classes": "the same file in several classes",
    "leak": "a training image that is nearly the same as a held-out one",
    "duplicate": "the same file once more",
    "near duplicate": "nearly the same as another one on its side of the split",
    "wrong ending": "another format than its ending says; it is read all the same",
    "first frame": "several frames, of which the first is read",
    "tiny": f"a side of less than {TINY} pixels",
    "huge": f"more than {HUGE // 10**6} million pixels",
    "not read": "an image of a format that is not read; convert it",
}
"""What is found, and what it means; in the order of the report."""

_SAME = {".jpeg": ".jpg", ".tif": ".tiff"}
_OTHER_IMAGES = {
    ".heic",
    ".heif",
    ".avif",
    ".jxl",
    ".jp2",
    ".svg",
    ".psd",
    ".dng",
    ".cr2",
    ".cr3",
    ".nef",
    ".arw",
    ".raw",
}
_CHUNK = 32  # images a task: few enough that the progress moves, enough that tasks cost nothing


@dataclass(frozen=True)
class Finding:
    """One remark on one file.

    Attributes:
        key: its path below the data's folder.
        kind: a key of ``KINDS``.
        detail: the other file, the error, the size.
        exclusions: whether readers shall leave the image out.
    """

    key: str
    kind: str
    detail: str
    exclusions: bool = False


@dataclass(frozen=True)
class _Seen:
    """What one reading of a file tells: an error, or the rest."""

    error: str = ""
    digest: bytes = b""
    print: bytes = b""
    size: tuple[int, int] = (0, 0)
    kind: str = ""
    frames: int = 1


def check(
    reader: DataReader, threads: int, say: Callable[[int], None] = lambda _: None
) -> list[Finding]:
    """Read every image of ``reader`` once.

    Args:
        reader: without anything left out.
        threads: how many images are read at a time.
        say: called with the number of images read so far.

    Returns:
        The findings, in the order of ``KINDS``, then of the images.
    """
    seen: list[_Seen] = []
    for part in _in_parallel(reader, threads):
        seen += part
        say(len(seen))
    found = list(_single(reader, seen)) + _Pairs(reader, seen).findings() + list(_not_read(reader))
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(found, key=lambda finding: order[finding.kind])


def write_findings(path: Path, findings: list[Finding]) -> None:
    """Write the list that readers respect: CSV with path, finding, detail, exclusions ("yes" or "no"). It may be edited."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file,
    ):
        rows = csv.writer(file)
        rows.writerow(["path", "finding", "detail", "exclusions"])
        rows.writerows([f.key, f.kind, f.detail, "yes" if f.exclusions else "no"] for f in findings)


def show(reader: DataReader, findings: list[Finding]) -> None:
    """Print the findings by kind with an example each, and the images of each class in each split."""
    table = Table(
        title=f"{len(reader):,} images in {len(reader.class_names)} classes", title_justify="left"
    )
    for heading in ("class", *MODES):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    columns = [reader.counts(mode) for mode in MODES]
    for name, *numbers in zip(reader.class_names, *columns, strict=True):
        table.add_row(printable(name), *(f"{number:,}" for number in numbers))
    tables = [table]
    counts = Counter(finding.kind for finding in findings)
    if findings:
        tables.append(Table(title="What was found", title_justify="left"))
        for heading in ("images", "finding", "for instance"):
            tables[1].add_column(
                heading, justify="right" if heading == "images" else "left", overflow="fold"
            )
    for kind, count in counts.items():
        first = next(finding for finding in findings if finding.kind == kind)
        example = f"{first.key} ({first.detail})" if first.detail else first.key
        tables[1].add_row(f"{count:,}", f"{kind}: {KINDS[kind]}", printable(example))
    for each in tables:
        print_table(each)
    train = columns[0]
    if train.max() > 10 * train.min():
        rare, common = (printable(reader.class_names[i]) for i in (train.argmin(), train.argmax()))
        print(
            f"unbalanced: {rare!r} has {train.min():,} training images, {common!r} {train.max():,}."
        )


def _in_parallel(reader: DataReader, threads: int) -> Iterator[list[_Seen]]:
    def look(start: int) -> list[_Seen]:
        return [_look(reader.image_path(i)) for i in range(start, min(start + _CHUNK, len(reader)))]

    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(look, range(0, len(reader), _CHUNK))
    finally:
        pool.shutdown(cancel_futures=True)


def _look(path: Path) -> _Seen:
    try:
        data = read_bytes(path)
        thumbnail = decode(data, THUMBNAIL)
    except ImageError as error:
        return _Seen(error=error.reason)
    except ValueError as error:
        return _Seen(error=str(error))
    kind = detect_extension(data)
    frames = 1
    if kind in (".gif", ".webp", ".png", ".tiff"):
        with Image.open(io.BytesIO(data)) as image:
            frames = getattr(image, "n_frames", 1)
    return _Seen(
        "",
        hashlib.sha256(data).digest(),
        fingerprint(thumbnail).tobytes(),
        size_of(data),
        kind,
        frames,
    )


def _single(reader: DataReader, seen: list[_Seen]) -> Iterator[Finding]:
    """Yield what one image shows by itself."""
    for i, one in enumerate(seen):
        key = reader.key(i)
        if one.error:
            yield Finding(key, "unreadable", one.error, exclusions=True)
            continue
        width, height = one.size
        ending = Path(key).suffix.lower()
        if one.kind and one.kind != _SAME.get(ending, ending):
            yield Finding(key, "wrong ending", f"holds {one.kind[1:].upper()}")
        if one.frames > 1:
            yield Finding(key, "first frame", f"{one.frames} frames")
        if min(one.size) < TINY:
            yield Finding(key, "tiny", f"{width} by {height}")
        if width * height > HUGE:
            yield Finding(key, "huge", f"{width} by {height}")


class _Pairs:
    """What two images show together. Of a picture on both sides of the split, the training image is left out."""

    def __init__(self, reader: DataReader, seen: list[_Seen]) -> None:
        self._reader = reader
        self._seen = seen
        self._modes = np.empty(len(seen), object)
        for mode in MODES:
            self._modes[reader.indices(mode)] = mode
        self._trains = self._modes == "train"
        self._rows = np.array([i for i, one in enumerate(seen) if not one.error], np.int64)

    def findings(self) -> list[Finding]:
        same: dict[bytes, list[int]] = {}
        for i in self._rows:
            same.setdefault(self._seen[i].digest, []).append(int(i))
        found = [
            finding
            for copies in same.values()
            if len(copies) > 1
            for finding in self._copies(copies)
        ]
        known = {finding.key for finding in found}
        return found + [finding for finding in self._near() if finding.key not in known]

    def _copies(self, copies: list[int]) -> Iterator[Finding]:
        """All copies of a file in several classes are left out; else all but one, a held-out one if there is any."""
        targets = self._reader.targets
        kept = next((i for i in copies if not self._trains[i]), copies[0])
        for i in copies:
            if (other := next((j for j in copies if targets[j] != targets[i]), None)) is not None:
                yield self._finding(i, "two classes", other, exclusions=True)
            elif i != kept:
                leaks = self._trains[i] and not self._trains[kept]
                yield self._finding(i, "leak" if leaks else "duplicate", kept, exclusions=True)

    def _near(self) -> Iterator[Finding]:
        if not len(self._rows):
            return
        # Held-out images first, so that each training image is compared with them first.
        rows = self._rows[np.argsort(self._trains[self._rows], kind="stable")]
        prints = np.stack([np.frombuffer(self._seen[i].print, np.uint64) for i in rows])
        for i, other in zip(rows, rows[near_duplicates(prints)], strict=True):
            if i != other:
                leaks = bool(self._trains[i] and not self._trains[other])
                yield self._finding(
                    i, "leak" if leaks else "near duplicate", other, exclusions=leaks
                )

    def _finding(self, i: int, kind: str, other: int, exclusions: bool) -> Finding:
        return Finding(
            self._reader.key(i),
            kind,
            f"{self._reader.key(int(other))}, {self._modes[other]}",
            exclusions,
        )


def _not_read(reader: DataReader) -> Iterator[Finding]:
    """Images that no reader takes, such as the .heic of phones."""
    if reader.data.is_file():
        return
    for parent, folders, files in os.walk(reader.data):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(files):
            if not is_hidden(name) and Path(name).suffix.lower() in _OTHER_IMAGES:
                yield Finding(
                    (Path(parent) / name).relative_to(reader.data).as_posix(), "not read", ""
                )
