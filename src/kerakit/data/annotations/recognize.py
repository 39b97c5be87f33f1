"""Recognition of the format of a dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from kerakit.data.annotations.box_table import is_box_table
from kerakit.data.annotations.coco import is_coco
from kerakit.data.annotations.listing import Listing, pair_files, read_file
from kerakit.data.annotations.mask_files import find_masks, is_mask_file
from kerakit.data.annotations.per_image import is_kitti
from kerakit.data.annotations.yolo import YoloNames, is_yolo, name_files
from kerakit.data.shards.index import INDEX, open_shards
from kerakit.errors import UserError

FORMATS = {
    "classes": "a folder per class",
    "table": "a table",
    "coco": "COCO",
    "voc": "Pascal VOC",
    "yolo": "YOLO",
    "labelme": "LabelMe",
    "kitti": "KITTI",
    "masks": "images and masks",
    "boxes": "a table of boxes",
}
"""Names of the formats, and how messages call them."""

TABLES = (".csv", ".tsv", ".parquet")

_SAMPLE = 5
"""Files whose content is read to recognize a format."""


class DataFormat(NamedTuple):
    """Format of a dataset.

    Attributes:
        name: a key of ``FORMATS``.
        reason: the file that it was recognized by.

    >>> print(DataFormat("coco", "train.json has images and annotations"))
    COCO: train.json has images and annotations
    """

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{FORMATS[self.name]}: {self.reason}"


def recognize(data: Path | str, task: str = "") -> DataFormat:
    """Return the format of a dataset: of its annotation files, or else a folder per class.

    Args:
        data: folder, table, or annotation file.
        task: name of the task: "segmentation" prefers masks where there are boxes as well.

    Raises:
        UserError: no such folder or file, or a file of an unknown format.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     for name in ("images/1.jpg", "labels/1.txt"):
    ...         (Path(folder) / name).parent.mkdir()
    ...         _ = (Path(folder) / name).write_text("0 0.5 0.5 0.1 0.1")
    ...     print(recognize(folder))
    YOLO: labels/1.txt has a class number and coordinates per line
    """
    return recognize_listing(Path(data), task)[0]


def recognize_listing(data: Path, task: str = "") -> tuple[DataFormat, Listing | None]:
    """Return the format of a dataset, and its files where it is a folder with annotations."""
    if (shards := open_shards(data)) is not None:
        name = shards.metadata["format"] if shards.kind == "objects" else shards.kind
        name = {"masks": "table", "boxes": "coco"}.get(name, name)
        return DataFormat(name, f"{INDEX} of {len(shards):,} images that kerakit pack wrote"), None
    if data.is_file():
        return _recognize_file(data), None
    listing = Listing(data)
    checks: list[Callable[[Listing], Iterator[DataFormat]]] = [_json, _xml, _text, _boxes]
    if task == "segmentation":
        checks.insert(0, partial(_masks, any_content=True))
    else:
        checks.append(_masks)
    for check in checks:
        for found in check(listing):
            return found, listing
    return DataFormat("classes", f"no annotation files below {data}"), None


def _recognize_file(path: Path) -> DataFormat:
    extension = path.suffix.lower()
    if extension in TABLES and is_box_table(path):
        return DataFormat("boxes", f"{path.name} has columns of images and of sides of boxes")
    if extension in TABLES:
        return DataFormat("table", f"{path.name} has the extension {extension}")
    if extension == ".json" and is_coco(path):
        return DataFormat("coco", f"{path.name} has lists of images, annotations and categories")
    if extension in (".yaml", ".yml"):
        return DataFormat("yolo", f"{path.name} has the extension {extension}")
    reason = "it is empty" if not path.stat().st_size else "its format is unknown"
    raise UserError(
        f"{path}: {reason}. Expected a folder, a table ({', '.join(TABLES)}), a COCO file (.json) "
        "or a data.yaml of YOLO."
    )


def _json(listing: Listing) -> Iterator[DataFormat]:
    files = listing.with_extension(".json")
    # The few files of COCO may be between thousands of others.
    for path in (*islice(sorted(files, key=lambda file: file.count("/")), 50),):
        full = listing.root / path
        if is_coco(full):
            reason = f"{path} has lists of images, annotations and categories"
            yield DataFormat("coco", reason)
    for path in files[:_SAMPLE]:
        if b'"shapes"' in read_file(listing.root / path):
            yield DataFormat("labelme", f"{path} has a list of shapes")


def _xml(listing: Listing) -> Iterator[DataFormat]:
    for path in listing.with_extension(".xml")[:_SAMPLE]:
        if b"<annotation" in read_file(listing.root / path).replace(b"\0", b""):  # also UTF-16
            yield DataFormat("voc", f"{path} has an element annotation")


def _text(listing: Listing) -> Iterator[DataFormat]:
    files = listing.with_extension(".txt")
    if not files:
        return
    labels = [path for path in files if path not in name_files(listing)]
    pairs, _ = pair_files(listing.images, labels)
    if not any(pairs):
        return
    for path in islice((path for path in pairs if path is not None), 100):
        # The others may have faults.
        lines = read_file(listing.root / path).strip().splitlines()[:1]
        if is_kitti(lines):
            yield DataFormat("kitti", f"{path} has a class and 14 numbers per line")
        if is_yolo(lines):
            yield DataFormat("yolo", f"{path} has a class number and coordinates per line")
    if YoloNames(listing).names is not None:
        yield DataFormat("yolo", "there are names of classes, and text files for images")


def _boxes(listing: Listing) -> Iterator[DataFormat]:
    for path in listing.with_extension(*TABLES)[:_SAMPLE]:
        if is_box_table(listing.root / path):
            yield DataFormat("boxes", f"{path} has columns of images and of sides of boxes")


def _masks(listing: Listing, any_content: bool = False) -> Iterator[DataFormat]:
    pairs = find_masks(listing)[0]
    for image, mask in islice(pairs.items(), _SAMPLE):
        # Folders of photos may be classes, such as mask/ and no_mask/.
        if any_content or is_mask_file(listing.root / mask):
            yield DataFormat("masks", f"{mask} is the mask of {image}")
