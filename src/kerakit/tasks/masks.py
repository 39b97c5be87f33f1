"""Segmentation masks from image files and from polygons."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kerakit.data.shards.member import Member, openable
from kerakit.device.segmentation import IGNORED
from kerakit.errors import UserError, first_line

if TYPE_CHECKING:
    from kerakit.data.placement import Placement

SUBPIXEL_BITS = 4
"""Polygons are drawn with corners of 1/16 pixel."""


def read_mask(
    path: str | Path | Member,
    classes: int,
    ignore: Sequence[int] = (),
    colors: Sequence[Sequence[int]] | None = None,
    table: NDArray[np.integer[Any]] | None = None,
) -> NDArray[np.uint8]:
    """Return the class indices of a mask file, uint8 (height, width), 255 without a class.

    Indexed images contain their indices, gray ones their values, and images in colors the classes
    of ``colors``; black has no class unless it is one of them.

    Args:
        path: the image file, or a member of a shard.
        classes: number of classes.
        ignore: further values without a class.
        colors: (red, green, blue) of each class.
        table: integers (256,), the class index of each gray value, 255 for none, -1 for unknown
            values; default: equal.

    Raises:
        UserError: the file is unreadable, or has values or colors without a class.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mask.png"
    ...     Image.fromarray(np.array([[0, 1], [9, 255]], np.uint8)).save(path)
    ...     read_mask(path, classes=2, ignore=[9]).tolist()
    [[0, 1], [255, 255]]
    """
    try:
        with Image.open(openable(path)) as image:
            in_color = image.mode not in ("P", "L", "LA", "1", "I", "I;16", "I;16B", "I;16L")
            values = np.asarray(image.convert("RGB") if in_color else image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(
            f"cannot read mask {path}: {first_line(error)}. Fix it, or exclude its image."
        ) from None
    is_gray = in_color and colors is None and not np.ptp(values, axis=-1).any()
    if in_color and not is_gray:
        return _find_colors(values, path, colors)
    if values.ndim == 3:  # saved with transparency, or gray as RGB
        values = values[..., 0]
    if table is not None:
        return _look_up(values, path, table.astype(np.int16))
    mask = np.full(values.shape, IGNORED, np.uint8)
    known = (values >= 0) & (values < classes)
    mask[known] = values[known]
    for value in ignore:
        known |= values == value
        mask[values == value] = IGNORED
    unknown = ~known & (values != IGNORED)
    if unknown.any():
        found = ", ".join(map(str, np.unique(values[unknown])[:5]))
        raise UserError(
            f"the mask {path} has {int(unknown.sum())} pixels of value {found}; classes are 0 to "
            f"{classes - 1}, and {IGNORED} marks pixels without a class. Name all classes, or pass "
            "the values without a class as ignore=[...] to the task."
        )
    return mask


def _look_up(
    values: NDArray[Any], path: str | Path | Member, table: NDArray[np.int16]
) -> NDArray[np.uint8]:
    """Return the class of each gray value by a table of 256 values."""
    inside = (values >= 0) & (values < len(table))
    classes = np.where(inside, table[np.where(inside, values, 0)], -1)
    if (unknown := classes < 0).any():
        found = ", ".join(map(str, np.unique(values[unknown])[:5]))
        known = ", ".join(map(str, np.flatnonzero(table >= 0)[:20]))
        raise UserError(
            f"the mask {path} has {int(unknown.sum())} pixels of value {found}; the values of "
            f"masks are {known}. Fix it, or exclude its image."
        )
    mask: NDArray[np.uint8] = classes.astype(np.uint8)
    return mask


def _find_colors(
    pixels: NDArray[np.uint8], path: str | Path | Member, colors: Sequence[Sequence[int]] | None
) -> NDArray[np.uint8]:
    """Return the classes of pixels in colors, (height, width, 3)."""
    if colors is None:
        raise UserError(
            f"the mask {path} is in colors; expected class indices. Pass the color of each class "
            "as colors=[(red, green, blue), ...] to the task."
        )
    packed = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    table = np.array([(r << 16) + (g << 8) + b for r, g, b in colors], np.int32)
    order = np.argsort(table, kind="stable")
    at = np.minimum(np.searchsorted(table[order], packed), len(table) - 1)
    known = table[order][at] == packed
    unknown = ~known & (packed != 0)
    if unknown.any():
        red, green, blue = pixels[unknown][0].tolist()
        raise UserError(
            f"the mask {path} has {int(unknown.sum())} pixels of colors without a class, such as "
            f"({red}, {green}, {blue}). Add them to colors, or save the mask without lossy "
            "compression."
        )
    return np.where(known, order[at], IGNORED).astype(np.uint8)


def draw_polygons(annotation: Any, placement: Placement, background: int) -> NDArray[np.uint8]:
    """Return a mask of the input size, uint8 (height, width), with polygons in their order.

    Args:
        annotation: "polygons": a list of corners, float32 (k, 2), as fractions of width and height;
            "classes": the class of each; optionally "objects": an integer for each: polygons of the
            same object are parts of it, or holes where they overlap (even-odd rule).
        placement: position of the image in the input.
        background: value of the other pixels of the image.
    """
    import cv2

    mask: NDArray[np.uint8] = placement.mask(np.full((2, 2), background, np.uint8))
    polygons, classes = annotation["polygons"], annotation["classes"]
    objects = annotation.get("objects", range(len(polygons)))
    parts: dict[int, list[int]] = {}
    for index, one in enumerate(objects):
        parts.setdefault(int(one), []).append(index)
    outside = mask == IGNORED if background != IGNORED else None
    for indices in parts.values():
        # OpenCV's pixel centers are integers.
        corners = [
            np.rint((placement.points(polygons[i]) - 0.5) * (1 << SUBPIXEL_BITS)).astype(np.int32)
            for i in indices
        ]
        cv2.fillPoly(mask, corners, int(classes[indices[0]]), shift=SUBPIXEL_BITS)
    if outside is not None:
        mask[outside] = IGNORED  # a polygon may reach over the edge of a letterboxed image
    return mask
