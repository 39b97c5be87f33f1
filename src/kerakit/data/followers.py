"""Boxes and keypoints that follow an image through the transforms of albumentations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import albumentations as A  # noqa: N812 - its documentation calls it A
import cv2
import numpy as np
from numpy.typing import NDArray

from kerakit.data.boxes import clip_boxes, visible_boxes
from kerakit.data.distortions import follow_distortions
from kerakit.device.segmentation import IGNORED
from kerakit.errors import UserError

_RESIZING = {
    "albumentations.augmentations.crops.transforms",
    "albumentations.augmentations.geometric.resize",
}
"""Modules of the transforms that resize images."""

# Columns of a box: x1, y1, x2, y2 as fractions, row of the original, fraction of its area left.
_ROW, _LEFT = 4, 5


class FollowingPipeline:
    """The transforms of a ``Compose``, with boxes and keypoints in pixels of the input.

    In the place of the processors of a ``Compose``, which take 0.7 ms per image for 15 boxes (this
    class: 0.1 ms), clip each box at every transform and compare its area with that before the same
    transform alone. Coordinates are positions on the image, from 0 to its width; albumentations
    counts those of keypoints from the center of the first pixel.

    Args:
        pipeline: an ``albumentations.Compose``. Thresholds of its own ``bbox_params`` replace those
            of ``options``.
        options: ``bbox_params`` of the format "pascal_voc" and ``keypoint_params`` of the format
            "xy", as of ``A.Compose``. All keypoints remain, those outside of the image too.

    Raises:
        UserError: the options have another format, or a transform tears objects apart. When called:
            a transform changed the number of keypoints.
    """

    def __init__(self, pipeline: Any, options: Mapping[str, Any]) -> None:
        self._boxes = _params(options, "bbox_params", A.BboxParams, "pascal_voc")
        _params(options, "keypoint_params", A.KeypointParams, "xy")
        own = getattr(pipeline, "processors", {}).get("bboxes")
        self._rule = self._boxes if own is None else own.params
        if isinstance(pipeline, A.Compose):
            self._sequence = A.Sequential(pipeline.transforms, p=pipeline.p)
        else:
            self._sequence = A.Sequential([pipeline], p=1)
        leaves = list(_leaves(self._sequence))
        follow_distortions(leaves)
        if "bbox_params" in options and any(
            isinstance(leaf, A.RandomGridShuffle) for leaf in leaves
        ):
            raise UserError(
                "get_aug_pipeline(): RandomGridShuffle tears objects apart, so they have no boxes. "
                "Remove it."
            )
        self._tracker = _BoxTracker(leaf for leaf in leaves if _is_dropout(leaf))
        for compose in _composes(self._sequence):
            compose.check_data_post_transform = self._tracker.follow
        for leaf in leaves:
            leaf.set_processors({})

    def set_random_state(self, *generators: Any) -> None:
        """Pass random generators to all transforms."""
        self._sequence.set_random_state(*generators)

    def __call__(self, **data: Any) -> dict[str, Any]:
        """Return ``image``, ``mask``, ``bboxes``, ``keypoints`` and other data, augmented."""
        inputs = dict(data)
        height, width = data["image"].shape[:2]
        if "bboxes" in data:
            inputs["bboxes"] = _to_fractions(_table(data["bboxes"], 4), width, height)
            self._tracker.start(inputs["bboxes"])
        if "keypoints" in data:
            points = _table(data["keypoints"], 2)
            inputs["keypoints"] = np.zeros((len(points), 5))
            inputs["keypoints"][:, :2] = points[:, :2] - 0.5
        outputs: dict[str, Any] = self._sequence(**inputs)
        if "keypoints" in data:
            outputs["keypoints"] = _to_positions(outputs["keypoints"], points)
        if "bboxes" in data:
            self._restore_boxes(outputs, data)
        return outputs

    def _restore_boxes(self, outputs: dict[str, Any], data: Mapping[str, Any]) -> None:
        """Set ``bboxes`` in pixels, without those that are mostly cut away, and their labels."""
        boxes = outputs["bboxes"]
        height, width = outputs["image"].shape[:2]
        boxes[:, :4] *= np.array((width, height, width, height))
        rule = self._rule
        remaining = visible_boxes(
            boxes, boxes[:, _LEFT], rule.min_visibility, (rule.min_width, rule.min_height)
        )
        boxes = boxes[remaining]
        rows = boxes[:, _ROW].astype(np.intp)
        moved = _table(data["bboxes"], 4, np.float32)[rows]
        moved[:, :4] = boxes[:, :4]
        outputs["bboxes"] = moved
        for name in self._boxes.label_fields or ():
            outputs[name] = np.asarray(data[name])[rows]


class _BoxTracker:
    """Clips boxes after each transform, and records the fraction of their area that is left."""

    def __init__(self, dropouts: Iterator[Any]) -> None:
        self._dropouts = list(dropouts)
        self._seen: Any = None

    def start(self, boxes: NDArray[np.float64]) -> None:
        """Begin with the boxes of another image, (n, 6), which are inside of it."""
        self._seen = boxes

    def follow(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return the data after a transform: ``image``, and ``bboxes``, (n, 6), clipped.

        A composition calls it in the place of its own check, which costs more where no box moved.
        """
        boxes = data.get("bboxes")
        if boxes is None:
            return data
        if boxes is not self._seen and len(boxes):
            boxes, left = clip_boxes(boxes, 1, 1)
            boxes[:, _LEFT] *= left
        for dropout in self._dropouts:
            if dropout.params:
                boxes[:, _LEFT] *= 1 - _covered(boxes, dropout.params["holes"], data["image"].shape)
                dropout.params = {}
        self._seen = data["bboxes"] = boxes
        return data


