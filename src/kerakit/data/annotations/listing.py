"""Files of a dataset with annotation files: images, their annotation files, given splits."""

from __future__ import annotations

import codecs
import json
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.data.index import UNASSIGNED
from kerakit.data.split import MODES, Mode, parse_split
from kerakit.data.walk import WalkReport, list_images
from kerakit.errors import UserError, first_line, list_names

MAX_FILE = 2**30
"""Largest size of an annotation file of one image, in bytes: LabelMe's contain the image."""

_BOMS = (b"\xef", b"\xff", b"\xfe")
"""First bytes of byte order marks."""

_ROLES = (
    "jpegimages|images?|imgs?|leftimg8bit|photos?|rgb|annotations?|annots?|anns?|labels?|xmls?|"
    "jsons?|bbox(?:es)?|boxes|masks?|segmentationclass(?:aug)?|segmentationobject|segmentations?|"
    "gtfine|gtcoarse|gts?|groundtruths?|ground_truths?|dirs?"
)
_ROLE = re.compile(rf"(?:^|(?<=[\W_\d])|(?<=train)|(?<=val)|(?<=test))(?:{_ROLES})(?=$|[\W_\d])")
"""Words of a folder's name that tell images from annotations: images/ and labels/, train and
trainannot, image_2 and label_2."""

_MASK_ROLE = re.compile(
    r"(^|[\W_]|train|val|test)(masks?|segmentationclass(aug)?|segmentationobject|segmentations?|"
    r"gtfine|gtcoarse|gts?|ground_?truths?|annots?|annotations?|labels?|anns?)($|[\W_])"
)
"""Words of the name of a folder of masks."""

_LISTS = re.compile(r"^((?P<root>.+/)??ImageSets/([^/]+/)?)?(?P<split>[^/]+)\.txt$", re.IGNORECASE)


