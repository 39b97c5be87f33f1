"""The protocol of a task: the only interface between the engine and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure
    from PIL import Image

    from kerakit.report.page import Section


class Predictions(Protocol):
    """Decoded predictions for n images."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, i: int) -> Any:
        """Return the prediction for image ``i``."""


class Task(Protocol):
    """The protocol of a task.

    Attributes:
        name: name of the task, for config.json and reports.
        class_names: in the order of the model's outputs; also the lines of labels.txt.
        main_metric: the key of ``score`` that ranks models; higher is better.

    >>> from kerakit.tasks import Classification
    >>> task: Task = Classification(["cat", "dog"])
    >>> task.main_metric
    'accuracy'
    """

    name: str
    class_names: tuple[str, ...]
    main_metric: str

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> Any:
        """Return the target for ``fit``, of fixed shape, from an annotation after augmentation."""

    def followers(self, annotation: Any) -> dict[str, Any]:
        """Return masks, boxes or keypoints to augment with the image, by albumentations' names."""

    def head(self, features: Any) -> Any:
        """Return the model's outputs, Keras tensors, from a backbone's features.

        The last tensor that all outputs depend on must be the output of a layer named "features":
        training splits backbone and head there.
        """

    def compile_options(
        self,
        model: keras.Model,
        args: Any,
        losses: Mapping[str, Callable[..., Any]] | None = None,
        metrics: Sequence[Sequence[str]] = ...,
    ) -> dict[str, Any]:
        """Return the arguments of ``model.compile``, except the optimizer, from the flags."""

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless the shapes of the outputs of ``model`` fit this task."""

    def check_outputs(self, outputs: Any) -> None:
        """Raise UserError unless the values of raw model outputs (n, ...) fit this task.

        Called with outputs for real images before training, in evaluation and at export.
        """

    def decode(self, outputs: NDArray[Any]) -> Predictions:
        """Return the predictions for raw model outputs (n, ...)."""

    def score(self, predictions: Any, annotations: NDArray[Any]) -> dict[str, float]:
        """Return the metrics of predictions against annotations (n, ...), the main metric first."""

    def agreement(self, predictions: Any, reference: Any) -> float:
        """Return the agreement of two sets of predictions, from 0 to 1."""

    def details(self, predictions: Any, annotations: NDArray[Any]) -> dict[str, Any]:
        """Return the breakdown for evaluation.json and the report pages, as JSON values."""

    def mistakes(self, predictions: Any, annotations: NDArray[Any]) -> NDArray[Any]:
        """Return the sample indices of wrong predictions, int64, the most confident first."""

    def describe(self, prediction: Any, top: int = 1) -> list[dict[str, Any]]:
        """Return a prediction as up to ``top`` records for CSV and JSON."""

    def format_prediction(self, prediction: Any) -> str:
        """Return a prediction as one line of text, for captions."""

    def format_annotation(self, annotation: Any) -> str:
        """Return an annotation as one line of text, for captions."""

    def draw(self, image: NDArray[Any], prediction: Any, annotation: Any = None) -> Image.Image:
        """Return an image, uint8 (height, width, 3), with prediction and, if given, true label."""

    def plot(self, predictions: Any, annotations: NDArray[Any]) -> dict[str, Figure]:
        """Return the plots of an evaluation by name, for the ``plots/`` folder of a run."""

    def report(self, predictions: Mapping[str, Any], annotations: NDArray[Any]) -> list[Section]:
        """Return sections of a report page about predictions of the same images, by model name."""
