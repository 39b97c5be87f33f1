"""``kerakit check``: read every image once and list problems. No file of the user is changed."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kerakit.address import as_place
from kerakit.console import print_table, printable
from kerakit.data.annotations.point_table import is_point_table
from kerakit.data.annotations.recognize import recognize
from kerakit.data.base_reader import BaseReader
from kerakit.data.decode import (
    IMAGE_EXTENSIONS,
    decode_with_warning,
    detect_extension,
    read_bytes,
)
from kerakit.data.findings import FINDINGS, HUGE, TINY, Finding
from kerakit.data.folders import similar_names
from kerakit.data.keypoint_reader import KeypointReader
from kerakit.data.label_columns import infer_kind
from kerakit.data.mask_reader import MaskReader
from kerakit.data.object_reader import ObjectReader
from kerakit.data.reader import DataReader, unmeasured_classes
from kerakit.data.shards.member import Member
from kerakit.data.similar import THUMBNAIL, find_near_duplicates, fingerprint
from kerakit.data.split import MODES
from kerakit.data.table_reader import (
    MultiLabelReader,
    RegressionReader,
    TableReader,
)
from kerakit.data.tables import index_columns
from kerakit.device.photo import upright_size
from kerakit.errors import ImageError, UserError

_ALIASES = {
    **dict.fromkeys((".jpeg", ".jpe", ".jfif"), ".jpg"),
    **dict.fromkeys((".pbm", ".pgm", ".pnm"), ".ppm"),
    ".tif": ".tiff",
    ".dib": ".bmp",
}
_UNSUPPORTED = {
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".svg", ".psd"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"),
}
_CHUNK = 32
"""Images per task of the thread pool: few for smooth progress, many for little overhead."""


class UncheckedReader(DataReader):
    """A dataset that may have classes without training images: findings, as the others."""

    def _check_classes(self) -> None:
        if not len(self):
            super()._check_classes()


@dataclass(frozen=True)
class _ImageFacts:
    """Facts about one image: an error, or the rest."""

    error: str = ""
    sha256: bytes = b""
    fingerprint: bytes = b""
    size: tuple[int, int] = (0, 0)
    extension: str = ""
    frames: int = 1
    frame_error: str = ""
    warning: str = ""


def open_dataset(data: Path, train_ratio: float = 0.8, seed: int = 0) -> BaseReader:
    """Return the dataset in ``data`` by its format, for a check of images and labels.

    Args:
        data: folder, table, or annotation file.
        train_ratio: fraction of training images.
        seed: seed of the split.
    """
    data = as_place(data)
    found = recognize(data)
    reader: type[BaseReader] = UncheckedReader
    if found.name == "table":
        reader = _table_reader(data)
    elif found.name == "masks":
        reader = MaskReader
    elif found.name != "classes":
        reader = ObjectReader
    try:
        return reader(data, train_ratio, seed)
    except UserError:
        if found.name != "labelme":
            raise
        return KeypointReader(data, train_ratio, seed)  # points alone


def _table_reader(path: Path) -> type[BaseReader]:
    """Return the reader of a table by its columns."""
    columns = index_columns(path)[1]
    if "label" in columns:
        readers = {"set": MultiLabelReader, "number": RegressionReader}
        return readers.get(infer_kind(columns["label"]), UncheckedReader)
    if "mask" in columns:
        return MaskReader
    if is_point_table([*columns]):
        return KeypointReader
    return TableReader if columns else UncheckedReader


def check_images(
    reader: BaseReader, threads: int, update: Callable[[int], None] = lambda _: None
) -> list[Finding]:
    """Read every image of ``reader`` once, and check its labels.

    Args:
        reader: without exclusions.
        threads: number of images read in parallel.
        update: called with the number of images read so far.

    Returns:
        The findings, in the order of ``FINDINGS``, then of the images.
    """
    facts: list[_ImageFacts] = []
    for chunk in _inspect_all(reader, threads):
        facts += chunk
        update(len(facts))
    findings = [
        *_check_each(reader, facts),
        *_Duplicates(reader, facts).findings(),
        *_unsupported(reader),
        *_empty_classes(reader),
        *_check_labels(reader),
    ]
    order = list(FINDINGS)
    return sorted(findings, key=lambda finding: order.index(finding.kind))


def print_findings(reader: BaseReader, findings: list[Finding]) -> None:
    """Print the number of images per class and split, and each kind of finding with an example."""
    counts = [reader.counts(mode) for mode in MODES]
    is_class = not isinstance(reader, TableReader | RegressionReader | KeypointReader)
    heading, number = "class" if is_class else "column", len(reader.class_names)
    size = f" in {number} classes" if is_class else f", columns: {number}"
    if isinstance(reader, KeypointReader):
        heading, size = "keypoint", f", keypoints: {number}"
    print_table(
        [heading, *MODES],
        [
            [printable(name), *(f"{number:,}" for number in numbers)]
            for name, *numbers in zip(reader.class_names, *counts, strict=True)
        ],
        title=f"{len(reader):,} images{size}",
        left=[heading],
    )
    rows = []
    for kind, count in Counter(finding.kind for finding in findings).items():
        first = next(finding for finding in findings if finding.kind == kind)
        example = f"{first.key} ({first.detail})" if first.detail else first.key
        rows.append([f"{count:,}", f"{kind}: {FINDINGS[kind]}", printable(example)])
    if rows:
        headings = ["images", "finding", "example"]
        print_table(headings, rows, "Findings", left=headings[1:], overflow="fold")
    for warning in (*reader.warnings, *unmeasured_classes(reader)):
        print(warning)
    train = counts[0]
    if is_class and len(train) and train.min() and train.max() > 10 * train.min():
        rare, common = (printable(reader.class_names[i]) for i in (train.argmin(), train.argmax()))
        print(
            f"class imbalance: {rare!r} has {train.min():,} training images, {common!r} "
            f"{train.max():,}."
        )


def _inspect_all(reader: BaseReader, threads: int) -> Iterator[list[_ImageFacts]]:
    def inspect_chunk(start: int) -> list[_ImageFacts]:
        stop = min(start + _CHUNK, len(reader))
        reader.fetch(range(start, stop))
        return [_inspect(reader.image_path(i)) for i in range(start, stop)]

    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(inspect_chunk, range(0, len(reader), _CHUNK))
    finally:
        pool.shutdown(cancel_futures=True)


def _inspect(path: Path | Member) -> _ImageFacts:
    try:
        data = read_bytes(path)
        thumbnail, warning = decode_with_warning(data, THUMBNAIL)
    except ImageError as error:
        return _ImageFacts(error=error.reason)
    except ValueError as error:
        return _ImageFacts(error=str(error))
    extension = detect_extension(data)
    frames, frame_error = _count_frames(data, extension)
    return _ImageFacts(
        "",
        hashlib.sha256(data).digest(),
        b"" if (bits := fingerprint(thumbnail)) is None else bits.tobytes(),
        upright_size(data),
        extension,
        frames,
        frame_error,
        warning,
    )


def _count_frames(data: bytes, extension: str) -> tuple[int, str]:
    """Return the number of frames, and the error if one after the first is damaged."""
    if extension not in (".gif", ".webp", ".png", ".tiff"):
        return 1, ""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return getattr(image, "n_frames", 1), ""
    # Damaged files raise errors of many types in Pillow.
    except Exception as error:
        return 1, str(error) or type(error).__name__


def _check_each(reader: BaseReader, facts: list[_ImageFacts]) -> Iterator[Finding]:
    """Yield the findings that concern one image alone."""
    declared = reader.declared_sizes()
    for i, image in enumerate(facts):
        key = reader.key(i)
        if image.error:
            yield Finding(key, "unreadable", image.error, exclude=True)
            continue
        width, height = image.size
        extension = Path(key).suffix.lower()
        # Other extensions, such as .jpg_large, name no other format.
        is_known = extension in IMAGE_EXTENSIONS
        if is_known and image.extension not in ("", _ALIASES.get(extension, extension)):
            yield Finding(key, "wrong file extension", f"is {image.extension[1:].upper()}")
        if image.warning:
            yield Finding(key, "JPEG warning", image.warning)
        if image.frame_error:
            yield Finding(key, "damaged frame", image.frame_error)
        if image.frames > 1:
            yield Finding(key, "multiple frames", f"{image.frames} frames")
        if min(image.size) < TINY:
            yield Finding(key, "tiny", f"{width} by {height}")
        if width * height > HUGE:
            yield Finding(key, "huge", f"{width} by {height}")
        if declared[i].all() and tuple(declared[i]) != image.size:
            detail = f"declared {declared[i][0]} by {declared[i][1]}, is {width} by {height}"
            yield Finding(key, "image of another size", detail)


class _Duplicates:
    """Findings about two images. Of a pair in two splits, the training image is excluded."""

    def __init__(self, reader: BaseReader, facts: list[_ImageFacts]) -> None:
        self._reader = reader
        self._facts = facts
        self._labels = reader.label_codes()
        self._modes = np.empty(len(facts), object)
        for mode in MODES:
            self._modes[reader.indices(mode)] = mode
        self._is_train: NDArray[np.bool_] = self._modes == "train"
        self._readable = np.array([i for i, image in enumerate(facts) if not image.error], np.int64)

    def findings(self) -> list[Finding]:
        by_digest: dict[bytes, list[int]] = {}
        for i in self._readable.tolist():
            by_digest.setdefault(self._facts[i].sha256, []).append(i)
        exact = [
            finding
            for copies in by_digest.values()
            if len(copies) > 1
            for finding in self._exact(copies)
        ]
        keys = {finding.key for finding in exact}
        return exact + [finding for finding in self._near() if finding.key not in keys]

    def _exact(self, copies: list[int]) -> Iterator[Finding]:
        """Exclude all copies if classes differ, else all but one, preferably a held-out one."""
        targets = self._labels
        remaining = next((i for i in copies if not self._is_train[i]), copies[0])
        for i in copies:
            if (other := next((j for j in copies if targets[j] != targets[i]), None)) is not None:
                yield self._finding(i, "conflicting labels", other, exclude=True)
            elif i != remaining:
                leaks = self._is_train[i] and not self._is_train[remaining]
                yield self._finding(i, "leak" if leaks else "duplicate", remaining, exclude=True)

    def _near(self) -> Iterator[Finding]:
        """Exclude leaks within a class; of different classes, the user decides."""
        compared = np.array([i for i in self._readable if self._facts[i].fingerprint], np.int64)
        if not len(compared):
            return
        # Held-out images first, so that each training image is compared with them first.
        order = compared[np.argsort(self._is_train[compared], kind="stable")]
        fingerprints = np.stack(
            [np.frombuffer(self._facts[i].fingerprint, np.uint64) for i in order]
        )
        same, other = find_near_duplicates(fingerprints, self._reader.leak_classes()[order])
        for i, of_class, of_others in zip(order, order[same], order[other], strict=True):
            if i != of_class:
                leaks = bool(self._is_train[i] and not self._is_train[of_class])
                kind = "leak" if leaks else "near duplicate"
                yield self._finding(i, kind, of_class, exclude=leaks)
            elif i != of_others:
                yield self._finding(i, "similar in another class", of_others, exclude=False)

    def _finding(self, i: int, kind: str, other: int, exclude: bool) -> Finding:
        detail = f"{self._reader.key(int(other))}, {self._modes[other]}"
        return Finding(self._reader.key(int(i)), kind, detail, exclude)


def _empty_classes(reader: BaseReader) -> Iterator[Finding]:
    counts = [reader.counts(mode) for mode in MODES]
    for i, name in enumerate(reader.class_names):
        if not counts[0][i]:
            is_unused = not any(count[i] for count in counts) and not isinstance(reader, DataReader)
            yield Finding(name, "unused class" if is_unused else "empty class", "")


def _check_labels(reader: BaseReader) -> Iterator[Finding]:
    for names in similar_names(reader.class_names):
        yield Finding(names[0], "similar class names", ", ".join(map(repr, names[1:])))
    faults = dict.fromkeys(reader.label_faults())
    if isinstance(reader, ObjectReader):
        # Objects may have keypoints, polygons and masks, or none.
        if reader.has_keypoints():
            with contextlib.suppress(UserError):
                faults |= dict.fromkeys(KeypointReader(reader.data).label_faults())
        if reader.format.name in ("coco", "yolo", "labelme"):
            with contextlib.suppress(UserError):
                faults |= dict.fromkeys(MaskReader(reader.data).label_faults())
    for key, kind, detail in faults:
        yield Finding(key, kind, printable(detail), exclude=kind == "unreadable mask")


def _unsupported(reader: BaseReader) -> Iterator[Finding]:
    """Yield images of unsupported formats in a data folder, such as the .heic files of phones."""
    for key in reader.skipped:
        if Path(key).suffix.lower() in _UNSUPPORTED:
            yield Finding(key, "unsupported format", "")
