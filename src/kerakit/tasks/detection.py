"""Object detection: boxes with classes, by an anchor-free detector on three feature levels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.data.boxes import BBOX_PARAMS, MIN_SIDE, clip_boxes, visible_boxes
from kerakit.device.detection import Decoder, draw_boxes
from kerakit.errors import UserError
from kerakit.tasks import detection_metrics as metrics
from kerakit.tasks.base import DecodedTask, Names, check_output_shape, select_outputs
from kerakit.tasks.losses import LossFn, inverse_frequencies

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from kerakit.data.placement import Placement
    from kerakit.data.reader import Reader
    from kerakit.report.page import Section
    from kerakit.report.precision_recall import Curve

STRIDES = (8, 16, 32)
"""Strides of the feature levels: pixels per row and column of each."""

MAX_BOXES = 300
"""Most objects of an image that a model is trained on: the loss compares each to all points."""

MIN_SCORE = 0.01
"""Lowest score of the objects that metrics are computed from."""

OVERLAP = 0.6
"""Highest intersection over union of two predicted objects of a class."""

PRIOR = 0.01
"""Objectness before training: most points are background (RetinaNet, arXiv:1708.02002)."""

SIDES = ("left", "upper", "right", "lower")
"""Meaning of the four channels of a box output: distances in strides."""

START_DISTANCE = 2.0
"""Distance from a point to the sides of its box before training, in strides."""


@dataclass(eq=False)
class Objects:
    """Objects predicted in n images.

    Attributes:
        images: per image float32 (objects, 6), the highest score first: left, upper, right and
            lower side as fractions of the input's width and height, score, class index.
        input_size: (width, height) of the input in pixels.
        evaluated: the targets that they were last evaluated on, and the result.

    >>> len(Objects([np.zeros((2, 6), np.float32)], (320, 320)))
    1
    """

    images: list[NDArray[np.float32]]
    input_size: tuple[int, int]
    evaluated: tuple[NDArray[Any], metrics.CocoResult] | None = field(default=None, repr=False)

    def __len__(self) -> int:
        """Return n."""
        return len(self.images)

    def __getitem__(self, i: int) -> NDArray[np.float32]:
        """Return the objects of image ``i``."""
        return self.images[i]


class Detection(DecodedTask):
    """Task that predicts the boxes and classes of all objects of an image.

    Annotations are dictionaries: "boxes", float32 (n, 4), left, upper, right and lower side as
    fractions of the width and height of the upright image; "classes", int32 (n,); "crowd", bool
    (n,): regions with many objects, which are neither trained on nor count as mistakes. Targets are
    float32 (max_boxes, 6): class, sides in pixels of the input, and 1 for an object, -1 for a
    crowd, 0 for padding. Boxes that a border cuts away follow the rule of ``kerakit.data.boxes``.

    The detector is anchor-free: each point of a grid predicts distances to the four sides of a box,
    objectness, and classes. It follows FCOS (arXiv:1904.01355) and YOLOX (arXiv:2107.08430), with
    separable convolutions and ReLU6. The inference model has three outputs per level, so that
    distances, objectness and classes have scales of their own in int8.

    Args:
        class_names: in the order of the outputs.
        filters: channels of the feature pyramid and the branches.
        depth: convolutions per branch.

    Attributes:
        max_boxes: number of rows of a target.
        threshold: lowest score of an object that is shown; it maximizes F1 on validation images.

    >>> task = Detection(["cat", "dog"])
    >>> boxes = np.array([[0.25, 0.25, 0.75, 0.5]], np.float32) * 64
    >>> labels = {"boxes": boxes, "classes": np.array([1]), "crowd": np.array([False])}
    >>> task.encode(labels, (64, 64))[0].tolist()
    [1.0, 16.0, 16.0, 48.0, 32.0, 1.0]
    """

    name = "detection"
    decoder_class = Decoder
    main_metric = "map50"
    monitor = "val_map50"
    mistakes_title = "Most mistakes"
    overlay_note = "Boxes with labels are predicted, white ones are true."
    learned = ("max_boxes", "threshold")
    needs_map = True
    supports_mosaic = True
    frozen = 0.3
    end_to_end = True

    def __init__(self, class_names: Names, filters: int = 96, depth: int = 2) -> None:
        super().__init__(class_names)
        self.filters, self.depth = filters, depth
        self.max_boxes = 100
        self.threshold = 0.4
        self._input_size: tuple[int, int] | None = None

    def spec(self) -> dict[str, Any]:
        """Return classes, strides, and the parameters of the decoder."""
        return {**super().spec(), "strides": list(STRIDES), "overlap": OVERLAP}

    def adapt(self, reader: Reader) -> Self:
        """Set ``max_boxes`` to twice the number of boxes of an image: a mosaic has more."""
        labels: Any = (reader.target(i) for i in range(len(reader)))
        most = max((len(each["boxes"]) for each in labels), default=0)
        self.max_boxes = min(max(16, 2 * most), MAX_BOXES)
        if most > MAX_BOXES:
            print(
                f"WARNING: images have up to {most:,} objects; the {MAX_BOXES} largest ones of an "
                "image are used.",
                flush=True,
            )
        return self

    def balance_classes(self, reader: Reader) -> None:
        """Set class weights to the inverse frequencies of the classes in the training objects."""
        counts = np.zeros(len(self.class_names), np.int64)
        for i in reader.indices("train").tolist():
            labels: Any = reader.target(i)
            objects = np.asarray(labels["classes"])[~np.asarray(labels["crowd"], bool)]
            counts += np.bincount(objects, minlength=len(counts))
        self.class_weights = inverse_frequencies(counts)

    # ---------------------------------------------------------------------------------- annotations

    def resize(self, annotation: Any, placement: Placement) -> dict[str, NDArray[Any]]:
        """Return boxes in pixels of the input; those that are cropped away are beside it.

        Augmentation compares what is left of a box with the whole box; ``encode`` drops the rest.
        """
        return {**annotation, "boxes": placement.boxes(annotation["boxes"])}

    def followers(self, annotation: Any) -> dict[str, Any]:
        """Return the boxes, with class and crowd flag as further columns."""
        columns = (annotation["classes"], annotation["crowd"])
        return {"bboxes": np.column_stack([annotation["boxes"], *columns]).astype(np.float32)}

    def compose_options(self) -> dict[str, Any]:
        """Return the format of the boxes, and which ones are dropped."""
        return {"bbox_params": BBOX_PARAMS}

    def follow(self, annotation: Any, augmented: dict[str, Any]) -> dict[str, NDArray[Any]]:
        """Return the annotation with the augmented boxes."""
        boxes = np.asarray(augmented["bboxes"], np.float32).reshape(-1, 6)
        return {
            **annotation,
            "boxes": boxes[:, :4],
            "classes": boxes[:, 4].astype(np.int32),
            "crowd": boxes[:, 5] > 0,
        }

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> NDArray[np.float32]:
        """Return the target, float32 (max_boxes, 6).

        Of more than ``max_boxes`` boxes, the largest objects remain.
        """
        visible = _visible(annotation, input_size)
        boxes, crowd = visible["boxes"], visible["crowd"]
        if len(boxes) > self.max_boxes:
            area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
            largest = np.sort(np.lexsort((-area, crowd))[: self.max_boxes])
            visible = nested.take(visible, largest)
            boxes, crowd = visible["boxes"], visible["crowd"]
        target = np.zeros((self.max_boxes, 6), np.float32)
        target[: len(boxes), 0] = visible["classes"]
        target[: len(boxes), 1:5] = boxes
        target[: len(boxes), 5] = np.where(crowd, -1, 1)
        return target

    # ------------------------------------------------------------------------------------- training

    def head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return the packed outputs, (batch, points, 4 + 1 + classes).

        For each point, those of the finest level first, row by row: distances to the left, upper,
        right and lower side in strides, and the logits of objectness and classes.

        Raises:
            UserError: the largest stride does not divide width and height of the input, or the
                backbone lacks a level.
        """
        import keras
        from keras import layers

        from kerakit.models.levels import (
            feature_levels,
            feature_pyramid,
            find_input,
            separable_unit,
        )

        image = find_input(features)
        height, width = image.shape[1:3]
        if height % STRIDES[-1] or width % STRIDES[-1]:
            raise UserError(
                f"detection needs an --input_size of multiples of {STRIDES[-1]}, got "
                f"{width},{height}."
            )
        self._input_size = width, height
        levels = feature_levels(features, STRIDES, self.prefix)
        levels = feature_pyramid(levels, self.filters, self.prefix)
        # Logits of random background must not outweigh the prior.
        start = keras.initializers.RandomNormal(stddev=0.01)
        packed = []
        for stride, level in zip(STRIDES, levels, strict=True):
            branches = {"box": level, "class": level}
            for kind in branches:
                for i in range(self.depth):
                    name = f"{self.prefix}{kind}_{stride}_{i}"
                    branches[kind] = separable_unit(branches[kind], self.filters, name)
            outputs = [
                # In float32 even under mixed precision: the loss takes exponentials.
                layers.Conv2D(
                    channels,
                    1,
                    kernel_initializer=start,
                    bias_initializer=keras.initializers.Constant(bias),
                    name=f"{self.prefix}{kind}_{stride}",
                    dtype="float32",
                )(branches["class" if kind == "class" else "box"])
                for kind, channels, bias in (
                    ("box", 4, START_DISTANCE),
                    ("object", 1, -math.log(1 / PRIOR - 1)),
                    ("class", len(self.class_names), 0.0),
                )
            ]
            together = layers.Concatenate(name=f"{self.prefix}level_{stride}_outputs")(outputs)
            packed.append(
                layers.Reshape((-1, together.shape[-1]), name=f"{self.prefix}points_{stride}")(
                    together
                )
            )
        return layers.Concatenate(axis=1, name=f"{self.prefix}points")(packed)

    def find_loss(self, name: str, args: Any, losses: Mapping[str, LossFn]) -> LossFn:
        """Return the loss with its label assignment, for the model that ``head`` built."""
        if name != "auto":
            self._check_unweighted(name)
            return super().find_loss(name, args, losses)
        from kerakit.tasks.detection_loss import DetectionLoss

        if self._input_size is None:
            raise UserError("the loss of detection needs a model built by task.head(features).")
        return DetectionLoss(len(self.class_names), self._input_size, STRIDES, self.class_weights)

    def inference_model(self, model: keras.Model) -> keras.Model:
        """Return the model with outputs box_8, object_8, class_8, and so on for all strides."""
        names = [f"{kind}_{stride}" for stride in STRIDES for kind in ("box", "object", "class")]
        return select_outputs(model, {name: f"{self.prefix}{name}" for name in names})

    def output_labels(self, name: str) -> Sequence[str]:
        """Return the class names for classes, the sides for boxes."""
        return {"class": self.class_names, "box": SIDES}.get(name.split("_")[0], ())

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless ``model`` has one output of (batch, points, 5 + classes)."""
        count = 5 + len(self.class_names)
        check_output_shape(
            model,
            self.name,
            lambda shape: len(shape) == 2 and shape[1] == count,
            f"(batch, points, 5 + {len(self.class_names)} classes), which task.head returns",
        )

    # ----------------------------------------------------------------------------------- evaluation

    def decode(self, outputs: Mapping[str, NDArray[Any]]) -> Objects:
        """Return the objects for the outputs of the inference model, with scores from MIN_SCORE."""
        decoder = Decoder(self.spec(), MIN_SCORE)
        finest = outputs[f"object_{STRIDES[0]}"]
        rows, columns = finest.shape[1:3]
        images = [decoder.decode(nested.take(outputs, i)) for i in range(len(finest))]
        return Objects(images, (columns * STRIDES[0], rows * STRIDES[0]))

    def calibrate(self, predictions: Objects, targets: NDArray[Any]) -> None:
        """Choose the threshold that maximizes the mean F1 of the classes at an IoU of 0.5."""
        matches = metrics.match(predictions.images, self._fractions(predictions, targets))
        self.threshold = metrics.best_threshold(matches, len(self.class_names), self.threshold)

    def score(self, predictions: Objects, targets: NDArray[Any]) -> dict[str, float]:
        """Return the COCO metrics, by faster-coco-eval; see ``detection_metrics.CocoResult``.

        ``map50`` is the mean average precision at an IoU of 0.5, ``map`` that of IoUs from 0.5 to
        0.95, ``map_small``, ``map_medium`` and ``map_large`` that of objects of up to 32, up to 96
        and more pixels squared of the input, ``recall`` the mean recall of at most 100 objects.
        """
        return self._coco(predictions, targets).summary()

    def agreement(self, predictions: Objects, reference: Objects) -> float:
        """Return the F1 of the shown objects against those of the reference, at an IoU of 0.5."""
        one = [each[each[:, 4] >= self.threshold] for each in predictions.images]
        other = [each[each[:, 4] >= self.threshold] for each in reference.images]
        truth = [
            np.column_stack([each[:, 5], each[:, :4], np.ones(len(each))]).astype(np.float32)
            for each in other
        ]
        matches = metrics.match(one, truth)
        total = len(matches.scores) + int(matches.objects.sum())
        return 2 * int(matches.correct.sum()) / total if total else 1.0

    def details(self, predictions: Objects, targets: NDArray[Any]) -> dict[str, Any]:
        """Return the metrics per class; precision, recall and F1 are those at the threshold."""
        coco = self._coco(predictions, targets)
        matches = metrics.match(predictions.images, self._fractions(predictions, targets))
        table = metrics.at_threshold(matches, len(self.class_names), self.threshold)
        return {
            "threshold": self.threshold,
            "classes": {
                "class": list(self.class_names),
                "objects": matches.count_objects(len(self.class_names)).tolist(),
                "ap50": coco.average_precision(0.5),
                "ap": coco.average_precision(),
                **table,
            },
        }

    def mistakes(self, predictions: Objects, targets: NDArray[Any]) -> NDArray[np.int64]:
        """Return the images with missed or false objects, the most of them first."""
        matches = metrics.match(
            [each[each[:, 4] >= self.threshold] for each in predictions.images],
            self._fractions(predictions, targets),
        )
        errors = matches.count_errors(len(predictions))
        found = np.flatnonzero(errors)
        return found[np.argsort(-errors[found], kind="stable")]

    def _coco(self, predictions: Objects, targets: NDArray[Any]) -> metrics.CocoResult:
        """Return the result for these targets; that of the last ones is held by the predictions."""
        if predictions.evaluated is None or predictions.evaluated[0] is not targets:
            predictions.evaluated = targets, self._evaluate(predictions, targets)
        return predictions.evaluated[1]

    def _evaluate(self, predictions: Objects, targets: NDArray[Any]) -> metrics.CocoResult:
        scale = np.array(predictions.input_size * 2, np.float32)
        pixels = [
            np.column_stack([each[:, :4] * scale, each[:, 4:]]) for each in predictions.images
        ]
        return metrics.evaluate_coco(pixels, list(targets), len(self.class_names))

    def _fractions(self, predictions: Objects, targets: NDArray[Any]) -> list[NDArray[np.float32]]:
        scale = np.array([1, *predictions.input_size * 2, 1], np.float32)
        return [target[target[:, 5] != 0] / scale for target in np.asarray(targets, np.float32)]

    # --------------------------------------------------------------------------------- presentation

    def format_annotation(self, target: Any) -> str:
        """Return the number of true objects of each class."""
        classes = target[target[:, 5] > 0, 0].astype(int)
        counts = np.bincount(classes, minlength=len(self.class_names))
        named = [f"{counts[i]} {name}" for i, name in enumerate(self.class_names) if counts[i]]
        return ", ".join(named) or "no object"

    def overlay(
        self, image: NDArray[Any], prediction: Any = None, target: Any = None
    ) -> NDArray[Any]:
        """Return the image with predicted boxes in the color of their class, true ones in white.

        Without a prediction, the true boxes have labels and the color of their class.
        """
        drawn: Any = image
        if target is not None:
            size = np.array([image.shape[1], image.shape[0]] * 2)
            true = target[target[:, 5] != 0]
            rows = np.column_stack([true[:, 1:5] / size, np.full(len(true), np.nan), true[:, 0]])
            color = None if prediction is None else (255, 255, 255)
            drawn = draw_boxes(drawn, rows, self.class_names, color)
        if prediction is not None:
            drawn = self._decoder.draw(drawn, prediction)
        return np.asarray(drawn)

    def _curves(self, predictions: Objects, targets: NDArray[Any]) -> dict[str, Curve]:
        from kerakit.report.precision_recall import Curve

        found = self._coco(predictions, targets).curves(self.class_names)
        return {name: Curve(precision) for name, precision in found.items()}

    def plot(self, predictions: Objects, targets: NDArray[Any]) -> dict[str, Figure]:
        """Return the precision-recall curves of the classes at an IoU of 0.5."""
        from kerakit.report.precision_recall import plot_precision_recall

        curves = self._curves(predictions, targets)
        return {"precision_recall": plot_precision_recall(curves)} if curves else {}

    def report(self, predictions: Mapping[str, Objects], targets: NDArray[Any]) -> list[Section]:
        """Return sections with precision-recall curves and average precision per class."""
        from kerakit.report.precision_recall import precision_recall_section
        from kerakit.report.tables import per_class_section

        curves = {name: self._curves(each, targets) for name, each in predictions.items()}
        tables = {
            name: self.details(each, targets)["classes"] for name, each in predictions.items()
        }
        note = (
            f"Precision, recall and F1 are those of objects with a score of {self.threshold:g} or "
            "more and an IoU of 0.5 with a true one. The threshold maximizes the mean F1 of the "
            "classes on validation images. Sizes of objects are in pixels of the model's input."
        )
        return [
            precision_recall_section(
                curves,
                "Objects count as found at an IoU of 0.5. The area below a curve is its average "
                "precision.",
            ),
            per_class_section(tables, ("ap50", "ap", "f1"), note),
        ]


def _visible(annotation: Mapping[str, Any], size: tuple[int, int]) -> dict[str, NDArray[Any]]:
    """Return the annotation with boxes clipped to the input, without those that are cut away."""
    boxes = np.asarray(annotation["boxes"], np.float32).reshape(-1, 4)
    if _are_visible(boxes, size):  # the usual case, after augmentation
        return {**annotation, "boxes": boxes, "crowd": np.asarray(annotation["crowd"], bool)}
    clipped, left = clip_boxes(boxes, *size)
    kept = visible_boxes(clipped, left)
    return {
        **annotation,
        "boxes": clipped[kept],
        "classes": np.asarray(annotation["classes"], np.int32)[kept],
        "crowd": np.asarray(annotation["crowd"], bool)[kept],
    }


def _are_visible(boxes: NDArray[np.float32], size: tuple[int, int]) -> bool:
    """Whether all boxes are inside the input, with sides that remain."""
    if not len(boxes):
        return True
    low, high = boxes[:, :2], boxes[:, 2:]
    inside = low.min() >= 0 and high[:, 0].max() <= size[0] and high[:, 1].max() <= size[1]
    return bool(inside and (high - low).min() >= MIN_SIDE)
