"""The formats of Keras: HDF5 and .keras."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kerakit.architecture import flatten_layers
from kerakit.console import quiet_logs
from kerakit.deploy.formats.base import ExportSource, WrittenFormat
from kerakit.errors import JobError, first_line
from kerakit.files import check_disk_space
from kerakit.inference import PredictFn, keras_predict_fn
from kerakit.weights import estimate_weights_size

if TYPE_CHECKING:
    import keras


class KerasFile:
    """A file for ``keras.models.load_model``; its file extension selects the format.

    Args:
        name: name of the format.
        file: its file name, ending in .h5 or .keras.
    """

    def __init__(self, name: str, file: str) -> None:
        self.name, self.file = name, file

    def check(self, source: ExportSource) -> None:
        """Raise JobError for layers whose code the file cannot hold."""
        if layers := list(_unloadable_layers(source.model)):
            raise JobError(
                f"{self.file} cannot hold the code of {', '.join(layers)}. Use layers of Keras, "
                "decorate the class with keras.saving.register_keras_serializable, or omit this "
                "format from --formats"
            )

    def write(self, source: ExportSource) -> WrittenFormat:
        """Save architecture and weights, without the optimizer's state."""
        path = source.folder / self.file
        check_disk_space(source.folder, estimate_weights_size(source.model))
        model = _with_layers(source.model) if path.suffix == ".h5" else source.model
        with quiet_logs():
            model.save(path, include_optimizer=False)
        return WrittenFormat(path)

    def load(self, path: Path, names: tuple[str, ...] = ()) -> PredictFn:
        """Load the file with Keras."""
        import keras

        try:
            with quiet_logs():
                return keras_predict_fn(keras.models.load_model(path, compile=False), names)
        except (TypeError, ValueError) as error:
            raise JobError(f"Keras cannot load {path.name}: {first_line(error)}") from error


KERAS = KerasFile("keras", "model.keras")
H5 = KerasFile("h5", "model.h5")


def _unloadable_layers(model: keras.Model) -> Iterator[str]:
    """Yield a description of each layer that is a Python function or an unregistered class."""
    import keras

    for layer in flatten_layers(model):
        kind = type(layer)
        if isinstance(layer, keras.layers.Lambda):
            yield f"layer '{layer.name}' (Lambda)"
        elif (
            kind.__module__.partition(".")[0] != "keras"
            and keras.saving.get_registered_object(keras.saving.get_registered_name(kind)) is None
        ):
            yield f"layer '{layer.name}' ({kind.__name__}, a class of your own)"


def _with_layers(model: keras.Model) -> keras.Model:
    """Return an equal model with layers for arithmetic, such as ``x + 3`` of a hard swish.

    HDF5 cannot hold it otherwise. The model itself is returned if it has none.
    """
    import keras

    replaced: list[str] = []

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        found = None if kwargs else _layer_of(operation, args)
        if found is None:
            return operation(*args, **kwargs)
        layer, inputs = found
        replaced.append(operation.name)
        return layer(inputs)

    def clone(layer: Any) -> Any:
        if isinstance(layer, keras.Model):
            return rebuild(layer)
        return layer.__class__.from_config(layer.get_config())

    def rebuild(part: Any) -> Any:
        return keras.models.clone_model(part, clone_function=clone, call_function=call)

    if all(isinstance(one, keras.Layer) for one in _operations(model)):
        return model
    other = rebuild(model)
    if not replaced:
        return model
    other.set_weights(model.get_weights())
    return other


def _operations(model: keras.Model) -> Iterator[Any]:
    """Yield the operations of a functional model, those of nested models too."""
    for part in (model, *flatten_layers(model)):
        yield from getattr(part, "operations", ())


def _layer_of(operation: Any, args: tuple[Any, ...]) -> tuple[Any, Any] | None:
    """Return a layer that does the arithmetic of an operation, and its inputs; None for others."""
    from keras import KerasTensor, layers

    kind, name = type(operation).__name__, operation.name
    if isinstance(operation, layers.Layer) or len(args) != 2:
        return None
    first, second = args
    numbers = [one for one in args if isinstance(one, int | float)]
    if numbers:
        (number,), is_first = numbers, numbers[0] is first
        rescalings = {
            "Add": (1.0, number),
            "Subtract": (-1.0, number) if is_first else (1.0, -number),
            "Multiply": (number, 0.0),
        }
        if number and not is_first:
            rescalings["Divide"] = rescalings["TrueDivide"] = (1 / number, 0.0)
        if kind not in rescalings:
            return None
        return layers.Rescaling(*rescalings[kind], name=name), second if is_first else first
    merges = {"Add": layers.Add, "Subtract": layers.Subtract, "Multiply": layers.Multiply}
    if kind not in merges or not all(isinstance(one, KerasTensor) for one in args):
        return None
    if len(first.shape) != len(second.shape):
        return None
    return merges[kind](name=name), [first, second]
