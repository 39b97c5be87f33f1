"""The task: the only interface between the engine and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from kerakit import nested
from kerakit.device.captions import add_captions
from kerakit.errors import UserError, list_names
from kerakit.tasks.losses import LossFn, find_loss

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure
    from PIL import Image

    from kerakit.data.label_columns import Kind
    from kerakit.data.placement import Placement
    from kerakit.data.reader import Reader
    from kerakit.report.page import Section


Names = Sequence[str] | Mapping[str, Sequence[str]]
"""Class names; those of several outputs by their names."""


class ClassColumn(NamedTuple):
    """One class per image.

    Attributes:
        names: class names.
        labels: class indices, int64 (n,).
    """

    names: Sequence[str]
    labels: NDArray[np.int64]


class Predictions(Protocol):
    """Decoded predictions for n images, such as an array or a list."""

    def __len__(self) -> int:
        """Return n."""

    def __getitem__(self, i: int) -> Any:
        """Return the prediction for image ``i``."""


class Task:
    """Label encoding, model head, loss, decoding, metrics and drawing: the base of all tasks.

    A task of your own overrides ``head``, ``decode``, ``score``, ``agreement``, ``describe``,
    ``format_prediction``, and what else differs.

    Outputs of a model are one array, float32 (n, ...), or a dictionary of arrays by name. Targets
    are one array per image, or a dictionary. Coordinates of annotations are fractions of the width
    and height of the upright image.

    Attributes:
        name: name of the task, for config.json and reports.
        class_names: in the order of the model's outputs; also the lines of labels.txt.
        main_metric: the key of ``score`` that ranks models; higher is better, at most 1.
        monitor: key in the logs of ``fit`` that ranks checkpoints: "val_loss", or "val_" and a key
            of ``score``, which is then computed after each epoch; higher is better.
        mistakes_title: heading of the images that ``mistakes`` selects.
        overlay_note: which parts of ``overlay`` are predicted and which are true.
        default_loss: name of the loss of Keras, or function, of ``--loss auto``.
        default_metrics: names of the metrics of Keras that are logged.
        learned: names of the attributes that ``adapt`` and ``calibrate`` set, part of ``spec``.
        is_calibrated: whether ``calibrate`` has set thresholds, also part of ``spec``.
        needs_map: whether ``head`` needs features of shape (batch, height, width, channels); others
            take (batch, channels), too.
        has_coordinates: whether predictions depend on the position of the image in the input, or
            records on its size.
        mix_methods: what ``soft_targets`` can do: "mixup", "cutmix", both, or neither.
        supports_mosaic: whether annotations are dictionaries with "boxes", which mosaics combine.
        frozen: fraction of the backbone's layers that stay frozen in fine-tuning.
        end_to_end: whether fine-tuning trains head and backbone together from the start, on images
            and with BatchNorm; otherwise the head first, then both, on cached features where layers
            are frozen.
        prefix: of the names of the layers of ``head``.
        activation: activation, "softmax" or "sigmoid", that turns outputs into scores per pixel;
            "none" for all other outputs.
        class_weights: factor of each class in the loss, which ``balance_classes`` sets; None: 1.
        column: kind of the column of a table with these labels: "class", "set", "number", "mask".

    >>> from kerakit.tasks import Classification
    >>> task: Task = Classification(["cat", "dog"])
    >>> task.main_metric
    'accuracy'
    """

    name = ""
    main_metric = ""
    monitor = "val_loss"
    mistakes_title = "Most confident mistakes"
    overlay_note = ""
    default_loss: str | LossFn = ""
    default_metrics: tuple[Any, ...] = ()
    learned: tuple[str, ...] = ()
    is_calibrated = False
    needs_map = False
    frozen = 0.7
    end_to_end = False
    has_coordinates = True
    mix_methods: tuple[str, ...] = ()
    supports_mosaic = False
    prefix = ""
    column: Kind | None = None
    activation = "none"
    class_weights: list[float] | None = None

    def __init__(self, class_names: Names = ()) -> None:
        self.class_names: tuple[str, ...] = tuple(class_names)

    def spec(self) -> dict[str, Any]:
        """Return the values that define this task, as JSON: those of task.json of an export."""
        values = {name: getattr(self, name) for name in self.learned}
        if self.is_calibrated:
            values["is_calibrated"] = True
        return {"task": self.name, "classes": list(self.class_names), **values}

    def adapt(self, reader: Reader) -> Self:
        """Set what follows from the training labels, such as ranges of numbers; return self."""
        return self

    def balance_classes(self, reader: Reader) -> None:
        """Set ``class_weights`` by the frequency of the classes in the training labels.

        Raises:
            UserError: the labels have no classes: the default.
        """
        raise UserError(
            f"--class_weights weighs classes, which the task {self.name!r} does not have. Omit it."
        )

    def has_classes(self) -> bool:
        """Return whether ``balance_classes`` sets something."""
        return type(self).balance_classes is not Task.balance_classes

    def restore(self, spec: Mapping[str, Any]) -> Self:
        """Set what ``adapt`` and ``calibrate`` had set, from the values of ``spec``; return self.

        Raises:
            UserError: the values are those of another task, or damaged.
        """
        if spec and (
            spec.get("task") != self.name or spec.get("classes") != list(self.class_names)
        ):
            raise UserError(
                f"the task is {self.name} of {list_names(self.class_names)}; recorded is "
                f"{spec.get('task')} of {list_names(list(map(str, spec.get('classes') or ())))}. "
                "Restore task.py, or train again."
            )
        for name in (*self.learned, "is_calibrated"):
            if name in spec:
                setattr(self, name, spec[name])
        return self

    # ---------------------------------------------------------------------------------- annotations

    def resize(self, annotation: Any, placement: Placement) -> Any:
        """Return an annotation of the original image as one of the model's input, in its pixels.

        ``placement`` maps points, boxes and masks. Default: the annotation as it is.
        """
        return annotation

    def followers(self, annotation: Any) -> dict[str, Any]:
        """Return masks, boxes or keypoints to augment with the image, by albumentations' names."""
        return {}

    def compose_options(self) -> dict[str, Any]:
        """Return arguments of ``albumentations.Compose`` for the followers, such as bbox_params."""
        return {}

    def follow(self, annotation: Any, augmented: dict[str, Any]) -> Any:
        """Return an annotation with augmented followers: by default entries of the same names."""
        return {**annotation, **augmented}

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> Any:
        """Return the target for ``fit``, of fixed shape, from an annotation after augmentation."""
        return annotation

    def soft_targets(self, targets: Any, method: str) -> Any:
        """Return targets, float32 (batch, ...), whose weighted means are targets, too.

        Args:
            targets: encoded targets of a batch.
            method: "mixup" or "cutmix".

        Raises:
            UserError: there are none: the default.
        """
        raise UserError(
            f"--{method} blends labels, which the task {self.name!r} cannot do. Omit --{method}."
        )

    # ------------------------------------------------------------------------------------- training

    def head(self, features: Any) -> Any:
        """Return the model's outputs, Keras tensors, from a backbone's features.

        The last tensor that all outputs depend on should be the output of a layer named "features":
        training splits backbone and head there.
        """
        raise NotImplementedError

    def compile_options(
        self,
        model: keras.Model,
        args: Any,
        losses: Mapping[str, LossFn] | None = None,
        metrics: Sequence[Sequence[Any]] = (),
    ) -> dict[str, Any]:
        """Return ``loss``, ``loss_weights`` and ``metrics`` for ``model.compile``.

        Args:
            model: with one output or several.
            args: has ``loss`` (names: one for all outputs, or one per output; "auto": that of the
                task), ``loss_weights`` (one per output, or None), ``label_smoothing``, ``mixup``
                and ``cutmix``.
            losses: further losses by name.
            metrics: names per output; the last list applies to all following outputs; empty: those
                of the task.

        Raises:
            UserError: the numbers don't fit the outputs, or a loss is unknown.
        """
        count = len(model.outputs)
        names = losses_of(args, count, f"{count} output(s)")
        functions = [self.find_loss(name, args, losses or {}) for name in names]
        metrics = metrics or [self.default_metrics]
        columns = [list(metrics[min(i, len(metrics) - 1)]) for i in range(count)]
        return {
            "loss": functions if count > 1 else functions[0],
            "loss_weights": list(args.loss_weights) if args.loss_weights else None,
            "metrics": columns if count > 1 else columns[0],
        }

    def find_loss(self, name: str, args: Any, losses: Mapping[str, LossFn]) -> LossFn:
        """Return the loss of one output by the name that ``--loss`` gives."""
        if name != "auto":
            return find_loss(name, losses)
        return (
            find_loss(self.default_loss, {})
            if isinstance(self.default_loss, str)
            else self.default_loss
        )

    def _check_unweighted(self, name: str) -> None:
        """Raise UserError if a loss that does not count classes is to be weighted by classes."""
        if self.class_weights is not None:
            raise UserError(
                f"--class_weights weighs the loss of the task {self.name!r}, not --loss {name}. "
                "Omit one of them."
            )

    def inference_model(self, model: keras.Model) -> keras.Model:
        """Return the model that is evaluated and exported, with the weights of the trained one.

        Default: the trained model. Its outputs may be several tensors, so that values of different
        kinds do not share one scale in int8.
        """
        return model

    def output_labels(self, name: str) -> Sequence[str]:
        """Return the names along the last axis of an output of the inference model; () without.

        TensorFlow Lite files contain them. Default: the class names.

        Args:
            name: name of the output; "" for the only one.
        """
        return self.class_names

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless the shapes of the outputs of ``model`` fit this task."""

    def check_outputs(self, outputs: Any) -> None:
        """Raise UserError unless the values of outputs (n, ...) of the inference model fit.

        Called with outputs for real images before training, in evaluation and at export.
        """
        check_finite_outputs(outputs)

    # ----------------------------------------------------------------------------------- evaluation

    def decode(self, outputs: Any) -> Any:
        """Return the predictions for outputs (n, ...) of the inference model."""
        return outputs

    def has_thresholds(self) -> bool:
        """Return whether ``calibrate`` sets something."""
        return type(self).calibrate is not Task.calibrate

    def calibrate(self, predictions: Any, targets: Any) -> None:
        """Choose thresholds by predictions for validation images; default: there are none."""

    def score(self, predictions: Any, targets: Any) -> dict[str, float]:
        """Return the metrics of predictions against targets (n, ...), the main metric first."""
        raise NotImplementedError

    def agreement(self, predictions: Any, reference: Any) -> float:
        """Return the agreement of two sets of predictions, from 0 to 1."""
        raise NotImplementedError

    def details(self, predictions: Any, targets: Any) -> dict[str, Any]:
        """Return the breakdown for evaluation.json and the report pages, as JSON values."""
        return {}

    def mistakes(self, predictions: Any, targets: Any) -> NDArray[Any]:
        """Return the sample indices of mistakes, int64, the most instructive first."""
        return np.zeros(0, np.int64)

    def class_columns(self, targets: Any) -> dict[str, ClassColumn]:
        """Return the class labels of encoded targets (n, ...) by column; "" for the only one.

        `kerakit check --labels` checks them. Default: there are none.
        """
        return {}

    # --------------------------------------------------------------------------------- presentation

    def locate(self, prediction: Any, placement: Placement) -> Any:
        """Return a prediction with coordinates of the original image instead of the input."""
        return prediction

    def describe(
        self, prediction: Any, top: int | None = None, size: tuple[int, int] = (1, 1)
    ) -> list[dict[str, Any]]:
        """Return a prediction as up to ``top`` records for CSV and JSON.

        Args:
            prediction: a prediction, located in its image.
            top: number of records; None: as many as are usual for the task.
            size: (width, height) of the image in pixels, if ``has_coordinates``.
        """
        raise NotImplementedError

    def format_prediction(self, prediction: Any) -> str:
        """Return a prediction as one line of text, for captions."""
        raise NotImplementedError

    def format_annotation(self, target: Any) -> str:
        """Return an encoded target as one line of text, for captions."""
        return str(target)

    def overlay(
        self, image: NDArray[Any], prediction: Any = None, target: Any = None
    ) -> NDArray[Any]:
        """Return an input image, uint8 (height, width, 3), with boxes, masks or points drawn."""
        return image

    def draw(self, image: NDArray[Any], prediction: Any, target: Any = None) -> Image.Image:
        """Return an image with prediction and, optionally, true label drawn and written below."""
        lines = [f"predicted: {self.format_prediction(prediction)}"]
        lines += [] if target is None else [f"true: {self.format_annotation(target)}"]
        return add_captions(self.overlay(image, prediction, target), lines)

    def plot(self, predictions: Any, targets: Any) -> dict[str, Figure]:
        """Return the plots of an evaluation by name, for the ``plots/`` folder of a run."""
        return {}

    def report(self, predictions: Mapping[str, Any], targets: Any) -> list[Section]:
        """Return sections of a report page about predictions of the same images, by model name."""
        return []


def losses_of(args: Any, count: int, outputs: str) -> list[str]:
    """Return the names of the losses of ``count`` outputs.

    Args:
        args: see ``Task.compile_options``.
        count: number of outputs.
        outputs: the outputs, for the message.

    Raises:
        UserError: the numbers of losses or of their weights don't fit.
    """
    names = list(args.loss) * count if len(args.loss) == 1 else list(args.loss)
    for flag, values in (("--loss", names), ("--loss_weights", args.loss_weights)):
        if values is not None and len(values) != count:
            raise UserError(
                f"{flag} has {len(values)} value(s); the model has {outputs}. Give one each."
            )
    return names


def label_lines(task: Task) -> list[str]:
    """Return the lines of labels.txt: class names, those of several outputs as output/class.

    >>> from kerakit.tasks import Classification
    >>> label_lines(Classification(["cat", "dog"]))
    ['cat', 'dog']
    """
    names: Any = task.class_names
    if isinstance(names, dict):
        return [f"{name}/{one}" for name, of_output in names.items() for one in of_output]
    return list(names)


def check_finite_outputs(outputs: Any) -> None:
    """Raise UserError if outputs (n, ...) have NaN or infinite values.

    >>> check_finite_outputs(np.array([[0.5], [np.nan]]))
    Traceback (most recent call last):
    kerakit.errors.UserError: the model outputs NaN or infinite values for 1 of 2 images. ...
    """
    rows = [
        ~np.isfinite(array).reshape(len(array), -1).all(axis=1) for array in nested.arrays(outputs)
    ]
    broken = np.any(rows, axis=0)
    if broken.any():
        raise UserError(
            f"the model outputs NaN or infinite values for {broken.sum()} of {len(broken)} images. "
            "Its weights are damaged, or its training diverged: train again, with a smaller "
            "--learning_rate."
        )


class DecodedTask(Task):
    """Base of the tasks whose predictions are decoded and described by a file of the device.

    Attributes:
        decoder_class: the ``Decoder`` of that file.
    """

    decoder_class: type[Any]

    @property
    def _decoder(self) -> Any:
        return self.decoder_class(self.spec())

    def locate(self, prediction: Any, placement: Placement) -> Any:
        """Return a prediction with coordinates of the original image instead of the input."""
        if not self.has_coordinates:
            return prediction
        return self._decoder.to_image(prediction, placement.layout)

    def describe(
        self, prediction: Any, top: int | None = None, size: tuple[int, int] = (1, 1)
    ) -> list[dict[str, Any]]:
        """Return a prediction as records; see ``describe`` of the decoder, also for ``top``."""
        options = {} if top is None else {"top": top}
        records: list[dict[str, Any]] = self._decoder.describe(prediction, size=size, **options)
        return records

    def format_prediction(self, prediction: Any) -> str:
        """Return a prediction as one line of text: the caption of the decoder."""
        return str(self._decoder.caption(prediction))


def select_outputs(model: keras.Model, layers: Mapping[str, str]) -> keras.Model:
    """Return a model with the outputs of layers of ``model``, by names, and its weights.

    Args:
        model: a model, or the part of one above frozen layers.
        layers: name of the layer of each output, by the name of the output.

    >>> import keras
    >>> image = keras.Input((2,))
    >>> model = keras.Model(image, keras.layers.ReLU()(keras.layers.Dense(3, name="inner")(image)))
    >>> sorted(select_outputs(model, {"x": "inner"}).output)
    ['x']
    """
    import keras

    from kerakit.models.levels import find_tensors

    tensors = find_tensors(model.outputs[0], list(layers.values()))
    return keras.Model(model.input, dict(zip(layers, tensors, strict=True)), name=model.name)


def check_class_count(model: keras.Model, task: Task) -> None:
    """Raise UserError unless the last axis of the output of ``model`` is that of the classes."""
    count = model.outputs[0].shape[-1]
    if count != len(task.class_names):
        raise UserError(f"the model has {count} classes, the dataset {len(task.class_names)}.")


def check_output_shape(
    model: keras.Model, task: str, expected: Callable[[tuple[Any, ...]], bool], text: str
) -> None:
    """Raise UserError unless ``model`` has one output of the expected shape.

    Args:
        model: the model.
        task: name of the task.
        expected: whether a shape without the batch axis fits.
        text: the expected shape, for the message.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs:
        raise UserError(
            f"the model {model.name} has no graph of layers, as a subclass of keras.Model or "
            "an unbuilt Sequential. Return keras.Model(image, model(image)) from construct, "
            "with image = keras.Input(input_shape)."
        )
    shapes = [tuple(output.shape) for output in outputs]
    if len(shapes) != 1 or not expected(shapes[0][1:]):
        raise UserError(
            f"the model has {len(shapes)} output(s) of shape {', '.join(map(str, shapes))}; {task} "
            f"expects one output of {text}. For other outputs, return a task of your own in "
            "task.py."
        )


def pool(features: keras.KerasTensor, name: str = "features") -> keras.KerasTensor:
    """Return features (batch, channels): averaged by a layer of this name if they are a map."""
    from keras import layers

    if len(features.shape) == 4:
        return layers.GlobalAveragePooling2D(name=name)(features)
    return features
