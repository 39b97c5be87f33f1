"""Kinds of findings of ``kerakit check``, and their meanings."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.compute as pc

from kerakit.data.exclusions import read_exclusions, write_list

TINY, HUGE = 32, 50_000_000
"""Images with a side of fewer pixels are tiny; images with more pixels in total are huge."""

LABEL_ERROR = "probable label error"
"""Kind of the findings of ``kerakit check --labels``."""

FINDINGS = {
    "empty class": "the class has no training images; add some, or remove the class",
    "unreadable": "cannot be decoded, or is truncated",
    "conflicting labels": "the same file in several classes",
    "leak": "a training image that is nearly identical to a held-out image of its class",
    "duplicate": "the same file twice",
    "near duplicate": "nearly identical to another image of its split",
    "similar in another class": "nearly identical to an image of another class: check the labels",
    "wrong file extension": "the extension does not match the file format; the file is read anyway",
    "JPEG warning": "the file violates the format, but its pixels are complete; it is read",
    "damaged frame": "a frame after the first one is damaged; only the first frame is read",
    "multiple frames": "an animation; only the first frame is read",
    "tiny": f"a side shorter than {TINY} pixels",
    "huge": f"more than {HUGE // 10**6} million pixels",
    "unsupported format": "the image is ignored; convert it to JPEG or PNG",
    "unreadable labels": "the annotation file cannot be read; its image is omitted",
    "invalid annotation": "an object or a line that cannot be read; it is omitted",
    "duplicate id": "the id of two images; both are omitted",
    "label without image": "no such image; the label is ignored",
    "image without labels": "used as an example without objects; without a mask, it is omitted",
    "box with NaN": "the box is omitted",
    "unknown class": "a class number beyond the names; the object is omitted",
    "inverted corners": "a left corner beyond the right one; they are exchanged",
    "box without area": "the box is omitted",
    "box outside the image": "the box is clipped; it is omitted if nothing is left",
    "duplicate box": "the same box of the same class twice; the copy is omitted",
    "point with NaN": "the point counts as absent",
    "point outside the image": "the point counts as absent",
    "visibility": "not 0, 1 or 2; the point counts as absent below 0, as visible above 2",
    "duplicate point": "two points of an image at the same place; both are used",
    "number of keypoints": "an object with more or fewer points than the others; it is omitted",
    "incomplete point": "a column of x without one of y, or the reverse; it is not used",
    "image of another size": "the annotations declare another size, by which boxes are scaled",
    "unreadable mask": "the mask cannot be decoded; training stops",
    "mask of another size": "the mask has another size than its image; it is resized",
    "mask in colors": "expected class indices, or a color of each class (class_dict.csv)",
    "unknown mask value": "a value or color without a class; training stops",
    "similar class names": "they differ in case or spaces only; rename one of them",
    "unused class": "no image has this class",
    LABEL_ERROR: "the features of the image suggest another label: check it",
}
"""Kinds of findings and their meanings, in the order of the report."""


@dataclass(frozen=True)
class Finding:
    """A problem of one file.

    Attributes:
        key: path relative to the data folder.
        kind: a key of ``FINDINGS``.
        detail: the other file, the error, or the size.
        exclude: whether readers omit the image.
    """

    key: str
    kind: str
    detail: str
    exclude: bool = False


def write_findings(
    path: Path, findings: Sequence[Finding], labels_of: Collection[str] | None = None
) -> str:
    """Write the list that ``DataReader(exclusions=...)`` reads; edits of a user are kept.

    A CSV file with the columns path, finding, detail, exclude ("yes" or "no"). Of the check of
    files and that of labels, each keeps the findings of the other.

    Args:
        path: the list.
        findings: of one of the checks.
        labels_of: keys of the images whose labels were checked; None: the check of files.

    Returns:
        A sentence about the list, its edits, and its effect.
    """
    rows = [(f.key, f.kind, f.detail, "yes" if f.exclude else "no") for f in findings]

    def is_checked(row: Mapping[str, str]) -> bool:
        is_label = row["finding"] == LABEL_ERROR
        return not is_label if labels_of is None else is_label and row["path"] in labels_of

    edits = write_list(path, rows, FINDINGS, is_checked)
    excluded = len(pc.unique(read_exclusions(path)))
    kept = f" {edits:,} edits of the earlier list are kept." if edits else ""
    effect = (
        f"{excluded:,} images have exclude = yes: train.py omits them if the list is check.csv in "
        "the project's folder."
        if excluded
        else "No image is excluded from training."
    )
    count = len(findings)
    return f"{count:,} finding{'s' * (count != 1)}, written to {path}.{kept} {effect}"