def _table(values: Any, columns: int, dtype: Any = np.float64) -> NDArray[Any]:
    """Return rows of numbers as an array, also where there are none."""
    table: NDArray[Any] = np.asarray(values, dtype)
    return table if table.ndim == 2 else table.reshape(-1, columns)


def _to_fractions(bboxes: NDArray[np.float64], width: int, height: int) -> NDArray[np.float64]:
    """Return boxes in pixels as clipped fractions, with rows and fractions left, (n, 6)."""
    clipped, left = clip_boxes(bboxes, width, height)
    boxes = np.empty((len(bboxes), 6))
    np.divide(clipped[:, :4], np.array((width, height, width, height)), out=boxes[:, :4])
    boxes[:, _ROW] = np.arange(len(boxes))
    boxes[:, _LEFT] = left
    return boxes


def _to_positions(moved: NDArray[Any], points: NDArray[Any]) -> NDArray[np.float32]:
    """Return keypoints as they were, float32 (n, 2 or more), in their new places."""
    if len(moved) != len(points):
        raise UserError(
            f"get_aug_pipeline() made {len(moved)} keypoints of {len(points)}. A transform that "
            "reflects the image at its border repeats keypoints: use cv2.BORDER_CONSTANT."
        )
    positions = points.astype(np.float32)
    positions[:, :2] = moved[:, :2] + 0.5
    return positions


def _covered(
    boxes: NDArray[np.float64], holes: NDArray[Any], shape: tuple[int, ...]
) -> NDArray[np.float64]:
    """Return the fraction of each box that holes in pixels of an image of a shape cover, (n,)."""
    height, width = shape[:2]
    sides = np.array([width, height, width, height])
    x1, y1, x2, y2 = (boxes[:, :4] * sides).T[:, :, None]
    left, top, right, bottom = np.reshape(holes, (-1, 4)).T[:, None, :]
    widths = np.clip(np.minimum(x2, right) - np.maximum(x1, left), 0, None)
    heights = np.clip(np.minimum(y2, bottom) - np.maximum(y1, top), 0, None)
    area = np.maximum((x2 - x1) * (y2 - y1), 1e-9)[:, 0]
    fraction: NDArray[np.float64] = np.minimum((widths * heights).sum(axis=1) / area, 1)
    return fraction


def _params(options: Mapping[str, Any], name: str, kind: Any, fmt: str) -> Any:
    """Return parameters of ``A.Compose``, or their defaults, checked."""
    params = options.get(name) or {"format": fmt}
    params = kind(**params) if isinstance(params, Mapping) else params
    if params.format != fmt:
        raise UserError(
            f"{name} of compose_options() have the format {params.format!r}; expected {fmt!r}, "
            "in pixels of the input."
        )
    return params


def _composes(transform: Any) -> Iterator[Any]:
    """Yield a compose and all that it contains."""
    if hasattr(transform, "transforms"):
        yield transform
        for inner in transform.transforms:
            yield from _composes(inner)


def _leaves(transform: Any) -> Iterator[Any]:
    """Yield the transforms of nested composes."""
    if not hasattr(transform, "transforms"):
        yield transform
    for inner in getattr(transform, "transforms", ()):
        yield from _leaves(inner)


def _is_dropout(transform: Any) -> bool:
    """Whether a transform covers rectangles of the image."""
    return any(base.__name__ == "BaseDropout" for base in type(transform).__mro__)


def follow_masks(pipeline: Any) -> None:
    """Let the transforms of a pipeline move masks as exactly as images.

    What they add to a mask is IGNORED; their default is 0, which is the first class. What they
    resize is the nearest pixel; ``cv2.INTER_NEAREST``, their default, is up to half a pixel off.
    """
    for transform in _leaves(pipeline):
        if getattr(transform, "fill_mask", None) == 0 and not _is_dropout(transform):
            transform.fill_mask = float(IGNORED)
        resizes = any(base.__module__ in _RESIZING for base in type(transform).__mro__)
        if resizes and getattr(transform, "mask_interpolation", None) == cv2.INTER_NEAREST:
            transform.mask_interpolation = cv2.INTER_NEAREST_EXACT
