"""Classification: one class per image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit import metrics
from kerakit.device import classification as device
from kerakit.errors import UserError, list_names
from kerakit.tasks.losses import LossFn, find_loss, smooth_labels

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure
    from PIL import Image

    from kerakit.report.page import Section


MAX_PLOTTED_CLASSES = 100
"""Number of classes up to which a confusion matrix is plotted."""

MAX_NUMBERS = 20
"""Number of classes up to which all of them may be named by decimals such as 0.5."""

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


class Classification:
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
    main_metric = "accuracy"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)

    # ------------------------------------------------------------------------------------- training

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> Any:  # noqa: ARG002 - the protocol's signature
        """Return the class index as it is."""
        return annotation

    def followers(self, annotation: Any) -> dict[str, Any]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: a class is invariant under augmentation."""
        return {}

    def head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return class probabilities, (batch, classes).

        Args:
            features: features of a backbone: (batch, height, width, channels), which the layer
                "features" averages, or (batch, channels).
        """
        from keras import layers

        if len(features.shape) == 4:
            features = layers.GlobalAveragePooling2D(name="features")(features)
        x = layers.Dropout(0.2)(features)
        # In float32 even under mixed precision: float16 rounds probabilities below 6e-8 to 0.
        dense = layers.Dense(
            len(self.class_names), activation="softmax", name="probabilities", dtype="float32"
        )
        return dense(x)

    def compile_options(
        self,
        model: keras.Model,
        args: Any,
        losses: Mapping[str, LossFn] | None = None,
        metrics: Sequence[Sequence[str]] = (("accuracy",),),
    ) -> dict[str, Any]:
        """Return ``loss``, ``loss_weights`` and ``metrics`` for ``model.compile``.

        Args:
            model: with one output or several.
            args: has ``loss`` (names: one for all outputs, or one per output), ``loss_weights``
                (one per output, or None), ``label_smoothing``, ``mixup`` and ``cutmix``; with the
                latter two, targets are soft labels, so sparse losses are replaced by their dense
                counterparts.
            losses: further losses by name.
            metrics: names per output; the last list applies to all following outputs.

        Raises:
            UserError: the numbers don't fit the outputs, or a loss is unknown.
        """
        count = len(model.outputs)
        names = list(args.loss) * count if len(args.loss) == 1 else list(args.loss)
        for flag, values in (("--loss", names), ("--loss_weights", args.loss_weights)):
            if values is not None and len(values) != count:
                raise UserError(
                    f"{flag} has {len(values)} value(s); the model has {count} output(s). Give one "
                    "each."
                )
        soft = bool(args.mixup or args.cutmix)
        functions = [
            find_loss(name.removeprefix("sparse_") if soft else name, losses or {})
            for name in names
        ]
        if args.label_smoothing:
            functions = [
                smooth_labels(function, args.label_smoothing)
                if name.endswith("categorical_crossentropy")
                else function
                for name, function in zip(names, functions, strict=True)
            ]
        columns = [list(metrics[min(i, len(metrics) - 1)]) for i in range(count)]
        return {
            "loss": functions if count > 1 else functions[0],
            "loss_weights": list(args.loss_weights) if args.loss_weights else None,
            "metrics": columns if count > 1 else columns[0],
        }

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless ``model`` has one output of (batch, classes)."""
        self._check_class_names()
        outputs = getattr(model, "outputs", None)
        if not outputs:
            raise UserError(
                f"the model {model.name} has no graph of layers, as a subclass of keras.Model or "
                "an unbuilt Sequential. Return keras.Model(image, model(image)) from construct, "
                "with image = keras.Input(input_shape)."
            )
        shapes = [tuple(output.shape) for output in outputs]
        if len(shapes) != 1 or len(shapes[0]) != 2:
            raise UserError(
                f"the model has {len(shapes)} output(s) of shape {', '.join(map(str, shapes))}; "
                "classification expects one output of (batch, classes). For other outputs, return "
                "a task of your own in task.py."
            )
        if shapes[0][1] != len(self.class_names):
            raise UserError(
                f"the model has {shapes[0][1]} classes, the dataset {len(self.class_names)}."
            )

    def check_outputs(self, outputs: NDArray[Any]) -> None:
        """Raise UserError unless ``outputs``, (n, classes), are probabilities with sum 1.

        >>> Classification(["cat", "dog"]).check_outputs(np.array([[4.0, -1.5]]))
        Traceback (most recent call last):
        kerakit.errors.UserError: the outputs of the model are not probabilities: they range from \
        -1.5 to 4, with sums from 2.5 to 2.5; ...
        """
        broken = int((~np.isfinite(outputs)).any(axis=1).sum())
        if broken:
            raise UserError(
                f"the model outputs NaN or infinite values for {broken} of {len(outputs)} images. "
                "Its weights are damaged, or its training diverged: train again, with a smaller "
                "--learning_rate."
            )
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
        if len(self.class_names) > MAX_NUMBERS and all(map(_is_decimal, self.class_names)):
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

    def describe(self, prediction: NDArray[np.float32], top: int = 1) -> list[dict[str, Any]]:
        """Return the ``top`` labels with their confidences."""
        return [
            {"label": self.class_names[i], "confidence": score}
            for i, score in device.decode(prediction, top)
        ]

    def format_prediction(self, prediction: NDArray[np.float32]) -> str:
        """Return the predicted label and its confidence."""
        ((index, confidence),) = device.decode(prediction)
        return f"{self.class_names[index]} {confidence:.0%}"

    def format_annotation(self, annotation: Any) -> str:
        """Return the true label."""
        return self.class_names[int(annotation)]

    def draw(
        self, image: NDArray[Any], prediction: NDArray[np.float32], annotation: Any = None
    ) -> Image.Image:
        """Return the image with its predicted and, optionally, its true label below it."""
        lines = [f"predicted: {self.format_prediction(prediction)}"]
        lines += [] if annotation is None else [f"true: {self.format_annotation(annotation)}"]
        return device.draw(image, lines)

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


def _is_decimal(name: str) -> bool:
    """Whether a class name is a number with a fraction or an exponent, such as 0.085."""
    try:
        float(name)
    except ValueError:
        return False
    return not name.strip().lstrip("+-").isdecimal()
