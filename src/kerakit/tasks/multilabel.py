"""Multi-label classification: any number of classes per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit.device.multilabel import Decoder
from kerakit.errors import UserError
from kerakit.tasks.base import (
    ClassColumn,
    DecodedTask,
    Names,
    check_class_count,
    check_finite_outputs,
    check_output_shape,
    pool,
)
from kerakit.tasks.losses import LossFn, find_loss, weigh_positives

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from kerakit.data.reader import Reader
    from kerakit.report.page import Section
    from kerakit.report.precision_recall import Curve

MAX_WEIGHT = 100.0
"""Largest weight of the positive labels of a class; 1 / MAX_WEIGHT is the smallest one."""

MIN_POSITIVES = 5
"""Fewest validation images of a class for a threshold of its own; below, it is 0.5."""


class MultiLabel(DecodedTask):
    """Task that predicts the set of classes of an image, each by a score of its own.

    Annotations and targets are multi-hot, float32 (classes,): 1 for the classes of the image.
    Outputs are scores, float32 (n, classes), from 0 to 1. A class is predicted if its score reaches
    its threshold, which maximizes F1 on validation images.

    Args:
        class_names: in the order of the outputs.

    Attributes:
        thresholds: one per class.

    >>> task = MultiLabel(["cat", "dog"])
    >>> outputs = np.array([[0.9, 0.2], [0.7, 0.6]], np.float32)
    >>> task.score(task.decode(outputs), np.array([[1, 0], [1, 1]]))["macro_f1"]
    1.0
    """

    name = "multilabel"
    decoder_class = Decoder
    has_coordinates = False
    mix_methods = ("mixup", "cutmix")
    column = "set"
    main_metric = "average_precision"
    default_loss = "binary_crossentropy"
    default_metrics = ("binary_accuracy",)
    learned = ("thresholds",)

    def __init__(self, class_names: Names) -> None:
        super().__init__(class_names)
        self.thresholds = [0.5] * len(self.class_names)

    def balance_classes(self, reader: Reader) -> None:
        """Set class weights to the factors by which positive labels weigh as much as negative ones.

        Per class the number of images without it over that of images with it, as PyTorch's
        documentation of ``pos_weight`` recommends, from 1 / MAX_WEIGHT to MAX_WEIGHT.
        """
        indices = reader.indices("train").tolist()
        counts = np.zeros(len(self.class_names), np.int64)
        for i in indices:
            counts += np.asarray(reader.target(i)) > 0
        ratios = (len(indices) - counts) / np.maximum(counts, 1)
        ratios[counts == 0] = 1
        self.class_weights = np.clip(ratios, 1 / MAX_WEIGHT, MAX_WEIGHT).tolist()

    def soft_targets(self, targets: Any, method: str) -> NDArray[np.float32]:
        """Return the targets: they are vectors already."""
        return np.asarray(targets, np.float32)

    # ------------------------------------------------------------------------------------- training

    def head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return a score per class, (batch, classes), from a map or averaged features."""
        from keras import layers

        dense = layers.Dense(
            len(self.class_names),
            activation="sigmoid",
            name=f"{self.prefix}scores",
            dtype="float32",
        )
        return dense(layers.Dropout(0.2)(pool(features)))

    def find_loss(self, name: str, args: Any, losses: Mapping[str, LossFn]) -> LossFn:
        """Return a loss; binary cross-entropy with label smoothing and class weights.

        Raises:
            UserError: there are class weights, and the loss is another one.
        """
        loss = super().find_loss(name, args, losses)
        cross_entropy = find_loss("binary_crossentropy", {})
        if loss is not cross_entropy:
            self._check_unweighted(name)
            return loss
        if args.label_smoothing:

            def loss(targets: Any, predictions: Any) -> Any:
                smoothed: Any = cross_entropy
                return smoothed(targets, predictions, label_smoothing=args.label_smoothing)

            loss.__name__ = "binary_crossentropy"  # for messages
        return loss if self.class_weights is None else weigh_positives(loss, self.class_weights)

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless ``model`` has one output of (batch, classes)."""
        check_output_shape(model, self.name, lambda shape: len(shape) == 1, "(batch, classes)")
        check_class_count(model, self)

    def check_outputs(self, outputs: NDArray[Any]) -> None:
        """Raise UserError unless ``outputs``, (n, classes), are from 0 to 1."""
        check_finite_outputs(outputs)
        if outputs.min() < -0.01 or outputs.max() > 1.01:
            raise UserError(
                f"the outputs of the model are not scores from 0 to 1: they range from "
                f"{outputs.min():.3g} to {outputs.max():.3g}. End the model with task.head(x) or a "
                "sigmoid, and use a loss of probabilities (without from_logits)."
            )

    # ----------------------------------------------------------------------------------- evaluation

    def calibrate(self, predictions: NDArray[Any], targets: NDArray[Any]) -> None:
        """Choose the threshold per class that maximizes F1 on validation images.

        A class with fewer than MIN_POSITIVES of them keeps 0.5.
        """
        from sklearn.metrics import precision_recall_curve

        thresholds = [0.5] * len(self.class_names)
        for i in range(len(self.class_names)):
            if targets[:, i].sum() < MIN_POSITIVES:
                continue
            precision, recall, values = precision_recall_curve(targets[:, i] > 0, predictions[:, i])
            f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-9)
            best = np.flatnonzero(f1[:-1] >= f1[:-1].max() - 1e-9)
            # The middle between the lowest score that counts and the next lower one.
            at = int(best[len(best) // 2])
            below = values[at - 1] if at else 0.0
            thresholds[i] = round(float((values[at] + below) / 2), 4)
        self.thresholds = thresholds

    def _present(self, scores: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(scores >= np.asarray(self.thresholds))

    def score(self, predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """Return macro average precision, macro and micro F1, and the exact-match ratio.

        Averages over classes leave out those without positive images.
        """
        from sklearn.metrics import f1_score

        present, true = self._present(predictions), np.asarray(targets) > 0
        measured = true.any(axis=0)
        both = _indicators(true), _indicators(present)
        f1 = f1_score(*both, average=None, zero_division=0)[:-1][measured]
        return {
            "average_precision": _mean(self._average_precision(predictions, true)),
            "macro_f1": float(f1.mean()) if measured.any() else 0.0,
            "micro_f1": float(f1_score(*both, average="micro", zero_division=0)),
            "exact_match": float((present == true).all(axis=1).mean()),
        }

    def _average_precision(
        self, predictions: NDArray[Any], true: NDArray[np.bool_]
    ) -> list[float | None]:
        """Return the average precision per class; None for a class without positive images."""
        from sklearn.metrics import average_precision_score

        return [
            float(average_precision_score(true[:, i], predictions[:, i]))
            if true[:, i].any()
            else None
            for i in range(true.shape[1])
        ]

    def agreement(self, predictions: NDArray[Any], reference: NDArray[Any]) -> float:
        """Return the fraction of images with the same set of labels."""
        return float((self._present(predictions) == self._present(reference)).all(axis=1).mean())

    def details(self, predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, Any]:
        """Return metrics and thresholds per class."""
        from sklearn.metrics import precision_recall_fscore_support

        true = np.asarray(targets) > 0
        both = _indicators(true), _indicators(self._present(predictions))
        found = precision_recall_fscore_support(*both, average=None, zero_division=0)
        precision, recall, f1, images = (values[:-1] for values in found)
        return {
            "classes": {
                "class": list(self.class_names),
                "images": images.tolist(),
                "average_precision": self._average_precision(predictions, true),
                "precision": precision.tolist(),
                "recall": recall.tolist(),
                "f1": f1.tolist(),
                "threshold": list(self.thresholds),
            }
        }

    def mistakes(self, predictions: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64]:
        """Return the images with another set of labels, the most confident first."""
        wrong = self._present(predictions) != (np.asarray(targets) > 0)
        distance = np.where(wrong, np.abs(predictions - np.asarray(self.thresholds)), 0).max(axis=1)
        found = np.flatnonzero(wrong.any(axis=1))
        return found[np.argsort(-distance[found], kind="stable")]

    # --------------------------------------------------------------------------------- presentation

    def class_columns(self, targets: NDArray[Any]) -> dict[str, ClassColumn]:
        """Return whether each image has a label, per label."""
        return {
            name: ClassColumn(("no", "yes"), np.asarray(of_label, np.int64))
            for name, of_label in zip(self.class_names, np.asarray(targets).T, strict=True)
        }

    def format_annotation(self, target: Any) -> str:
        """Return the true labels."""
        return ", ".join(self.class_names[i] for i in np.flatnonzero(target)) or "no label"

    def _curves(self, predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, Curve]:
        """Return the curves of the classes with positive images."""
        from sklearn.metrics import precision_recall_curve

        from kerakit.report.precision_recall import RECALLS, Curve

        true, present = np.asarray(targets) > 0, self._present(predictions)
        averages = self._average_precision(predictions, true)
        curves = {}
        for i, name in enumerate(self.class_names):
            if not true[:, i].any():
                continue
            precision, recall, _ = precision_recall_curve(true[:, i], predictions[:, i])
            # The highest precision at this recall or more, as in the evaluation of COCO.
            highest = np.maximum.accumulate(precision)
            at = np.searchsorted(-recall, 1e-9 - RECALLS, side="right") - 1
            found, correct = present[:, i].sum(), (present & true)[:, i].sum()
            point = (correct / true[:, i].sum(), correct / found) if found else None
            curves[name] = Curve(highest[at], averages[i], point)
        return curves

    def plot(self, predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, Figure]:
        """Return the precision-recall curves of the classes."""
        from kerakit.report.precision_recall import plot_precision_recall

        curves = self._curves(predictions, targets)
        if not curves:
            return {}
        return {"precision_recall": plot_precision_recall(curves, "average precision")}

    def report(
        self, predictions: Mapping[str, NDArray[Any]], targets: NDArray[Any]
    ) -> list[Section]:
        """Return sections with precision-recall curves and metrics per class."""
        from kerakit.report.precision_recall import precision_recall_section
        from kerakit.report.tables import per_class_section

        columns = {
            name: self.details(each, targets)["classes"] for name, each in predictions.items()
        }
        note = (
            "A class is predicted if its score reaches its threshold, which maximizes F1 on "
            f"validation images; with fewer than {MIN_POSITIVES} of them it is 0.5."
        )
        curves = {name: self._curves(each, targets) for name, each in predictions.items()}
        marks = "Dots: recall and precision at the threshold of the class."
        return [
            precision_recall_section(curves, marks, "average precision"),
            per_class_section(columns, ("average_precision", "f1"), note),
        ]


def _indicators(labels: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Return labels (n, classes) with a class that is always absent.

    scikit-learn would read one column as two classes, absent and present.
    """
    return np.pad(labels.astype(np.int8), ((0, 0), (0, 1)))


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else 0.0
