"""Keypoints: positions of named points of one object per image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from kerakit.data.augment import is_mirrored
from kerakit.device.keypoints import Decoder
from kerakit.errors import UserError, list_names
from kerakit.tasks.base import DecodedTask, Names, check_output_shape, select_outputs
from kerakit.tasks.losses import LossFn

if TYPE_CHECKING:
    import keras

    from kerakit.data.placement import Placement
    from kerakit.report.page import Section

STRIDES = (4, 8, 16, 32)

THRESHOLDS = {"pck": 0.1, "pck@0.05": 0.05, "pck@0.2": 0.2}
"""Largest distance of a correct point by the name of the metric, as a fraction of the extent."""

LARGE_ERROR = 0.1
"""Fraction of the extent from which the distance of a point is listed as a mistake."""

_PRIOR = -4.6
"""First logit of all cells: a score of 0.01, since nearly all cells have no point (CenterNet)."""


class PointPredictions:
    """Predictions of points for n images.

    Attributes:
        points: float64 (n, points, 3): x and y as fractions of width and height of the input, and
            the confidence.
        size: (width, height) of the input in pixels.
    """

    def __init__(self, points: NDArray[np.float64], size: tuple[int, int]) -> None:
        self.points, self.size = points, size

    def __len__(self) -> int:
        """Return n."""
        return len(self.points)

    def __getitem__(self, i: int) -> NDArray[np.float64]:
        """Return the points of image ``i``, float64 (points, 3)."""
        point: NDArray[np.float64] = self.points[i]
        return point

    @property
    def pixels(self) -> NDArray[np.float64]:
        """The positions in pixels of the input, float64 (n, points, 2)."""
        return self.points[..., :2] * self.size


def left_right_pairs(names: Names) -> list[tuple[str, str]]:
    """Return pairs of names that differ in "left" and "right", or "l" and "r" as words.

    >>> left_right_pairs(["nose", "left_eye", "right_eye", "ear-R", "ear-L"])
    [('left_eye', 'right_eye'), ('ear-L', 'ear-R')]
    """
    by_lower = {name.lower(): name for name in names}
    sides = (("left", "right"), (r"(?<![a-z])l(?![a-z])", "r"))
    pairs = []
    for name in names:
        for left, right in sides:
            other = by_lower.get(re.sub(left, right, name.lower()))
            if other is not None and other != name:
                pairs.append((name, other))
                break
    return pairs


class Keypoints(DecodedTask):
    """Task that predicts the positions of named points of one object per image.

    Annotations are ``{"keypoints": float32 (points, 3)}``: x and y as fractions of the image, and
    the visibility: 0 absent, 1 hidden, 2 visible. Targets are float32 (n, points, 3), in pixels of
    the input; a point outside of the input is absent. Outputs are "heatmaps", float32 (n, rows,
    columns, points), logits, and "offsets", float32 (n, rows, columns, 2 * points); in training
    they are one tensor.

    Args:
        class_names: names of the points, in the order of the outputs.
        pairs: names of points that change their roles in a mirrored image: ``[("left_eye",
            "right_eye"), ...]``.
        sigmas: per point, for OKS: standard deviation of labels as a fraction of the object's size,
            as in the evaluation of COCO (0.025 for an eye, 0.107 for a hip).
        skeleton: names of points that are connected by a line in drawings.
        stride: 4, 8, 16 or 32: pixels of the input per cell; width and height are multiples of it.
        channels: number of channels of the decoder.

    >>> task = Keypoints(["left_eye", "right_eye"], pairs=[("left_eye", "right_eye")])
    >>> annotation = {"keypoints": np.float32([[10, 20, 2], [30, 20, 2]])}
    >>> corners = task.followers(annotation)["keypoints"]
    >>> mirrored = {"keypoints": corners * [-1, 1] + [39, 0]}
    >>> task.follow(annotation, mirrored)["keypoints"].tolist()
    [[9.0, 20.0, 2.0], [29.0, 20.0, 2.0]]
    """

    name = "keypoints"
    decoder_class = Decoder
    main_metric = "pck"
    monitor = "val_pck"
    mistakes_title = "Largest distances"
    overlay_note = "Dots are predicted, circles are true points."
    learned = ("stride", "skeleton")
    needs_map = True
    frozen = 0.0

    def __init__(
        self,
        class_names: Names,
        pairs: Sequence[Sequence[str]] = (),
        sigmas: Sequence[float] | None = None,
        skeleton: Sequence[Sequence[str]] = (),
        stride: int = 4,
        channels: int = 96,
    ) -> None:
        super().__init__(class_names)
        if not self.class_names:
            raise UserError("keypoints need the name of at least one point.")
        self.pairs, self.skeleton = (
            [self._checked_pair(name, pair) for pair in values]
            for name, values in (("pairs", pairs), ("skeleton", skeleton))
        )
        paired = [one for pair in self.pairs for one in pair]
        if len(set(paired)) < len(paired):
            raise UserError(f"pairs: a point occurs twice in {list_names(paired)}.")
        if sigmas is not None and (len(sigmas) != len(self.class_names) or min(sigmas) <= 0):
            raise UserError(f"sigmas: expected {len(self.class_names)} numbers above 0.")
        if stride not in STRIDES:
            raise UserError(f"stride is {stride}; expected one of {', '.join(map(str, STRIDES))}.")
        self.sigmas = None if sigmas is None else list(map(float, sigmas))
        self.stride, self.channels = stride, channels
        self._mirrored = np.arange(len(self.class_names))
        for pair in self.pairs:
            first, second = map(self.class_names.index, pair)
            self._mirrored[[first, second]] = second, first

    def _checked_pair(self, name: str, pair: Sequence[str]) -> list[str]:
        if len(pair) != 2 or any(one not in self.class_names for one in pair):
            raise UserError(
                f"{name}: expected pairs of {list_names(self.class_names)}, got {tuple(pair)!r}."
            )
        return list(pair)

    # ---------------------------------------------------------------------------------- annotations

    def resize(self, annotation: Any, placement: Placement) -> dict[str, NDArray[np.float32]]:
        """Return the points in pixels of the model's input."""
        points = np.asarray(annotation["keypoints"], np.float32)
        if points.shape != (len(self.class_names), 3):
            raise UserError(
                f"keypoints have the shape {points.shape}; expected "
                f"({len(self.class_names)}, 3): x, y and visibility of each point."
            )
        moved = placement.points(points[:, :2])
        return {"keypoints": np.concatenate([moved, points[:, 2:]], axis=1)}

    def followers(self, annotation: Any) -> dict[str, Any]:
        """Return the positions, and after them three points that show whether it is mirrored."""
        points = annotation["keypoints"]
        return {"keypoints": np.concatenate([points[:, :2], _REFERENCE])}

    def compose_options(self) -> dict[str, Any]:
        """Return the parameters of keypoints: all stay, those outside of the image too."""
        import albumentations as A  # noqa: N812 - as in its documentation

        return {"keypoint_params": A.KeypointParams(format="xy", remove_invisible=False)}

    def follow(self, annotation: Any, augmented: dict[str, Any]) -> dict[str, Any]:
        """Return moved points; if the image is mirrored, ``pairs`` have changed their roles."""
        moved = np.asarray(augmented["keypoints"], np.float32)[:, :2]
        points = np.concatenate([moved[:-3], annotation["keypoints"][:, 2:]], axis=1)
        mirrored = is_mirrored(_REFERENCE, moved[-3:])
        return {**annotation, "keypoints": points[self._mirrored] if mirrored else points}

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> NDArray[np.float32]:
        """Return x, y in pixels, and visibility, float32 (points, 3); 0, 0, 0 of absent points."""
        points = np.array(annotation["keypoints"], np.float32)
        places = points[:, :2]
        inside = (np.isfinite(places) & (places >= 0) & (places < input_size)).all(axis=1)
        points[~inside | ~(points[:, 2] > 0)] = 0
        return points

    # ------------------------------------------------------------------------------------- training

    def head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return heatmaps and offsets, (batch, rows, columns, 3 * points).

        A feature pyramid on the backbone's feature maps of ``stride`` and above.
        """
        from keras import initializers, layers

        from kerakit.models.levels import feature_levels, feature_pyramid

        strides = [one for one in STRIDES if one >= self.stride]
        levels = feature_levels(features, strides, self.prefix)
        x = feature_pyramid(levels, self.channels, self.prefix)[0]
        count = len(self.class_names)
        # In float32 even under mixed precision: the loss takes logarithms.
        heatmaps = layers.Conv2D(
            count,
            1,
            bias_initializer=initializers.Constant(_PRIOR),
            name=f"{self.prefix}heatmaps",
            dtype="float32",
        )
        offsets = layers.Conv2D(2 * count, 1, name=f"{self.prefix}offsets", dtype="float32")
        packed = layers.Concatenate(name=f"{self.prefix}packed", dtype="float32")
        return packed([heatmaps(x), offsets(x)])

    def inference_model(self, model: keras.Model) -> keras.Model:
        """Return the model with separate heatmaps and offsets, which have a scale each in int8."""
        names = ("heatmaps", "offsets")
        return select_outputs(model, {name: f"{self.prefix}{name}" for name in names})

    def output_labels(self, name: str) -> Sequence[str]:
        """Return the names of the points for heatmaps."""
        return self.class_names if name == "heatmaps" else ()

    @property
    def default_metrics(self) -> tuple[Any, ...]:  # type: ignore[override]
        """PCK at 0.1."""
        from kerakit.tasks.keypoint_losses import PCK

        return (PCK(len(self.class_names), self.stride),)

    def find_loss(self, name: str, args: Any, losses: Mapping[str, LossFn]) -> LossFn:
        """Return a loss by its name; "auto": focal loss of heatmaps, L1 distance of offsets."""
        from kerakit.tasks.keypoint_losses import keypoint_loss

        if name == "auto":
            return keypoint_loss(len(self.class_names), self.stride)
        return super().find_loss(name, args, losses)

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless the outputs of ``model``, or of its inference model, fit."""
        count = len(self.class_names)
        if isinstance(getattr(model, "output", None), dict):  # of ``inference_model``
            return
        text = f"(batch, rows, columns, {3 * count}): heatmaps and offsets of {count} points"
        check_output_shape(
            model, self.name, lambda shape: len(shape) == 3 and shape[-1] == 3 * count, text
        )
        height, width = model.input_shape[1:3]
        rows, columns = model.outputs[0].shape[1:3]
        if (rows * self.stride, columns * self.stride) != (height, width):
            raise UserError(
                f"the heatmaps have {columns} by {rows} cells of {self.stride} pixels; the input "
                f"has {width} by {height} pixels. Choose an --input_size of multiples of "
                f"{self.stride}."
            )

    # ----------------------------------------------------------------------------------- evaluation

    def decode(self, outputs: Any) -> PointPredictions:
        """Return the points for heatmaps and offsets (n, rows, columns, ...)."""
        heatmaps, offsets = outputs["heatmaps"], outputs["offsets"]
        points = [
            self._decoder.decode({"heatmaps": heatmap, "offsets": offset})
            for heatmap, offset in zip(heatmaps, offsets, strict=True)
        ]
        rows, columns = heatmaps.shape[1:3]
        return PointPredictions(np.stack(points), (columns * self.stride, rows * self.stride))

    def _distances(self, predictions: PointPredictions, targets: NDArray[Any]) -> NDArray[Any]:
        """Return distances as fractions of the extent, (n, points); NaN for absent points."""
        targets = np.asarray(targets, np.float64)
        distances = np.linalg.norm(predictions.pixels - targets[..., :2], axis=-1)
        extent = _measure_extent(targets, max(predictions.size))
        return np.where(targets[..., 2] > 0, distances / extent[:, None], np.nan)

    def score(self, predictions: PointPredictions, targets: NDArray[Any]) -> dict[str, float]:
        """Return PCK at 0.1, 0.05 and 0.2, the mean distance, and OKS where there are sigmas.

        PCK (percentage of correct keypoints; Yang and Ramanan 2013): the fraction of the points,
        visible or hidden, whose distance is at most this fraction of the extent: the longer side of
        the box around the true points of the image (of the input if there is only one point). The
        mean distance has the same unit. OKS is that of COCO, with the area of this box, averaged
        over the images.
        """
        distances = self._distances(predictions, targets)
        present = np.isfinite(distances)
        if not present.any():
            raise UserError("no point of the held-out images is present.")
        found = distances[present]
        scores = {name: float((found <= limit).mean()) for name, limit in THRESHOLDS.items()}
        scores["mean_distance"] = float(found.mean())
        if self.sigmas is not None:
            scores["oks"] = self._oks(predictions, targets, present)
        return scores

    def _oks(
        self, predictions: PointPredictions, targets: NDArray[Any], present: NDArray[np.bool_]
    ) -> float:
        """Return the mean object keypoint similarity of the images that have points."""
        squared = np.square(predictions.pixels - targets[..., :2]).sum(axis=-1)
        low, high = _find_box(np.asarray(targets, np.float64))
        area = np.prod(high - low, axis=-1)
        side = _measure_extent(np.asarray(targets, np.float64), max(predictions.size))
        area = np.where(area > 0, area, side**2)
        similarity = np.exp(-squared / (2 * area[:, None] * np.square(2 * np.asarray(self.sigmas))))
        counts = present.sum(axis=1)
        totals = np.where(present, similarity, 0).sum(axis=1)
        return float((totals[counts > 0] / counts[counts > 0]).mean())

    def agreement(self, predictions: PointPredictions, reference: PointPredictions) -> float:
        """Return the fraction of points whose positions differ by less than 2 % of the input."""
        distances = np.linalg.norm(predictions.pixels - reference.pixels, axis=-1)
        return float((distances < 0.02 * max(predictions.size)).mean())

    def details(self, predictions: PointPredictions, targets: NDArray[Any]) -> dict[str, Any]:
        """Return the metrics per point."""
        distances = self._distances(predictions, targets)
        present = np.isfinite(distances)
        columns: dict[str, list[Any]] = {
            "point": list(self.class_names),
            "images": present.sum(axis=0).tolist(),
        }
        for name, limit in THRESHOLDS.items():
            columns[name] = _means(distances <= limit, present)
        columns["mean_distance"] = _means(distances, present)
        return {"classes": columns}

    def mistakes(self, predictions: PointPredictions, targets: NDArray[Any]) -> NDArray[np.int64]:
        """Return the images with a point 10 % of the extent off or more, the largest first."""
        worst = np.nan_to_num(self._distances(predictions, targets), nan=0).max(axis=1)
        found = np.flatnonzero(worst > LARGE_ERROR)
        return found[np.argsort(-worst[found], kind="stable")]

    # --------------------------------------------------------------------------------- presentation

    def format_annotation(self, target: Any) -> str:
        """Return the names of the points that are present."""
        present = [name for name, one in zip(self.class_names, target, strict=True) if one[2] > 0]
        if len(present) == len(self.class_names):
            return f"all {len(present)} points"
        return list_names(present) if present else "no point"

    def draw(self, image: NDArray[Any], prediction: Any, target: Any = None) -> Image.Image:
        """Return the image with points, and their names below it; circles: true points."""
        if target is None:
            drawn: Image.Image = self._decoder.draw(image, prediction)
            return drawn
        return super().draw(image, prediction, target)

    def overlay(
        self, image: NDArray[Any], prediction: Any = None, target: Any = None
    ) -> NDArray[Any]:
        """Return the image with dots at predicted and circles at true points."""
        if target is not None:
            target = np.asarray(target, np.float64)
            size = image.shape[1], image.shape[0]
            points = np.concatenate([target[:, :2] / size, target[:, 2:] > 0], axis=1)
            image = self._decoder.overlay(image, points, filled=False)
        return image if prediction is None else self._decoder.overlay(image, prediction)

    def report(
        self, predictions: Mapping[str, PointPredictions], targets: NDArray[Any]
    ) -> list[Section]:
        """Return a section with the metrics per point."""
        from kerakit.report.tables import per_class_section

        columns = {
            name: self.details(each, targets)["classes"] for name, each in predictions.items()
        }
        note = (
            "PCK: fraction of the points within 10 % (5 %, 20 %) of the longer side of the box "
            "around the true points. Mean distance: in the same unit."
        )
        return [per_class_section(columns, ("pck", "mean_distance"), note)]


_REFERENCE = np.array([[8, 8], [16, 8], [8, 16]], np.float32)
"""Points whose orientation changes in a mirrored image: a corner, right of it, below it."""


def _find_box(targets: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the corners of the boxes around the present points, (n, 2) each; NaN without any."""
    present = targets[..., 2:] > 0
    low = np.where(present, targets[..., :2], np.inf).min(axis=1)
    high = np.where(present, targets[..., :2], -np.inf).max(axis=1)
    return low, high


def _measure_extent(targets: NDArray[np.float64], side: float) -> NDArray[np.float64]:
    """Return the longer side of the box around the present points, (n,); of one point: ``side``."""
    low, high = _find_box(targets)
    extent = (high - low).max(axis=-1)
    return np.where((extent > 0) & np.isfinite(extent), extent, side)


def _means(values: NDArray[Any], present: NDArray[np.bool_]) -> list[float | None]:
    """Return the mean per column over the rows where it is present; None without any."""
    return [
        float(column[rows].mean()) if rows.any() else None
        for column, rows in zip(values.T, present.T, strict=True)
    ]
