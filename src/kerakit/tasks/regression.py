"""Regression: one or several numbers per image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from kerakit.device.regression import Decoder
from kerakit.errors import UserError
from kerakit.tasks.base import DecodedTask, Names, check_output_shape, pool

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from kerakit.data.reader import Reader
    from kerakit.report.page import Section

TOLERANCE = 0.02
"""Two predictions agree if they differ by less than this fraction of the range of the quantity."""

LARGE_ERROR = 0.1
"""Fraction of the range from which an error is listed as a mistake."""


class Regression(DecodedTask):
    """Task that predicts numbers, such as a count, an angle or a price.

    Annotations are numbers, float32 (quantities,). Targets and outputs are fractions of the range
    of the training labels, float32 (n, quantities): 0 is the lowest label, 1 the highest. Outputs
    may exceed it.

    Args:
        class_names: names of the quantities, in the order of the outputs.
        low: values at output 0, one per quantity; default: set by ``adapt``.
        high: values at output 1, likewise.

    >>> task = Regression(["age"], low=[0], high=[80])
    >>> task.encode(np.float32([20]), (224, 224)).tolist()
    [0.25]
    >>> task.decode(np.array([[0.25], [0.5]])).tolist()
    [[20.0], [40.0]]
    """

    name = "regression"
    decoder_class = Decoder
    has_coordinates = False
    mix_methods = ("mixup",)
    column = "number"
    main_metric = "r2"
    mistakes_title = "Largest errors"
    end_to_end = True
    default_loss = "huber"
    default_metrics = ("mean_absolute_error",)
    learned = ("low", "high")

    def __init__(
        self,
        class_names: Names,
        low: Sequence[float] | None = None,
        high: Sequence[float] | None = None,
    ) -> None:
        super().__init__(class_names)
        self.low = [0.0] * len(self.class_names) if low is None else list(map(float, low))
        self.high = [1.0] * len(self.class_names) if high is None else list(map(float, high))

    def adapt(self, reader: Reader) -> Self:
        """Set the range of each quantity to that of the training labels."""
        targets: Iterator[Any] = map(reader.target, reader.indices("train").tolist())
        values = np.stack([np.ravel(target) for target in targets])
        if not np.isfinite(values).all():
            raise UserError("labels contain NaN or infinite values. Fix or remove their rows.")
        low, high = values.min(axis=0).astype(float), values.max(axis=0).astype(float)
        self.low, self.high = low.tolist(), np.where(high > low, high, low + 1).tolist()
        return self

    @property
    def _range(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        low = np.asarray(self.low, np.float64)
        return low, np.asarray(self.high, np.float64) - low

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> NDArray[np.float32]:
        """Return numbers as fractions of the range, float32 (quantities,)."""
        low, span = self._range
        return ((np.ravel(annotation) - low) / span).astype(np.float32)

    def soft_targets(self, targets: Any, method: str) -> Any:
        """Return the targets for MixUp: the mean of two images has the mean of their numbers."""
        if method not in self.mix_methods:
            return super().soft_targets(targets, method)
        return np.asarray(targets, np.float32)

    # ------------------------------------------------------------------------------------- training

    def head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return a number per quantity, (batch, quantities), from a map or averaged features.

        Before training, it is 0 for each image: sums of random features vary more than labels
        within their range, and few images have few steps to unlearn that.
        """
        from keras import layers

        dense = layers.Dense(
            len(self.class_names),
            kernel_initializer="zeros",
            name=f"{self.prefix}values",
            dtype="float32",
        )
        return dense(layers.Dropout(0.1)(pool(features)))

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless ``model`` has one output of (batch, quantities)."""
        count = len(self.class_names)
        check_output_shape(model, self.name, lambda shape: shape == (count,), f"(batch, {count})")

    # ----------------------------------------------------------------------------------- evaluation

    def decode(self, outputs: NDArray[Any]) -> NDArray[np.float64]:
        """Return the numbers, float64 (n, quantities)."""
        low, span = self._range
        return np.asarray(low + np.asarray(outputs, np.float64) * span)

    def score(self, predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, float]:
        """Return R², MAE and RMSE: means over the quantities, then the MAE of each of several."""
        from sklearn.metrics import mean_absolute_error, r2_score, root_mean_squared_error

        true = self.decode(targets)
        errors = mean_absolute_error(true, predictions, multioutput="raw_values")
        several = dict(zip(self.class_names, errors.tolist(), strict=True))
        return {
            "r2": float(r2_score(true, predictions)) if len(true) > 1 else 0.0,
            "mae": float(np.mean(errors)),
            "rmse": float(root_mean_squared_error(true, predictions)),
            **(
                {f"mae_{name}": value for name, value in several.items()}
                if len(several) > 1
                else {}
            ),
        }

    def _errors(self, predictions: NDArray[Any], others: NDArray[Any]) -> NDArray[np.float64]:
        """Return the largest difference per image, as a fraction of the range."""
        return np.asarray((np.abs(predictions - others) / self._range[1]).max(axis=1))

    def agreement(self, predictions: NDArray[Any], reference: NDArray[Any]) -> float:
        """Return the fraction of images whose numbers differ by less than 2 % of the range."""
        return float((self._errors(predictions, reference) < TOLERANCE).mean())

    def details(self, predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, Any]:
        """Return the metrics per quantity, and the range of the training labels."""
        from sklearn.metrics import mean_absolute_error, r2_score

        true = self.decode(targets)
        r2 = r2_score(true, predictions, multioutput="raw_values") if len(true) > 1 else [0.0]
        return {
            "classes": {
                "quantity": list(self.class_names),
                "r2": np.asarray(r2, float).tolist(),
                "mae": mean_absolute_error(true, predictions, multioutput="raw_values").tolist(),
                "largest_error": np.abs(true - predictions).max(axis=0).tolist(),
                "lowest_label": list(self.low),
                "highest_label": list(self.high),
            }
        }

    def mistakes(self, predictions: NDArray[Any], targets: NDArray[Any]) -> NDArray[np.int64]:
        """Return the images with an error of 10 % of the range or more, the largest first."""
        errors = self._errors(predictions, self.decode(targets))
        found = np.flatnonzero(errors >= LARGE_ERROR)
        return found[np.argsort(-errors[found], kind="stable")]

    # --------------------------------------------------------------------------------- presentation

    def format_annotation(self, target: Any) -> str:
        """Return quantities and true values."""
        return self.format_prediction(self.decode(target))

    def plot(self, predictions: NDArray[Any], targets: NDArray[Any]) -> dict[str, Figure]:
        """Return the plot of predictions over true values."""
        from kerakit.report.scatter import plot_scatter

        return {"predictions": plot_scatter(self.decode(targets), predictions, self.class_names)}

    def report(
        self, predictions: Mapping[str, NDArray[Any]], targets: NDArray[Any]
    ) -> list[Section]:
        """Return sections with predictions over true values, and metrics per quantity."""
        from kerakit.report.page import Chart, Section, SideBySide
        from kerakit.report.scatter import plot_scatter
        from kerakit.report.tables import per_class_section

        true = self.decode(targets)
        charts = [
            (
                name if len(predictions) > 1 else "",
                Chart(plot_scatter(true, each, self.class_names), "predictions over true values"),
            )
            for name, each in predictions.items()
        ]
        columns = {
            name: self.details(each, targets)["classes"] for name, each in predictions.items()
        }
        return [
            Section("Predictions", [SideBySide(charts)]),
            per_class_section(columns, ("r2", "mae", "largest_error")),
        ]
