"""The protocol of a task. The engine uses a label through these members only and never asks which task it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras
    from PIL import Image


class Predictions(Protocol):
    """Decoded predictions for n images."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, i: int) -> Any:
        """Return the prediction for image ``i``."""


class Task(Protocol):
    """What a label is.

    Attributes:
        name: of the task, for config.json and reports.
        class_names: in the order of the model's outputs; also the lines of labels.txt.
        main_metric: the key of ``score`` that ranks models; higher is better.
    """

    name: str
    class_names: tuple[str, ...]
    main_metric: str

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> Any:
        """Return the target for ``fit``, arrays of fixed shape, from an annotation after augmentation."""

    def followers(self, annotation: Any) -> dict[str, Any]:
        """Return what augmentation moves along, by albumentations' names: ``mask``, ``bboxes``, ``keypoints``."""

    def head(self, features: Any) -> Any:
        """Return the outputs of the model, Keras tensors, from the features of a backbone."""

    def compile_options(self, loss: Any, metrics: Sequence[str]) -> dict[str, Any]:
        """Return the arguments of ``model.compile`` beside the optimizer."""

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless the outputs of ``model`` fit this task."""

    def decode(self, outputs: NDArray[Any]) -> Predictions:
        """Return the predictions for raw model outputs (n, ...)."""

    def score(self, predictions: Any, annotations: NDArray[Any]) -> dict[str, float]:
        """Return the metrics of predictions against annotations (n, ...), the main metric first."""

    def agreement(self, predictions: Any, reference: Any) -> float:
        """Return how far two sets of predictions agree, from 0 to 1."""

    def details(self, predictions: Any, annotations: NDArray[Any]) -> dict[str, Any]:
        """Return the breakdown for evaluation.json and the report pages, as JSON values."""

    def mistakes(self, predictions: Any, annotations: NDArray[Any]) -> NDArray[Any]:
        """Return the sample indices of wrong predictions, int64, the most confident first."""

    def describe(self, prediction: Any, top: int = 1) -> list[dict[str, Any]]:
        """Return a prediction as up to ``top`` records for CSV and JSON."""

    def draw(self, image: NDArray[Any], prediction: Any, annotation: Any = None) -> Image.Image:
        """Return an image, uint8 (height, width, 3), with its prediction and, optionally, its true label."""
