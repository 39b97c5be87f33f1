"""Classification: one class per image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit import metrics
from kerakit.data.labels import are_measurements
from kerakit.device.classification import Decoder
from kerakit.errors import UserError, list_names
from kerakit.tasks.base import (
    ClassColumn,
    DecodedTask,
    check_class_count,
    check_finite_outputs,
    check_output_shape,
    pool,
)
from kerakit.tasks.losses import (
    LossFn,
    find_loss,
    inverse_frequencies,
    smooth_labels,
    weigh_classes,
)

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from kerakit.data.reader import Reader
    from kerakit.report.page import Section


MAX_PLOTTED_CLASSES = 100
"""Number of classes up to which a confusion matrix is plotted."""

MAX_NUMBERS = 20
"""Number of classes up to which they may be named by numbers such as 0.5."""

TOLERANCE = 0.01
"""Largest deviation of the sum of probabilities from 1; float16 rounds each to 0.0005."""


@dataclass(frozen=True)
class ClassPredictions:
    """Predictions of classes for n images.

    Attributes:
        scores: float32 (n, classes).

    >>> ClassPredictions(np.array([[0.9, 0.1], [0.4, 0.6]], np.float32)).classes
    array([0, 1])
    """

    scores: NDArray[np.float32]

    @property
    def classes(self) -> NDArray[np.int64]:
        """The predicted class indices, int64 (n,)."""
        classes: NDArray[np.int64] = self.scores.argmax(axis=1)
        return classes

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The scores of the predicted classes, float32 (n,)."""
        confidence: NDArray[np.float32] = self.scores.max(axis=1)
        return confidence

    def __len__(self) -> int:
        """Return n."""
        return len(self.scores)

    def __getitem__(self, i: int) -> NDArray[np.float32]:
        """Return the scores of image ``i``, (classes,)."""
        scores: NDArray[np.float32] = self.scores[i]
        return scores


