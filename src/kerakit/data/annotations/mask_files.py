"""Masks as image files: pairs with images, values and colors of classes."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kerakit.data.annotations.listing import (
    Listing,
    is_in_mask_folder,
    pair_files,
    pair_key,
    read_text,
)
from kerakit.data.annotations.yolo import YoloNames
from kerakit.data.folders import normalize_name
from kerakit.data.shards.member import Member, openable
from kerakit.data.table_files import split_header
from kerakit.device.segmentation import IGNORED
from kerakit.errors import UserError, first_line

SAMPLE = 200
"""Masks that are read to find the classes where no file names them."""

_MAX_COLORS, _MAX_VALUES = 255, 160

_SUFFIX = re.compile(
    r"[_\-. ](gt(Fine|Coarse)_\w+|label(Train)?Ids|masks?|labels?|seg|segmentation|gt|annotation|"
    r"annots?|L)$",
    re.IGNORECASE,
)
_IMAGE_SUFFIX = re.compile(r"[_\-. ](leftImg8bit|images?|img|rgb)$", re.IGNORECASE)
_SECONDARY = re.compile(r"instance|colou?r|segmentationobject|overlay|visual", re.IGNORECASE)
_COLOR_LINE = re.compile(r"^(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\d{1,3})[\s,]+(\S.*)$")
_CVAT_LINE = re.compile(r"^([^:#]+):(\d{1,3}),(\d{1,3}),(\d{1,3}):")
_NUMBERED = re.compile(r"^(\d+)\s*[:,;\s]\s*(\S.*)$")

Color = tuple[int, int, int]


@dataclass(frozen=True)
class MaskClasses:
    """Classes of masks.

    Attributes:
        names: in the order of the class indices.
        colors: (red, green, blue) of each class, for masks in colors; else None.
        values: int16 (256,), class index of each gray value, 255 for pixels without a class, -1 for
            unknown values; None: equal.
        reason: the file, or the values, that they are from.
    """

    names: tuple[str, ...]
    colors: tuple[Color, ...] | None = None
    values: NDArray[np.int16] | None = None
    reason: str = ""

    def annotation(self, path: str | Member) -> dict[str, Any]:
        """Return the annotation of an image with the mask ``path``."""
        annotation: dict[str, Any] = {"mask": path}
        if self.values is not None:
            annotation["values"] = self.values
        if self.colors is not None:
            annotation["colors"] = self.colors
        return annotation

    def known_values(self) -> set[int]:
        """Return the gray values that have a class, or none on purpose."""
        if self.values is None:
            return {*range(len(self.names)), IGNORED}
        return {*np.flatnonzero(self.values >= 0).tolist()}

    def ignoring(self, values: Sequence[int]) -> MaskClasses:
        """Return the classes with gray values that have no class."""
        if not values or self.colors is not None:
            return self
        table = _identity(len(self.names)) if self.values is None else self.values.copy()
        table[[value for value in values if 0 <= value < len(table)]] = IGNORED
        return replace(self, values=table)


def _identity(classes: int) -> NDArray[np.int16]:
    """Return the table of masks whose values are class indices."""
    table = np.full(256, -1, np.int16)
    table[:classes] = np.arange(classes)
    table[IGNORED] = IGNORED
    return table


def to_metadata(classes: MaskClasses | None) -> dict[str, Any] | None:
    """Return classes as JSON values, for the index of shards."""
    if classes is None:
        return None
    values = None if classes.values is None else classes.values.tolist()
    return {
        "names": classes.names,
        "colors": classes.colors,
        "values": values,
        "reason": classes.reason,
    }


def named_in(metadata: dict[str, Any]) -> MaskClasses | None:
    """Return the classes in the metadata of shards that a file beside the masks named."""
    found = metadata.get("mask_classes")
    if found is None:
        return None
    colors = None if found["colors"] is None else tuple(map(tuple, found["colors"]))
    values = None if found["values"] is None else np.array(found["values"], np.int16)
    return MaskClasses(tuple(found["names"]), colors, values, found["reason"])


def find_masks(listing: Listing) -> tuple[dict[str, str], list[str], list[str]]:
    """Return the mask of each image, the images without mask, and the masks without image."""
    masks = [path for path in listing.images if is_in_mask_folder(path)]
    images = [path for path in listing.images if not is_in_mask_folder(path)]
    if not masks:
        # In one folder, names distinguish them: 1.jpg and 1_mask.png.
        keys = {pair_key(path) for path in images}
        masks = [
            path for path in images if _mask_key(path) != pair_key(path) and _mask_key(path) in keys
        ]
        images = sorted(set(images) - set(masks))
    masks.sort(
        key=lambda path: (bool(_SECONDARY.search(path)), "trainids" not in path.lower(), path)
    )
    pairs, left = pair_files(images, masks)
    unpaired = [image for image, mask in zip(images, pairs, strict=True) if mask is None]
    found = {image: mask for image, mask in zip(images, pairs, strict=True) if mask is not None}
    if unpaired and left:
        more, left = pair_files(unpaired, left, _image_key, _mask_key)
        found |= {image: mask for image, mask in zip(unpaired, more, strict=True) if mask}
        unpaired = [image for image, mask in zip(unpaired, more, strict=True) if not mask]
    left = [path for path in left if not _SECONDARY.search(path)]
    return dict(sorted(found.items())), unpaired, left


def _rank(path: str) -> tuple[bool, bool, str]:
    """Return a key that sorts the better one of two masks of an image first."""
    return bool(_SECONDARY.search(path)), "trainids" not in path.lower(), path


def read_values(path: Path | str | Member) -> NDArray[np.uint8] | NDArray[np.int32]:
    """Return the values of a mask, (height, width), or its colors, (height, width, 3).

    Indexed images have their indices. Gray images that were saved in colors are gray.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with Image.open(openable(path)) as image:
            if image.mode in ("P", "L", "1"):
                return np.asarray(image, np.uint8)
            if image.mode.startswith("I"):
                return np.asarray(image, np.int32)
            if image.mode == "LA":
                return np.asarray(image)[..., 0]
            colors = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"cannot read the mask {path}: {first_line(error)}.") from None
    is_gray = (colors[..., 0] == colors[..., 1]).all() and (colors[..., 1] == colors[..., 2]).all()
    return colors[..., 0] if is_gray else colors


