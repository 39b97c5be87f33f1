"""Decoders of the built-in tasks by name, for the engine and for devices.

Needs Python 3.7, NumPy and Pillow only: it is copied into device bundles, with the files of the
tasks that the model has. Each of them has a class ``Decoder`` with the methods of ``Several``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if __package__ or TYPE_CHECKING:  # in Kerakit
    from kerakit.device.captions import Labels
else:  # on a device: the files beside this one
    from captions import Labels

TASKS = ("classification", "multilabel", "regression", "segmentation", "keypoints", "detection")


def make_decoder(spec: dict[str, Any]) -> Any:
    """Return the decoder of the task of a model; ``Raw`` for a task that is not built in.

    Args:
        spec: content of task.json.

    Raises:
        ValueError: damaged values.
    """
    name = spec.get("task")
    if name == "multitask":
        return Several(spec)
    if name not in TASKS:
        return Raw()
    try:
        module = importlib.import_module(f"{__package__}.{name}" if __package__ else name)
    except ImportError as error:
        raise ValueError(f"the decoder of the task in task.json is missing ({error})") from None
    try:
        return module.Decoder(spec)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"task.json is damaged: {error!r}") from None


def task_files(spec: dict[str, Any]) -> list[str]:
    """Return the names of the Python files that the task of a model needs, without this one."""
    parts = spec["tasks"].values() if spec["task"] == "multitask" else [spec]
    names = {part["task"] for part in parts if part["task"] in TASKS}
    colored = {"colors"} if names & {"segmentation", "keypoints"} else set()
    return sorted(f"{name}.py" for name in names | colored)


class Raw(Labels):
    """Outputs as they are, for tasks of the owner's own."""

    def decode(self, outputs: Any) -> Any:
        """Return the outputs by their names."""
        return outputs if isinstance(outputs, dict) else {"output": outputs}

    def ties(self, outputs: Any, step: float) -> bool:
        """Return True: what a difference changes is not known."""
        return True

    def same(self, prediction: Any, other: Any) -> bool:
        """Whether two predictions are equal."""
        return all((one == other[name]).all() for name, one in prediction.items())

    def describe(self, prediction: Any, top: int = 1, size: Any = None) -> list[dict[str, Any]]:
        """Return one record of all outputs."""
        return [{name: values.tolist() for name, values in prediction.items()}]

    def caption(self, prediction: Any, top: int = 1) -> str:
        """Return the first values of each output."""
        return "; ".join(
            f"{name} {' '.join(f'{value:.3g}' for value in values.ravel()[:8].tolist())}"
            f"{' ...' if values.size > 8 else ''}"
            for name, values in prediction.items()
        )

    def draw(self, image: Any, prediction: Any) -> Any:
        """Return the image."""
        return image


def split_outputs(outputs: Any) -> dict[str, Any]:
    """Return the outputs of each task by its name; those of several tensors are dictionaries.

    Args:
        outputs: by "task", or by "task.output" where a task has several.
    """
    parts: dict[str, Any] = {}
    for key, value in outputs.items():
        name, _, own = key.partition(".")
        if own:
            parts.setdefault(name, {})[own] = value
        else:
            parts[name] = value
    return parts


class Several:
    """Decodes the outputs of one image of a model with several tasks.

    Args:
        spec: ``tasks``: the values of each task by its name.
    """

    def __init__(self, spec: dict[str, Any]) -> None:
        if not isinstance(spec.get("tasks"), dict):
            raise ValueError("task.json is damaged: it has no tasks")
        self._decoders = {name: make_decoder(part) for name, part in spec["tasks"].items()}
        self.has_coordinates = any(one.has_coordinates for one in self._decoders.values())

    def decode(self, outputs: Any) -> Any:
        """Return the prediction of each task; coordinates are fractions of the model's input."""
        return {
            name: self._decoders[name].decode(one) for name, one in split_outputs(outputs).items()
        }

    def ties(self, outputs: Any, step: float) -> bool:
        """Whether a difference of ``step`` in the outputs may change a prediction."""
        parts = split_outputs(outputs)
        return any(self._decoders[name].ties(one, step) for name, one in parts.items())

    def same(self, prediction: Any, other: Any) -> bool:
        """Whether two predictions agree."""
        return all(self._decoders[name].same(one, other[name]) for name, one in prediction.items())

    def to_image(self, prediction: Any, layout: Any) -> Any:
        """Return the predictions in fractions of the upright original image."""
        return {
            name: self._decoders[name].to_image(one, layout) for name, one in prediction.items()
        }

    def describe(self, prediction: Any, top: int = 1, size: Any = None) -> list[dict[str, Any]]:
        """Return one record with the first record of each task, ``task_key``."""
        record: dict[str, Any] = {}
        for name, one in prediction.items():
            for row in self._decoders[name].describe(one, top, size)[:1]:
                record.update({f"{name}_{key}": value for key, value in row.items()})
        return [record]

    def caption(self, prediction: Any, top: int = 1) -> str:
        """Return the captions of all tasks."""
        return "; ".join(
            f"{name}: {self._decoders[name].caption(one, top)}" for name, one in prediction.items()
        )

    def draw(self, image: Any, prediction: Any) -> Any:
        """Return the image, uint8 (height, width, 3), with all predictions drawn."""
        for name, one in prediction.items():
            image = self._decoders[name].draw(image, one)
        return image
