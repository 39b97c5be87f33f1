"""Several outputs: one task made of named tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from kerakit.device.decoders import split_outputs
from kerakit.errors import UserError
from kerakit.tasks.base import ClassColumn, Task, losses_of, pool
from kerakit.tasks.followers import merge_followers, merge_options, split_followers

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure

    from kerakit.data.placement import Placement
    from kerakit.data.reader import Reader
    from kerakit.report.page import Section
    from kerakit.tasks.losses import LossFn


class MultiTask(Task):
    """Task with several outputs of one model, each a task with a name.

    Annotations, targets and outputs are dictionaries with the values of the tasks by name. The main
    metric is the mean of their main metrics.

    Args:
        tasks: the tasks by name: letters, digits and underscores.

    >>> from kerakit.tasks import Classification, Regression
    >>> task = MultiTask({"animal": Classification(["cat", "dog"]), "age": Regression(["age"])})
    >>> task.class_names
    {'animal': ('cat', 'dog'), 'age': ('age',)}
    """

    name = "multitask"
    main_metric = "mean_score"

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        if not tasks or not all(name.isidentifier() for name in tasks):
            raise UserError(
                f"the outputs are named {', '.join(map(repr, tasks)) or 'not at all'}. Expected "
                "names of letters, digits and underscores."
            )
        self.tasks = dict(tasks)
        for name, task in self.tasks.items():
            task.prefix = f"{name}_"
        self.class_names = {  # type: ignore[assignment] # by output
            name: task.class_names for name, task in self.tasks.items()
        }
        self.needs_map = any(task.needs_map for task in self.tasks.values())
        self.has_coordinates = any(task.has_coordinates for task in self.tasks.values())
        self.mix_methods = _common_methods(self.tasks.values())
        notes = (task.overlay_note for task in self.tasks.values())
        self.overlay_note = " ".join(note for note in notes if note)
        self.frozen = min(task.frozen for task in self.tasks.values())
        # Numbers alone need no images in each epoch beside other outputs.
        self.end_to_end = any(task.end_to_end and task.needs_map for task in self.tasks.values())

    @classmethod
    def of(cls, tasks: Mapping[str, type[Task]]) -> type[Self]:
        """Return a subclass whose ``mix_methods`` are those of classes of tasks.

        ``search.py`` reads them before a dataset names the classes.

        >>> from kerakit.tasks import Classification, Regression
        >>> MultiTask.of({"animal": Classification, "age": Regression}).mix_methods
        ('mixup',)
        """
        return type(cls.__name__, (cls,), {"mix_methods": _common_methods(tasks.values())})

    def spec(self) -> dict[str, Any]:
        """Return the values of all tasks."""
        spec: dict[str, Any] = {
            "task": self.name,
            "tasks": {name: task.spec() for name, task in self.tasks.items()},
        }
        return {**spec, "is_calibrated": True} if self.is_calibrated else spec

    def adapt(self, reader: Reader) -> Self:
        """Adapt each task to its labels."""
        for name, task in self.tasks.items():
            task.adapt(_OneOutput(reader, name))
        return self

    def has_classes(self) -> bool:
        """Return whether a task has classes."""
        return any(task.has_classes() for task in self.tasks.values())

    def balance_classes(self, reader: Reader) -> None:
        """Set the class weights of each task that has classes."""
        if not self.has_classes():
            super().balance_classes(reader)
        for name, task in self.tasks.items():
            if task.has_classes():
                task.balance_classes(_OneOutput(reader, name))

    def restore(self, spec: Mapping[str, Any]) -> Self:
        """Restore each task."""
        recorded = spec.get("tasks", {}) if spec else {}
        if spec and list(recorded) != list(self.tasks):
            raise UserError(
                f"the outputs are {', '.join(self.tasks)}; recorded are {', '.join(recorded)}. "
                "Restore task.py, or train again."
            )
        for name, task in self.tasks.items():
            task.restore(recorded.get(name, {}))
        self.is_calibrated = bool(spec) and spec.get("is_calibrated", False)
        return self

    # ---------------------------------------------------------------------------------- annotations

    def resize(self, annotation: Any, placement: Placement) -> Any:
        """Resize the annotation of each task."""
        return {name: task.resize(annotation[name], placement) for name, task in self.tasks.items()}

    def _followers(self, annotation: Any) -> dict[str, dict[str, Any]]:
        return {name: task.followers(annotation[name]) for name, task in self.tasks.items()}

    def followers(self, annotation: Any) -> dict[str, Any]:
        """Return the followers of all tasks, see ``merge_followers``."""
        return merge_followers(self._followers(annotation))

    def compose_options(self) -> dict[str, Any]:
        """Return the options of all tasks, see ``merge_options``."""
        return merge_options(self.tasks)

    def follow(self, annotation: Any, augmented: dict[str, Any]) -> Any:
        """Pass augmented followers to the tasks that they are from."""
        moved = dict(annotation)
        for name, own in split_followers(self._followers(annotation), augmented).items():
            if own:
                moved[name] = self.tasks[name].follow(annotation[name], own)
        return moved

    def encode(self, annotation: Any, input_size: tuple[int, int]) -> dict[str, Any]:
        """Return the target of each task."""
        return {
            name: task.encode(annotation[name], input_size) for name, task in self.tasks.items()
        }

    def soft_targets(self, targets: Any, method: str) -> dict[str, Any]:
        """Return the soft targets of each task."""
        return {name: task.soft_targets(targets[name], method) for name, task in self.tasks.items()}

    # ------------------------------------------------------------------------------------- training

    def head(self, features: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
        """Return the output of each task by its name."""
        # Tasks on several levels mark the end of the backbone themselves.
        pooled = pool(features, "pooled" if self.needs_map else "features")
        return {
            name: task.head(features if task.needs_map else pooled)
            for name, task in self.tasks.items()
        }

    def compile_options(
        self,
        model: keras.Model,
        args: Any,
        losses: Mapping[str, LossFn] | None = None,
        metrics: Sequence[Sequence[Any]] = (),
    ) -> dict[str, Any]:
        """Return losses, weights and metrics by the names of the outputs."""
        names = list(self.tasks)
        chosen = losses_of(args, len(names), f"the outputs {', '.join(names)}")
        weights = args.loss_weights
        return {
            "loss": {
                name: self.tasks[name].find_loss(loss, args, losses or {})
                for name, loss in zip(names, chosen, strict=True)
            },
            "loss_weights": dict(zip(names, weights, strict=True)) if weights else None,
            "metrics": {
                name: list(metrics[min(i, len(metrics) - 1)] if metrics else task.default_metrics)
                for i, (name, task) in enumerate(self.tasks.items())
            },
        }

    def inference_model(self, model: keras.Model) -> keras.Model:
        """Return the model with the outputs of the tasks' inference models, ``task.output``."""
        import keras

        outputs: dict[str, Any] = {}
        for name, tensor in model.output.items():
            part = self.tasks[name].inference_model(keras.Model(model.input, tensor))
            own = part.output if isinstance(part.output, dict) else {"": part.outputs[0]}
            outputs.update({f"{name}.{key}".rstrip("."): value for key, value in own.items()})
        return keras.Model(model.input, outputs, name=model.name)

    def output_labels(self, name: str) -> Sequence[str]:
        """Return the names of the output of a task: "task", or "task.output"."""
        task, _, output = name.partition(".")
        return self.tasks[task].output_labels(output)

    def check_model(self, model: keras.Model) -> None:
        """Raise UserError unless the outputs of ``model`` are those of the tasks."""
        import keras

        output = model.output if getattr(model, "outputs", None) else None
        if not isinstance(output, dict) or set(output) != set(self.tasks):
            found = ", ".join(output) if isinstance(output, dict) else "without names"
            raise UserError(
                f"the outputs of the model are {found}; expected a dictionary with "
                f"{', '.join(self.tasks)}, as task.head(x) returns."
            )
        for name, task in self.tasks.items():
            try:
                task.check_model(keras.Model(model.inputs[0], output[name]))
            except UserError as error:
                raise UserError(f"output {name}: {error}") from None

    def check_outputs(self, outputs: Any) -> None:
        """Raise UserError unless the outputs of each task fit it."""
        for name, values in split_outputs(outputs).items():
            try:
                self.tasks[name].check_outputs(values)
            except UserError as error:
                raise UserError(f"output {name}: {error}") from None

    # ----------------------------------------------------------------------------------- evaluation

    def decode(self, outputs: Any) -> MultiPredictions:
        """Return the predictions of each task."""
        parts = split_outputs(outputs)
        return MultiPredictions({name: self.tasks[name].decode(one) for name, one in parts.items()})

    def has_thresholds(self) -> bool:
        """Return whether a task has thresholds."""
        return any(task.has_thresholds() for task in self.tasks.values())

    def calibrate(self, predictions: MultiPredictions, targets: Any) -> None:
        """Choose the thresholds of each task."""
        for name, task in self.tasks.items():
            task.calibrate(predictions.parts[name], targets[name])

    def _scores(self, predictions: MultiPredictions, targets: Any) -> dict[str, dict[str, float]]:
        return {
            name: task.score(predictions.parts[name], targets[name])
            for name, task in self.tasks.items()
        }

    def score(self, predictions: MultiPredictions, targets: Any) -> dict[str, float]:
        """Return the mean of the main metrics, then the metrics of each task, ``task_metric``."""
        scores = self._scores(predictions, targets)
        main = [scores[name][task.main_metric] for name, task in self.tasks.items()]
        return {
            self.main_metric: float(np.mean(main)),
            **{
                f"{name}_{metric}": value
                for name, of_task in scores.items()
                for metric, value in of_task.items()
            },
        }

    def class_columns(self, targets: Any) -> dict[str, ClassColumn]:
        """Return the columns of the tasks with classes: output, or output/column."""
        return {
            f"{name}/{column}".rstrip("/"): labels
            for name, task in self.tasks.items()
            for column, labels in task.class_columns(targets[name]).items()
        }

    def agreement(self, predictions: MultiPredictions, reference: MultiPredictions) -> float:
        """Return the lowest agreement of a task."""
        return min(
            task.agreement(predictions.parts[name], reference.parts[name])
            for name, task in self.tasks.items()
        )

    def details(self, predictions: MultiPredictions, targets: Any) -> dict[str, Any]:
        """Return the details of each task."""
        return {
            "outputs": {
                name: task.details(predictions.parts[name], targets[name])
                for name, task in self.tasks.items()
            }
        }

    def mistakes(self, predictions: MultiPredictions, targets: Any) -> NDArray[np.int64]:
        """Return the mistakes of all tasks, in turn."""
        lists = [
            task.mistakes(predictions.parts[name], targets[name]).tolist()
            for name, task in self.tasks.items()
        ]
        ranked = [
            row[i] for i in range(max(map(len, lists), default=0)) for row in lists if i < len(row)
        ]
        return np.array(list(dict.fromkeys(ranked)), np.int64)

    # --------------------------------------------------------------------------------- presentation

    def locate(self, prediction: Any, placement: Placement) -> Any:
        """Locate the prediction of each task."""
        return {name: self.tasks[name].locate(one, placement) for name, one in prediction.items()}

    def describe(
        self, prediction: Any, top: int | None = None, size: tuple[int, int] = (1, 1)
    ) -> list[dict[str, Any]]:
        """Return one record with the first record of each task, ``task_key``."""
        record: dict[str, Any] = {}
        for name, one in prediction.items():
            rows = self.tasks[name].describe(one, top or 1, size)
            record.update(
                {f"{name}_{key}": value for row in rows[:1] for key, value in row.items()}
            )
        return [record]

    def format_prediction(self, prediction: Any) -> str:
        """Return the predictions of all tasks."""
        return "; ".join(self.tasks[n].format_prediction(one) for n, one in prediction.items())

    def format_annotation(self, target: Any) -> str:
        """Return the true labels of all tasks."""
        return "; ".join(self.tasks[n].format_annotation(one) for n, one in target.items())

    def overlay(
        self, image: NDArray[Any], prediction: Any = None, target: Any = None
    ) -> NDArray[Any]:
        """Draw the prediction of each task."""
        for name, task in self.tasks.items():
            image = task.overlay(
                image,
                None if prediction is None else prediction[name],
                None if target is None else target[name],
            )
        return image

    def plot(self, predictions: MultiPredictions, targets: Any) -> dict[str, Figure]:
        """Return the plots of all tasks, ``task_plot``."""
        return {
            f"{name}_{key}": figure
            for name, task in self.tasks.items()
            for key, figure in task.plot(predictions.parts[name], targets[name]).items()
        }

    def report(self, predictions: Mapping[str, MultiPredictions], targets: Any) -> list[Section]:
        """Return the sections of all tasks, with their names."""
        from kerakit.report.page import Section

        sections = []
        for name, task in self.tasks.items():
            parts = {model: each.parts[name] for model, each in predictions.items()}
            sections += [
                Section(f"{name}: {one.heading[:1].lower()}{one.heading[1:]}", one.blocks)
                for one in task.report(parts, targets[name])
            ]
        return sections


def _common_methods(tasks: Iterable[Task | type[Task]]) -> tuple[str, ...]:
    """Return the methods of blending labels that all tasks have."""
    every = [set(task.mix_methods) for task in tasks]
    return tuple(method for method in ("mixup", "cutmix") if all(method in one for one in every))


class MultiPredictions:
    """Predictions of several tasks for n images.

    Attributes:
        parts: the predictions of each task by its name.
    """

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = dict(parts)

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {name: part[i] for name, part in self.parts.items()}


class _OneOutput:
    """The labels of one output of a reader."""

    def __init__(self, reader: Reader, name: str) -> None:
        self._reader, self._name = reader, name

    def __len__(self) -> int:
        return len(self._reader)

    def target(self, i: int) -> Any:
        target: Any = self._reader.target(i)
        return target[self._name]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)