class Listing:
    """Files below a folder.

    Attributes:
        root: the folder.
        images: paths of images relative to ``root``, with ``/``, sorted.
        others: paths of other files.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise UserError(
                f"there is no folder {root}. Expected a folder of images with annotations, or an "
                "annotation file. Set it with --data_dir, or DATA_DIR in config.py (for kerakit "
                "new: --data)."
            )
        self.root = root
        self._report = WalkReport(root)
        self.images = list_images(root, self._report)
        self.others = sorted(self._report.others)

    def with_extension(self, *extensions: str) -> list[str]:
        """Return the other files with an extension such as ".xml"."""
        return [path for path in self.others if path.lower().endswith(extensions)]

    def warnings(self) -> list[str]:
        """Return warnings of links and folders that cannot be read."""
        self._report.others = []
        return self._report.warnings()

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        names: dict[str, list[str]] = defaultdict(list)
        for image in self.images:
            names[image.rpartition("/")[2]].append(image)
        return names

    @cached_property
    def _image_set(self) -> set[str]:
        return set(self.images)

    def find_image(self, name: str, folder: str = "", mode: Mode | None = None) -> str | None:
        """Return the image that an annotation file names, or None.

        Args:
            name: path of the image, as written on any machine.
            folder: folder of the annotation file, relative to ``root``.
            mode: split of the annotation file; decides between images of one name.
        """
        name = name.replace("\\", "/")
        for base in (f"{folder}/" if folder else "", ""):
            if (path := base + name) in self._image_set:
                return path
        found = self._by_name.get(name.rpartition("/")[2], [])
        if len(found) < 2:
            return found[0] if found else None
        # Of several images with this name: the longest common end of the paths, then the split.
        ends = [path for path in found if path.endswith(f"/{name}")] or found
        fits = [path for path in ends if split_of_path(path) == mode] if mode else ends
        return fits[0] if len(fits) == 1 else None

    def why_missing(self, name: str) -> str:
        """Return a note that several images have a name, "" where they do not."""
        found = self._by_name.get(name.replace("\\", "/").rpartition("/")[2], [])
        return f" (several images have this name: {list_names(found)})" if len(found) > 1 else ""

    def given_splits(self, images: Sequence[str]) -> NDArray[np.int8]:
        """Return the given split of each image as an index into MODES, UNASSIGNED without one.

        Lists of images (train.txt, ImageSets/Main/train.txt) come before names of folders.
        """
        if lists := self._read_lists(images):
            return np.array([lists.get(image, UNASSIGNED) for image in images], np.int8)
        modes = [split_of_path(image) for image in images]
        return np.array([UNASSIGNED if m is None else MODES.index(m) for m in modes], np.int8)

    def _read_lists(self, images: Sequence[str]) -> dict[str, int]:
        found: dict[str, int] = {}
        named: dict[str, dict[str, str]] = {}
        for path in self.with_extension(".txt"):
            match = _LISTS.match(path)
            mode, rest = parse_split(match["split"]) if match else (None, ())
            if match is None or mode is None or rest:
                continue
            # A list is about its own dataset: VOCdevkit holds VOC2007 and VOC2012.
            root = match["root"] or ""
            if root not in named:
                named[root] = _by_stem([image for image in images if image.startswith(root)])
            for line in read_text(self.root / path).splitlines():
                # Lists of segmentation datasets name the mask after the image.
                for name in (line.strip(), line.partition(" ")[0]):
                    name = name.replace("\\", "/").removeprefix("./")
                    listed = named[root].get(name) or named[root].get(name.rpartition("/")[2])
                    if listed:
                        found[listed] = MODES.index(mode)
                        break
        return found


def _by_stem(images: Iterable[str]) -> dict[str, str]:
    """Return images by path and by name, with and without extension."""
    found = {}
    for image in images:
        found[image] = found[image.rpartition(".")[0]] = image
        name = image.rpartition("/")[2]
        found[name] = found[name.rpartition(".")[0]] = image
    return found


def is_list(path: str) -> bool:
    """Whether a text file lists images, such as train.txt, or explains the dataset."""
    name = path.rpartition("/")[2].casefold()
    mode, rest = parse_split(name.removesuffix(".txt"))
    names_split = mode is not None and not rest and "label" not in path.casefold()
    in_lists = "imagesets" in path.casefold().split("/")[:-1]
    return names_split or in_lists or name.startswith(("readme", "license"))


def split_of_path(path: str) -> Mode | None:
    """Return the split that a folder of a path names, or None.

    >>> split_of_path("images/train2017/1.jpg"), split_of_path("trainannot/1.png")
    ('train', 'train')
    """
    return _split_of_folder(path.rpartition("/")[0])


@lru_cache(4096)
def _split_of_folder(folder: str) -> Mode | None:
    for name in folder.split("/"):
        mode, rest = parse_split(_ROLE.sub("", name.casefold()))
        if mode is not None and not rest:
            return mode
    return None


def is_in_mask_folder(path: str) -> bool:
    """Whether a folder of the path is named as those of masks are.

    >>> is_in_mask_folder("train/masks/1.png"), is_in_mask_folder("train/images/1.png")
    (True, False)
    """
    return _is_mask_folder(path.rpartition("/")[0])


@lru_cache(4096)
def _is_mask_folder(folder: str) -> bool:
    return any(_MASK_ROLE.search(part.casefold()) for part in folder.split("/"))


def pair_key(path: str) -> tuple[str, str]:
    """Return the folder without words such as images and labels, and the name without extension.

    >>> pair_key("images/train/1.jpg") == pair_key("labels/train/1.txt")
    True
    >>> pair_key("training/image_2/7.png") == pair_key("training/label_2/7.txt")
    True
    """
    folder, _, name = path.rpartition("/")
    return _plain_folder(folder), name.rpartition(".")[0] or name


@lru_cache(4096)
def _plain_folder(folder: str) -> str:
    parts = [_ROLE.sub("", part.casefold()).strip("_-. ") for part in folder.split("/")]
    return "/".join(part for part in parts if part)


def pair_files(
    images: Sequence[str],
    files: Iterable[str],
    image_key: Callable[[str], tuple[str, str]] = pair_key,
    file_key: Callable[[str], tuple[str, str]] = pair_key,
) -> tuple[list[str | None], list[str]]:
    """Return the annotation file of each image, and the files without an image.

    Pairs have the same name, and the same folder except for words such as images and labels; or
    else a name that is unique, in no other split.
    """
    by_key: dict[tuple[str, str], str] = {}
    for file in files:
        by_key.setdefault(file_key(file), file)
    keys = [image_key(image) for image in images]
    pairs = [by_key.get(key) for key in keys]
    used = set(pairs)
    left = [file for file in by_key.values() if file not in used]
    if left and None in pairs:
        stems = Counter(file_key(file)[1] for file in left)
        unique = {stem: file for file in left if stems[stem := file_key(file)[1]] == 1}
        unpaired = [i for i, file in enumerate(pairs) if file is None]
        count = Counter(keys[i][1] for i in unpaired)
        for i in unpaired:
            found = unique.get(keys[i][1])
            if found is not None and count[keys[i][1]] == 1 and _same_split(images[i], found):
                pairs[i] = found
        used = set(pairs)
        left = [file for file in left if file not in used]
    return pairs, left


def _same_split(image: str, file: str) -> bool:
    modes = {split_of_path(image), split_of_path(file)} - {None}
    return len(modes) < 2


def read_text(path: Path) -> str:
    """Return a text file as UTF-8, or else as Latin-1.

    Raises:
        UserError: the file cannot be read.
    """
    data = read_file(path)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def read_file(path: Path | str) -> bytes:
    """Return the content of an annotation file.

    Raises:
        UserError: the file cannot be read, or is larger than ``MAX_FILE``.
    """
    try:
        with open(path, "rb", buffering=0) as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE:
                raise UserError(f"cannot read {path}: it is larger than {MAX_FILE >> 30} GiB.")
            data = file.readall() or b""
            return data if data[:1] not in _BOMS else _without_mark(data, str(path))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}.") from None


def _without_mark(data: bytes, path: str) -> bytes:
    """Return a text without its byte order mark; .txt as UTF-8: PowerShell writes UTF-16."""
    if data.startswith(codecs.BOM_UTF8):
        return data[3:]
    if path.lower().endswith(".txt") and data.startswith(
        (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    ):
        return data.decode("utf-16", "replace").encode()
    return data


def parse_json(text: bytes) -> Any:
    """Return a JSON value; NaN and Infinity are numbers.

    Raises:
        ValueError: no JSON, or nested too deeply.
    """
    if not text.strip():
        raise ValueError("it is empty")
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"it is not JSON ({first_line(error)})") from None
