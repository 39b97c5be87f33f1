"""Segmentation: one class per pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from kerakit import metrics
from kerakit.data.placement import Placement
from kerakit.data.shards.member import Member
from kerakit.device.captions import add_captions
from kerakit.device.preprocessing import STRETCH
from kerakit.device.segmentation import IGNORED, Decoder, caption_mask, combine
from kerakit.errors import UserError
from kerakit.tasks.base import DecodedTask, Names, check_class_count, check_output_shape
from kerakit.tasks.losses import LossFn
from kerakit.tasks.masks import draw_polygons, read_mask

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure
    from PIL import Image

    from kerakit.data.reader import Reader
    from kerakit.report.page import Section

MAX_PLOTTED_CLASSES = 100
"""Number of classes up to which a confusion matrix is plotted."""

MAX_CLASSES = IGNORED
"""Masks are uint8, and 255 is the value of pixels without a class."""

MAX_COUNTED = 500
"""Number of training masks whose pixels are counted for balanced class weights."""

_COUNTED_SIZE = (128, 128)

MAX_PAIRS = 8
"""Number of most confused pairs of classes that are listed."""

STRIDES = (4, 8, 16, 32)


class MaskPredictions:
    """Predictions of masks for n images.

    Args:
        scores: float32 (n, rows, columns, classes).
        decoder: turns them into masks.
        stride: pixels of the input per cell of the scores.

    >>> decoder = Decoder({"classes": ["sky", "road"]})
    >>> scores = np.zeros((3, 2, 4, 2), np.float32)
    >>> scores[:, 0, :, 0] = scores[:, 1, :, 1] = 1  # sky above road
    >>> MaskPredictions(scores, decoder).masks((8, 4))[0, :, 0].tolist()
    [0, 0, 1, 1]
    """

    def __init__(self, scores: NDArray[np.float32], decoder: Decoder, stride: int = 4) -> None:
        self.scores = scores
        self.size = (scores.shape[2] * stride, scores.shape[1] * stride)
        self._decoder = decoder
        self._masks: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        """Return n."""
        return len(self.scores)

    def __getitem__(self, i: int) -> dict[str, NDArray[Any]]:
        """Return the prediction for image ``i``: see ``kerakit.device.segmentation.Decoder``."""
        prediction: dict[str, NDArray[Any]] = self._decoder.decode(self.scores[i])
        return prediction

    def masks(self, size: tuple[int, int] | None = None) -> NDArray[np.uint8]:
        """Return the class indices, uint8 (n, height, width), at a size (width, height).

        Default: the size that was asked for last, at first that of the input.
        """
        if self._masks is not None and size is None:
            return self._masks
        width, height = size or self.size
        if self._masks is None or self._masks.shape[1:] != (height, width):
            masks = [self._decoder.mask(self[i], (width, height)) for i in range(len(self))]
            self._masks = np.stack(masks)
        return self._masks


class Segmentation(DecodedTask):
    """Task that predicts one class per pixel.

    Annotations are those of ``kerakit.data.MaskReader``: ``{"mask": path}``, a file of class
    indices (or an array of them), or polygons of classes. Targets are masks of the input size,
    uint8 (n, height, width), 255 for pixels without a class. Outputs are scores (logits) of cells
    of ``stride`` pixels, float32 (n, rows, columns, classes). They are resized bilinearly after the
    model.

    Args:
        class_names: in the order of the outputs. Pixels outside of all polygons are "background".
        ignore: values of mask files without a class, besides 255.
        colors: (red, green, blue) of each class, for drawings, and for mask files in colors.
        class_weights: factor of each class in the loss; "balanced": the median of the classes'
            numbers of pixels over that of the class (Eigen and Fergus 2015), set by ``adapt``. So
            does ``balance_classes``.
        stride: 4, 8, 16 or 32: pixels of the input per cell.
        channels: number of channels of the decoder.

    >>> task = Segmentation(["sky", "road"])
    >>> scores = np.zeros((1, 2, 2, 2), np.float32)
    >>> scores[0, 0, :, 0] = scores[0, 1, :, 1] = 1  # sky above road
    >>> masks = np.repeat([[[0], [0], [1], [255]]], 4, axis=2)
    >>> task.score(task.decode(scores), masks)
    {'mean_iou': 1.0, 'pixel_accuracy': 1.0, 'worst_class_iou': 1.0}
    """

    name = "segmentation"
    decoder_class = Decoder
    activation = "softmax"
    column = "mask"
    main_metric = "mean_iou"
    monitor = "val_mean_iou"
    mistakes_title = "Images with the lowest IoU"
    overlay_note = "Left: predicted classes; right: true ones."
    learned = ("stride", "colors", "ignore", "class_weights")
    needs_map = True
    frozen = 0.0

    def __init__(
        self,
        class_names: Names,
        ignore: Sequence[int] = (),
        colors: Sequence[Sequence[int]] | None = None,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        stride: int = 4,
        channels: int = 96,
    ) -> None:
        super().__init__(class_names)
        count = len(self.class_names)
        if not 2 <= count <= MAX_CLASSES:
            raise UserError(
                f"segmentation needs 2 to {MAX_CLASSES} classes, got {count}. Name the rest of the "
                "image too, such as 'background'."
            )
        self.is_balanced = class_weights == "balanced"
        factors = None if self.is_balanced else class_weights
        for name, values in (("colors", colors), ("class_weights", factors)):
            if values is not None and len(values) != count:
                raise UserError(f"{name} has {len(values)} entries; there are {count} classes.")
        if stride not in STRIDES:
            raise UserError(f"stride is {stride}; expected one of {', '.join(map(str, STRIDES))}.")
        self.ignore = list(map(int, ignore))
        self.colors = None if colors is None else [[int(v) for v in color] for color in colors]
        self.class_weights = None if factors is None else list(map(float, factors))
        self.stride, self.channels = stride, channels

    def adapt(self, reader: Reader) -> Self:
        """Use the colors and ignored values of the reader; set balanced class weights."""
        colors = getattr(reader, "colors", None)
        if self.colors is None and colors is not None:
            self.colors = [list(map(int, one)) for one in colors]
        self.ignore = sorted({*self.ignore, *map(int, getattr(reader, "ignore", ()))})
        if self.is_balanced:
            self.balance_classes(reader)
        return self

    def balance_classes(self, reader: Reader) -> None:
        """Set class weights to the median of the classes' numbers of pixels over that of the class.

        Pixels are counted in up to MAX_COUNTED training masks.
        """
        counts = np.zeros(IGNORED + 1, np.int64)
        indices = reader.indices("train")
        for i in indices[:: -(-len(indices) // MAX_COUNTED)].tolist():
            placement = Placement(reader.image_path(i), STRETCH, _COUNTED_SIZE)
            mask = self.resize(reader.target(i), placement)["mask"]
            counts += np.bincount(mask.ravel(), minlength=IGNORED + 1)
        labeled = counts[: len(self.class_names)]
        median = np.median(labeled[labeled > 0]) if labeled.any() else 1.0
        self.class_weights = (median / np.maximum(labeled, 0.01 * median)).tolist()

    # ---------------------------------------------------------------------------------- annotations

    def resize(self, annotation: Any, placement: Placement) -> dict[str, NDArray[np.uint8]]:
        """Return the mask of the model's input: ``{"mask": uint8 (height, width)}``."""
        if "polygons" in annotation:
            names = self.class_names
            background = names.index("background") if "background" in names else IGNORED
            return {"mask": draw_polygons(annotation, placement, background)}
        mask = annotation["mask"]
        if isinstance(mask, str | Path | Member):
            colors, table = annotation.get("colors", self.colors), annotation.get("values")
            mask = read_mask(mask, len(self.class_names), self.ignore, colors, table)
        return {"mask": placement.mask(mask)}

    def followers(self, annotation: Any) -> dict[str, Any]:
        """Return the mask, which augmentation moves with nearest-neighbor interpolation."""
        return {"mask": annotation["mask"]}

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> NDArray[np.uint8]:
        """Return the mask, uint8 (height, width).

        Raises:
            UserError: it has another size than the input, or a value without a class.
        """
        mask = np.asarray(annotation["mask"])
        if mask.shape != (input_size[1], input_size[0]):
            raise UserError(
                f"the mask after augmentation has the shape {mask.shape}; expected "
                f"{(input_size[1], input_size[0])}, the height and width of the input."
            )
        invalid = (mask != IGNORED) & ((mask < 0) | (mask >= len(self.class_names)))
        if invalid.any():
            raise UserError(
                f"the mask after augmentation has the value {mask[invalid][0]}; expected class "
                f"indices below {len(self.class_names)}, or {IGNORED} for pixels without a class."
            )
        return mask.astype(np.uint8)

    # ------------------------------------------------------------------------------------- training

    def head(self, features: keras.KerasTensor) -> keras.KerasTensor:
        """Return scores, (batch, height / stride, width / stride, classes).

        A feature pyramid on the backbone's feature maps of ``stride`` and above.
        """
        from keras import layers

        from kerakit.models.levels import feature_levels, feature_pyramid

        strides = [one for one in STRIDES if one >= self.stride]
        levels = feature_levels(features, strides, self.prefix)
        x = feature_pyramid(levels, self.channels, self.prefix)[0]
        # In float32 even under mixed precision: the loss takes logarithms.
        convolution = layers.Conv2D(
            len(self.class_names), 1, name=f"{self.prefix}scores", dtype="float32"
        )
        return convolution(x)

    @property
    def default_metrics(self) -> tuple[Any, ...]:  # type: ignore[override]
        """The mean IoU."""
        from kerakit.tasks.segmentation_losses import MeanIoU

        return (MeanIoU(len(self.class_names)),)

    def find_loss(self, name: str, args: Any, losses: Mapping[str, LossFn]) -> LossFn:
        """Return a loss by its name; "auto": cross-entropy and Dice loss."""
        from kerakit.tasks.segmentation_losses import segmentation_loss

        if name == "auto":
            return segmentation_loss(self.class_weights)
        self._check_unweighted(name)
        return super().find_loss(name, args, losses)

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless ``model`` has one output of (batch, rows, columns, classes)."""
        check_output_shape(
            model, self.name, lambda shape: len(shape) == 3, "(batch, rows, columns, classes)"
        )
        check_class_count(model, self)

    # ----------------------------------------------------------------------------------- evaluation

    def decode(self, outputs: NDArray[Any]) -> MaskPredictions:
        """Return the predictions for scores (n, rows, columns, classes)."""
        return MaskPredictions(np.asarray(outputs, np.float32), self._decoder, self.stride)

    def _confusion(self, predictions: MaskPredictions, targets: NDArray[Any]) -> NDArray[np.int64]:
        """Return the confusion matrix over all pixels with a class: true classes by predictions."""
        targets = np.asarray(targets)
        masks = predictions.masks((targets.shape[2], targets.shape[1]))
        count = len(self.class_names)
        matrix = np.zeros((count, count), np.int64)
        for target, mask in zip(targets, masks, strict=True):
            matrix += _count_pairs(target, mask, count)
        return matrix

    def score(self, predictions: MaskPredictions, targets: NDArray[Any]) -> dict[str, float]:
        """Return mean IoU, pixel accuracy and the lowest IoU of a class.

        IoU (Jaccard index): pixels of a class that are predicted as such, over those that have the
        class or are predicted as such; of all images together. Classes that occur in neither don't
        count, as in ``keras.metrics.MeanIoU`` and in ``sklearn.metrics.jaccard_score``.
        """
        matrix = self._confusion(predictions, targets)
        iou = compute_iou(matrix)
        measured = iou[np.isfinite(iou)]
        if not len(measured):
            raise UserError("no pixel of the held-out masks has a class.")
        return {
            "mean_iou": float(measured.mean()),
            "pixel_accuracy": float(np.trace(matrix) / max(1, matrix.sum())),
            "worst_class_iou": float(measured.min()),
        }

    def agreement(self, predictions: MaskPredictions, reference: MaskPredictions) -> float:
        """Return the fraction of pixels with the same predicted class."""
        masks = predictions.masks()  # at the size of the targets, if they were scored before
        return float((masks == reference.masks((masks.shape[2], masks.shape[1]))).mean())

    def details(self, predictions: MaskPredictions, targets: NDArray[Any]) -> dict[str, Any]:
        """Return metrics per class, the confusion matrix, and the class with the lowest IoU."""
        matrix = self._confusion(predictions, targets)
        iou = compute_iou(matrix)
        rows = metrics.per_class(matrix)
        true, predicted = matrix.nonzero()
        return {
            "worst_class": self.class_names[int(np.where(np.isfinite(iou), iou, np.inf).argmin())],
            "classes": {
                "class": list(self.class_names),
                "pixels": matrix.sum(axis=1).tolist(),
                "iou": [float(value) if np.isfinite(value) else None for value in iou],
                "precision": [row.precision for row in rows],
                "recall": [row.recall for row in rows],
            },
            "confusion_matrix": np.stack([true, predicted, matrix[true, predicted]], 1).tolist(),
        }

    def mistakes(self, predictions: MaskPredictions, targets: NDArray[Any]) -> NDArray[np.int64]:
        """Return the images with a wrong pixel, by their mean IoU, the lowest first."""
        targets = np.asarray(targets)
        masks = predictions.masks((targets.shape[2], targets.shape[1]))
        count = len(self.class_names)
        pairs = zip(targets, masks, strict=True)
        iou = np.array([_mean_iou(_count_pairs(target, mask, count)) for target, mask in pairs])
        found = np.flatnonzero(iou < 1)
        return found[np.argsort(iou[found], kind="stable")]

    # --------------------------------------------------------------------------------- presentation

    def format_annotation(self, target: Any) -> str:
        """Return the fractions of the largest true classes."""
        return caption_mask(np.asarray(target), self.class_names)

    def overlay(
        self, image: NDArray[Any], prediction: Any = None, target: Any = None
    ) -> NDArray[Any]:
        """Return the image in class colors: predicted beside true ones if both are given."""
        size = (image.shape[1], image.shape[0])
        masks = [] if prediction is None else [self._decoder.mask(prediction, size)]
        masks += [] if target is None else [np.asarray(target)]
        combined: NDArray[Any] = combine(image, masks, self._decoder.colors)
        return combined

    def draw(self, image: NDArray[Any], prediction: Any, target: Any = None) -> Image.Image:
        """Return the image in predicted and, optionally, true class colors, with a legend."""
        size = (image.shape[1], image.shape[0])
        masks = [self._decoder.mask(prediction, size)]
        masks += [] if target is None else [np.asarray(target)]
        drawn = self._decoder.draw_masks(image, masks)
        return drawn if target is None else add_captions(drawn, ["left: predicted, right: true"])

    def plot(self, predictions: MaskPredictions, targets: NDArray[Any]) -> dict[str, Figure]:
        """Return the plot of the confusion matrix; empty if there are too many classes to read."""
        from kerakit.report import charts

        if len(self.class_names) > MAX_PLOTTED_CLASSES:
            return {}
        matrix = self._confusion(predictions, targets)
        figure = charts.plot_confusion_matrix(matrix, self.class_names, normalize=True)
        return {"confusion_matrix": figure}

    def report(
        self, predictions: Mapping[str, MaskPredictions], targets: NDArray[Any]
    ) -> list[Section]:
        """Return sections with metrics per class, confusion matrices and most confused pairs."""
        from kerakit.report.charts import plot_confusion_matrix
        from kerakit.report.page import Chart, Note, Section, SideBySide
        from kerakit.report.tables import per_class_section

        matrices = {name: self._confusion(each, targets) for name, each in predictions.items()}
        columns = {
            name: self.details(each, targets)["classes"] for name, each in predictions.items()
        }
        note = "IoU: of all pixels of the class, true or predicted, the fraction that is both."
        sections = [per_class_section(columns, ("iou", "precision", "recall"), note)]
        titles = {name: name if len(matrices) > 1 else "" for name in matrices}
        if len(self.class_names) <= MAX_PLOTTED_CLASSES:
            charts = [
                (
                    titles[name],
                    Chart(
                        plot_confusion_matrix(matrix, self.class_names, normalize=True),
                        "confusion matrix of pixels: rows are true classes, columns predictions",
                    ),
                )
                for name, matrix in matrices.items()
            ]
            text = "Rows: true classes; columns: predictions. Numbers: fraction of the pixels."
            sections.append(Section("Confusion matrix", [SideBySide(charts), Note(text)]))
        pairs = [(titles[name], self._list_pairs(matrix)) for name, matrix in matrices.items()]
        return [*sections, Section("Most confused pairs", [SideBySide(pairs)])]

    def _list_pairs(self, matrix: NDArray[np.int64]) -> Any:
        """Return a table of the pairs of classes that most pixels are confused of."""
        from kerakit.report.formatting import format_percent
        from kerakit.report.page import Note, Table

        pairs = metrics.most_confused(matrix, MAX_PAIRS)
        if not pairs:
            return Note("All pixels are correct.")
        names = self.class_names
        rows = [
            [names[true], names[other], f"{n:,}", format_percent(n / matrix[true].sum(), 1)]
            for true, other, n in pairs
        ]
        headings = ["true class", "prediction", "pixels", "fraction of class"]
        return Table(headings, rows, headings[2:])


def compute_iou(matrix: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the IoU of each class of a confusion matrix, NaN where it does not occur.

    >>> compute_iou(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]])).tolist()
    [0.75, 0.8, nan]
    """
    correct = np.diag(matrix).astype(np.float64)
    union = matrix.sum(axis=0) + matrix.sum(axis=1) - correct
    iou = np.full(len(matrix), np.nan)
    np.divide(correct, union, out=iou, where=union > 0)
    return iou


def _count_pairs(target: NDArray[Any], mask: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Return the confusion matrix of one image over its pixels with a class."""
    known = (target != IGNORED) & (mask != IGNORED)
    pairs = target[known].astype(np.int64) * count + mask[known]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def _mean_iou(matrix: NDArray[np.int64]) -> float:
    """Return the mean IoU of the classes that occur; 1 if none does."""
    iou = compute_iou(matrix)
    return float(np.nanmean(iou)) if np.isfinite(iou).any() else 1.0
