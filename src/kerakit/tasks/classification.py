"""Classification: one class per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from kerakit import metrics
from kerakit.device import classification as device
from kerakit.errors import UserError

if TYPE_CHECKING:
    import keras
    from PIL import Image


@dataclass(frozen=True)
class ClassPredictions:
    """Predictions of classes for n images.

    Attributes:
        scores: float32 (n, classes).
        classes: the predicted class indices, int64 (n,).
        confidence: their scores, float32 (n,).
    """

    scores: NDArray[np.float32]

    @property
    def classes(self) -> NDArray[np.int64]:
        """The predicted class indices, int64 (n,)."""
        return self.scores.argmax(axis=1)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The scores of the predicted classes, float32 (n,)."""
        return self.scores.max(axis=1)

    def __len__(self) -> int:
        """Return n."""
        return len(self.scores)

    def __getitem__(self, i: int) -> NDArray[np.float32]:
        """Return the scores of image ``i``, (classes,)."""
        return self.scores[i]


class Classification:
    """The task of predicting one class per image.

    Annotations and targets are class indices, int32 (); outputs are scores, float32 (n, classes).

    Args:
        class_names: in the order of the outputs.
    """

    name = "classification"
    main_metric = "accuracy"

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = tuple(class_names)

    # ---------------------------------------------------------------------------------------------------- training

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> Any:  # noqa: ARG002 - the protocol's signature
        """Return the class index as it is."""
        return annotation

    def followers(self, annotation: Any) -> dict[str, Any]:  # noqa: ARG002 - the protocol's signature
        """Return nothing: a class is invariant under augmentation."""
        return {}

    def head(self, features: Any) -> Any:
        """Return class probabilities, (batch, classes), from features, (batch, channels)."""
        from keras import layers

        x = layers.Dropout(0.2)(features)
        # In float32 even under mixed precision: float16 rounds probabilities below 6e-8 to 0.
        return layers.Dense(
            len(self.class_names), activation="softmax", name="probabilities", dtype="float32"
        )(x)

    def compile_options(self, loss: Any, metrics: Sequence[str]) -> dict[str, Any]:
        """Return ``loss`` and ``metrics`` for ``model.compile``."""
        return {"loss": loss, "metrics": list(metrics)}

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless ``model`` has one output of (batch, classes)."""
        shapes = [tuple(output.shape) for output in model.outputs]
        if len(shapes) != 1 or len(shapes[0]) != 2:
            raise UserError(
                f"the model has {len(shapes)} output(s) of shape {', '.join(map(str, shapes))}; classification expects "
                "one output of (batch, classes)."
            )
        if shapes[0][1] != len(self.class_names):
            raise UserError(
                f"the model has {shapes[0][1]} classes, the dataset {len(self.class_names)}."
            )

    # -------------------------------------------------------------------------------------------------- evaluation

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
        rows = zip(self.class_names, metrics.per_class(matrix), strict=True)
        return {
            "worst_class": self.class_names[metrics.worst_class(matrix)[0]],
            "classes": [{"class": name, **vars(row)} for name, row in rows],
            "confusion_matrix": matrix.tolist(),
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

    def draw(
        self, image: NDArray[Any], prediction: NDArray[np.float32], annotation: Any = None
    ) -> Image.Image:
        """Return the image with its predicted and, optionally, its true label below it."""
        ((index, confidence),) = device.decode(prediction)
        lines = [f"predicted: {self.class_names[index]} {confidence:.0%}"]
        lines += [] if annotation is None else [f"true: {self.class_names[int(annotation)]}"]
        return device.draw(image, lines)