class Classification(DecodedTask):
    """Task that predicts one class per image.

    Annotations and targets are class indices, int32 (); outputs are scores, float32 (n, classes).

    Args:
        class_names: in the order of the outputs.

    >>> task = Classification(["cat", "dog"])
    >>> predictions = task.decode(np.array([[0.9, 0.1], [0.6, 0.4]]))
    >>> task.score(predictions, np.array([0, 1]))["accuracy"]
    0.5
    """

    name = "classification"
    decoder_class = Decoder
    has_coordinates = False
    mix_methods = ("mixup", "cutmix")
    column = "class"
    main_metric = "accuracy"
    default_loss = "sparse_categorical_crossentropy"
    default_metrics = ("accuracy",)

    def balance_classes(self, reader: Reader) -> None:
        """Set class weights to the inverse frequencies of the classes in the training images."""
        targets: list[Any] = [reader.target(i) for i in reader.indices("train").tolist()]
        if any(np.ndim(one) or np.asarray(one).dtype.kind not in "iu" for one in targets):
            raise UserError(
                "--class_weights needs one class index per image as the annotation. Omit it."
            )
        counts = np.bincount(np.array(targets, np.int64), minlength=len(self.class_names))
        self.class_weights = inverse_frequencies(counts)

    # ------------------------------------------------------------------------------------- training

    def soft_targets(self, targets: Any, method: str) -> NDArray[np.float32]:
        """Return class indices, (batch,), as one-hot labels, float32 (batch, classes)."""
        if not (
            isinstance(targets, np.ndarray) and targets.ndim == 1 and targets.dtype.kind in "iu"
        ):
            raise UserError(
                f"--{method} needs one class index per image as the target. Omit --{method}."
            )
        return np.eye(len(self.class_names), dtype=np.float32)[targets]

    def head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return class probabilities, (batch, classes).

        Args:
            features: features of a backbone: (batch, height, width, channels), which the layer
                "features" averages, or (batch, channels).
        """
        from keras import layers

        x = layers.Dropout(0.2)(pool(features))
        # In float32 even under mixed precision: float16 rounds probabilities below 6e-8 to 0.
        dense = layers.Dense(
            len(self.class_names),
            activation="softmax",
            name=f"{self.prefix}probabilities",
            dtype="float32",
        )
        return dense(x)

    def find_loss(self, name: str, args: Any, losses: Mapping[str, LossFn]) -> LossFn:
        """Return a loss, with label smoothing if it is a cross-entropy.

        With ``args.mixup`` or ``args.cutmix``, targets are soft labels, so sparse losses are
        replaced by their dense counterparts. Class weights are those of the true class.
        """
        name = self.default_loss if name == "auto" else name
        if args.mixup or args.cutmix:
            name = name.removeprefix("sparse_")
        loss = find_loss(name, losses)
        if args.label_smoothing and name.endswith("categorical_crossentropy"):
            loss = smooth_labels(loss, args.label_smoothing)
        return loss if self.class_weights is None else weigh_classes(loss, self.class_weights)

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless ``model`` has one output of (batch, classes)."""
        self._check_class_names()
        check_output_shape(model, self.name, lambda shape: len(shape) == 1, "(batch, classes)")
        check_class_count(model, self)

    def check_outputs(self, outputs: NDArray[Any]) -> None:
        """Raise UserError unless ``outputs``, (n, classes), are probabilities with sum 1.

        >>> Classification(["cat", "dog"]).check_outputs(np.array([[4.0, -1.5]]))
        Traceback (most recent call last):
        kerakit.errors.UserError: the outputs of the model are not probabilities: they range from \
        -1.5 to 4, with sums from 2.5 to 2.5; ...
        """
        check_finite_outputs(outputs)
        sums = outputs.sum(axis=1, dtype=np.float64)
        inside = outputs.min() >= -TOLERANCE and outputs.max() <= 1 + TOLERANCE
        if not inside or np.abs(sums - 1).max() > TOLERANCE:
            raise UserError(
                f"the outputs of the model are not probabilities: they range from "
                f"{outputs.min():.3g} to {outputs.max():.3g}, with sums from {sums.min():.3g} to "
                f"{sums.max():.3g}; predictions would report them as confidences. End the model "
                "with task.head(x) or a softmax, and use a loss of probabilities (without "
                "from_logits)."
            )

    def _check_class_names(self) -> None:
        """Raise UserError if the classes are numbers, which a regression predicts."""
        if len(self.class_names) > MAX_NUMBERS and are_measurements(self.class_names):
            raise UserError(
                f"the labels look like measurements (regression): {list_names(self.class_names)}; "
                "classification needs classes. To predict a number, return a task of your own in "
                "task.py (guide: Your own task), with a loss such as mean_absolute_error; to "
                "classify, name the classes."
            )

    # ----------------------------------------------------------------------------------- evaluation

    def decode(self, outputs: NDArray[Any]) -> ClassPredictions:
        """Return the predictions for scores (n, classes)."""
        return ClassPredictions(np.asarray(outputs, np.float32))

    def score(self, predictions: ClassPredictions, annotations: NDArray[Any]) -> dict[str, float]:
        """Return accuracy, worst-class recall and ECE against class indices, (n,)."""
        matrix = metrics.confusion_matrix(annotations, predictions.classes, len(self.class_names))
        correct = predictions.classes == annotations
        return {
            "accuracy": metrics.accuracy(predictions.classes, annotations),
            "worst_class_recall": metrics.worst_class(matrix)[1],
            "ece": metrics.expected_calibration_error(predictions.confidence, correct),
        }

    def agreement(self, predictions: ClassPredictions, reference: ClassPredictions) -> float:
        """Return the top-1 agreement: the fraction of images with the same predicted class."""
        return metrics.accuracy(predictions.classes, reference.classes)

    def details(self, predictions: ClassPredictions, annotations: NDArray[Any]) -> dict[str, Any]:
        """Return metrics per class, the confusion matrix, and the class with the lowest recall."""
        matrix = metrics.confusion_matrix(annotations, predictions.classes, len(self.class_names))
        rows = [vars(row) for row in metrics.per_class(matrix)]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        # The cells above 0 alone: a matrix of 2,000 classes has 4 million cells.
        true, predicted = matrix.nonzero()
        cells = np.stack([true, predicted, matrix[true, predicted]], axis=1)
        return {
            "worst_class": self.class_names[metrics.worst_class(matrix)[0]],
            "classes": {"class": list(self.class_names), **columns},
            "confusion_matrix": cells.tolist(),
        }

    def mistakes(
        self, predictions: ClassPredictions, annotations: NDArray[Any]
    ) -> NDArray[np.int64]:
        """Return the sample indices of wrong predictions, int64, the most confident first."""
        wrong = np.flatnonzero(predictions.classes != annotations)
        return wrong[np.argsort(-predictions.confidence[wrong], kind="stable")]

    def class_columns(self, targets: NDArray[Any]) -> dict[str, ClassColumn]:
        """Return the class of each image."""
        return {"": ClassColumn(self.class_names, np.asarray(targets, np.int64))}

    def format_prediction(self, prediction: NDArray[np.float32]) -> str:
        """Return the predicted label and its confidence."""
        (row,) = self._decoder.describe(prediction)
        return f"{row['label']} {row['confidence']:.0%}"

    def format_annotation(self, target: Any) -> str:
        """Return the true label, or the soft labels of MixUp and CutMix."""
        if np.ndim(target):
            return " ".join(
                f"{self.class_names[i]} {target[i]:.0%}" for i in np.flatnonzero(target)
            )
        return self.class_names[int(target)]

    def plot(self, predictions: ClassPredictions, annotations: NDArray[Any]) -> dict[str, Figure]:
        """Return the plot of the confusion matrix; empty if there are too many classes to read."""
        from kerakit.report import charts

        if len(self.class_names) > MAX_PLOTTED_CLASSES:
            return {}
        matrix = metrics.confusion_matrix(annotations, predictions.classes, len(self.class_names))
        return {"confusion_matrix": charts.plot_confusion_matrix(matrix, self.class_names)}

    def report(
        self, predictions: Mapping[str, ClassPredictions], annotations: NDArray[Any]
    ) -> list[Section]:
        """Return sections with confusion matrices, most confused pairs and metrics per class."""
        from kerakit.report.confusion import confusion_sections

        matrices = {
            name: metrics.confusion_matrix(annotations, each.classes, len(self.class_names))
            for name, each in predictions.items()
        }
        return confusion_sections(matrices, self.class_names)