def is_mask_file(path: Path) -> bool:
    """Whether an image has few values or colors, and so may be a mask; True if it is unreadable."""
    try:
        content = read_values(path)
    except UserError:
        return True
    if content.ndim == 3:
        return len(_find_colors(content)) <= _MAX_COLORS
    # JPEG blurs a mask of black and white.
    extremes = np.isin(content >> 5, (0, 7)).mean()
    return len(np.unique(content)) <= _MAX_VALUES or bool(extremes > 0.9)


def find_classes(
    listing: Listing | None,
    masks: Sequence[Any],
    ignore: Sequence[int],
    named: MaskClasses | None = None,
) -> MaskClasses:
    """Return the classes that a file names, or else those of the values in a sample of masks.

    Args:
        listing: the files; None: no file names classes.
        masks: paths of the masks, or members of shards.
        ignore: values without a class.
        named: the classes that a file named when the masks were packed.
    """
    found = named_classes(listing) if listing is not None else named
    if found is not None and found.colors is not None:
        return found
    step = max(1, len(masks) // SAMPLE)
    values: set[int] = set()
    colors: set[Color] = set()
    lossy = False
    colored = gray = 0
    first_error: UserError | None = None
    for path in masks[::step]:
        try:
            content = read_values(path)
        except UserError as error:
            first_error = first_error or error
            continue
        lossy |= path.suffix.lower() in (".jpg", ".jpeg")
        if content.ndim == 3:
            colored += 1
            colors |= _find_colors(content)
            if len(colors) > _MAX_COLORS:
                break
        else:
            gray += 1
            values |= set(np.unique(content).tolist())
    if first_error is not None and not colored + gray:
        raise first_error
    # A few masks of the other kind are faults.
    if colored > gray:
        colors |= {(value, value, value) for value in values}
        return _classes_of_colors(sorted(colors), found, masks[0])
    return _classes_of_values(
        sorted(values - set(ignore)), found, lossy, masks[0] if masks else None
    )


def mask_faults(
    path: Path | Member, size: tuple[int, int], classes: MaskClasses
) -> list[tuple[str, str]]:
    """Return kind and detail of the faults of a mask.

    Args:
        path: the mask.
        size: width and height of its image.
        classes: the classes.
    """
    try:
        content = read_values(path)
    except UserError as error:
        return [("unreadable mask", str(error))]
    faults = []
    height, width = content.shape[:2]
    if (width, height) != size:
        detail = f"{width} by {height}, its image {size[0]} by {size[1]}"
        faults.append(("mask of another size", detail))
    if content.ndim == 3 or classes.colors is not None:
        pixels = (
            content.reshape(-1, 3) if content.ndim == 3 else np.repeat(content.reshape(-1, 1), 3, 1)
        )
        known = {(0, 0, 0), *(classes.colors or ())}
        found = {(int(r), int(g), int(b)) for r, g, b in np.unique(pixels, axis=0)}
        if unknown := sorted(found - known):
            kind = "unknown mask value" if classes.colors else "mask in colors"
            faults.append((kind, _list_values(unknown)))
        return faults
    if others := sorted(set(np.unique(content).tolist()) - classes.known_values()):
        faults.append(("unknown mask value", _list_values(others)))
    return faults


def _find_colors(pixels: NDArray[Any]) -> set[Color]:
    """Return the colors of an image, (height, width, 3)."""
    weights = np.array([1 << 16, 1 << 8, 1], np.int32)
    packed = np.unique(pixels.astype(np.int32) @ weights).tolist()
    return {(value >> 16, value >> 8 & 255, value & 255) for value in packed}


def _list_values(values: Sequence[object]) -> str:
    listed = ", ".join(map(str, values[:5]))
    return f"{listed} and {len(values) - 5} more" if len(values) > 5 else listed


def _mask_key(path: str) -> tuple[str, str]:
    folder, stem = pair_key(path)
    return folder, _SUFFIX.sub("", stem)


def _image_key(path: str) -> tuple[str, str]:
    folder, stem = pair_key(path)
    return folder, _IMAGE_SUFFIX.sub("", stem)


def _classes_of_colors(
    colors: Sequence[Color], found: MaskClasses | None, example: Path
) -> MaskClasses:
    if len(colors) > _MAX_COLORS:
        raise UserError(
            f"the masks such as {example} have more than {_MAX_COLORS} colors. Expected one color "
            "per class: save masks as PNG, without lossy compression and blended borders."
        )
    if found is not None:
        raise UserError(
            f"the masks such as {example} are in colors, and {found.reason} names no colors. Add "
            "a table class_dict.csv with the columns name, r, g, b."
        )
    names = tuple(f"#{r:02x}{g:02x}{b:02x}" for r, g, b in colors)
    return MaskClasses(names, tuple(colors), reason="the colors of the masks")


def _classes_of_values(
    values: Sequence[int], found: MaskClasses | None, lossy: bool, example: Path | None
) -> MaskClasses:
    """Return the classes of gray values."""
    if lossy and len(values) > 2:
        # JPEG blurs a mask of black and white only.
        values = [0, IGNORED]
    plain = [value for value in values if value != IGNORED]
    count = len(found.names) if found is not None else 0
    if list(values) in ([0, IGNORED], [IGNORED]) and count in (0, 1, 2):
        # Black and white: the usual mask of one class.
        table = np.full(256, -1, np.int16)
        if lossy:
            table[:128], table[128:] = 0, 1
        table[0], table[255] = 0, 1
        names = ("background", "foreground") if found is None else found.names
        names = ("background", *names) if len(names) == 1 else names
        reason = "the masks are black and white" if found is None else found.reason
        return MaskClasses(names, None, table, reason)
    if found is not None:
        return found
    highest = max(plain, default=0)
    if highest > IGNORED and len([value for value in plain if value < IGNORED]) < 2:
        raise UserError(
            f"the masks such as {example} have the values {_list_values(plain)}. Expected class "
            f"indices of 0 to {IGNORED - 1}."
        )
    if highest > 2 * len(plain) + 8:
        # Spread values, such as 0, 85, 170.
        table = np.full(256, -1, np.int16)
        usable = [value for value in values if value < 256]
        table[usable] = np.arange(len(usable))
        return MaskClasses(tuple(map(str, usable)), None, table, "the values of the masks")
    return MaskClasses(tuple(map(str, range(highest + 1))), reason="the values of the masks")


def named_classes(listing: Listing) -> MaskClasses | None:
    """Return the classes that a file beside the masks names."""
    # Not the label files of images.
    files = [path for path in listing.with_extension(".csv", ".txt") if path.count("/") < 2]
    files = sorted(files, key=lambda path: path.count("/"))[:50]
    for path in files:
        name = path.rpartition("/")[2].casefold()
        full = listing.root / path
        if name.endswith(".csv") and (found := _read_csv(full)):
            return found
        if not name.endswith(".txt"):
            continue
        lines = [line.strip() for line in read_text(full).splitlines()[:1000] if line.strip()]
        for pattern, order in ((_CVAT_LINE, (1, 2, 3, 0)), (_COLOR_LINE, (0, 1, 2, 3))):
            matches = [pattern.match(line) for line in lines if not line.startswith("#")]
            if matches and all(matches):
                parts = [match.groups() for match in matches if match]
                return _with_colors([[part[i] for i in order] for part in parts], full)
    for path in files:
        name = path.rpartition("/")[2].casefold()
        if name in ("classes.txt", "labels.txt", "class_names.txt", "codes.txt", "names.txt"):
            text = read_text(listing.root / path)
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            numbered = [_NUMBERED.match(line) for line in lines]
            if all(numbered) and [int(m[1]) for m in numbered if m] == list(range(len(lines))):
                lines = [match[2] for match in numbered if match]
            return MaskClasses(tuple(map(normalize_name, lines)), reason=path)
    names = YoloNames(listing).names
    return None if names is None else MaskClasses(names, reason="data.yaml")


def _read_csv(path: Path) -> MaskClasses | None:
    """Return the classes of a table with the columns name, r, g, b."""
    lines = read_text(path).splitlines()
    delimiter = split_header(lines[0])[0] if lines else ","
    rows = [row for row in csv.reader(lines, delimiter=delimiter) if any(row)]
    if not rows or len(rows) < 2:
        return None
    header = [cell.strip().casefold() for cell in rows[0]]
    columns = {"r": "red", "g": "green", "b": "blue"}
    at = [
        next((i for i, cell in enumerate(header) if cell in pair), -1) for pair in columns.items()
    ]
    name = next((i for i, cell in enumerate(header) if cell in ("name", "label", "class")), -1)
    if min(*at, name) < 0:
        return None
    for row in rows[1:]:
        if len(row) <= max(*at, name):
            raise UserError(f"{path}: the row {', '.join(row)!r} has {len(row)} cells.")
    return _with_colors([[row[i] for i in (*at, name)] for row in rows[1:]], path)


def _with_colors(rows: Sequence[Sequence[str]], path: Path) -> MaskClasses:
    try:
        colors = tuple((int(r), int(g), int(b)) for r, g, b, _ in rows)
    except ValueError:
        raise UserError(
            f"{path}: expected a color of three numbers of 0 to 255 per class."
        ) from None
    if len(set(colors)) < len(colors) or any(not 0 <= v <= 255 for color in colors for v in color):
        raise UserError(f"{path}: expected one color of 0 to 255 per class, each different.")
    return MaskClasses(tuple(normalize_name(row[3]) for row in rows), colors, reason=path.name)
