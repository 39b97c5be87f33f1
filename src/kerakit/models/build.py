"""Building a model from a file of the project's ``models/`` folder and a task's head."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import io
import re
import sys
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from kerakit.architecture import flatten_layers
from kerakit.errors import UserError, WeightsNotFoundError, list_names

if TYPE_CHECKING:
    import keras

    from kerakit.tasks import Task

Weights = Literal["auto", "imagenet", "none"]


class ModelFiles(UserDict[str, Callable[..., Any]]):
    """The models of a project by name: each file of its ``models/`` folder, and further entries.

    A file ``models/<name>.py`` is imported when its entry is first read; its ``construct`` function
    is the value. Files whose name begins with an underscore are not models.

    Args:
        folder: the ``models/`` package, importable by its name.

    >>> models = ModelFiles(Path("models"))
    >>> models["mine"] = lambda input_shape, task: ...
    >>> list(models)
    ['mine']
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._package = folder.name
        # A file with a dot in its name, such as v1.5.py, cannot be imported.
        names = sorted(path.stem for path in folder.glob("[!_]*.py") if "." not in path.stem)
        self.data = dict.fromkeys(names)  # type: ignore[assignment] # imported by __getitem__

    def __getitem__(self, name: str) -> Callable[..., Any]:
        """Return the ``construct`` function of a model."""
        if self.data[name] is None:
            module = importlib.import_module(f"{self._package}.{name}")
            if not hasattr(module, "construct"):
                raise UserError(
                    f"{module.__file__} has no function construct(input_shape, task). Add it, or "
                    "begin the name of the file with an underscore if it is not a model."
                )
            self.data[name] = module.construct
        return self.data[name]


def build_model(
    construct: Callable[..., Any],
    input_size: tuple[int, int],
    task: Task,
    weights: Weights = "none",
) -> tuple[keras.Model, Literal["imagenet", "none"]]:
    """Build a model, with ImageNet weights where requested and available.

    Args:
        construct: ``construct(input_shape, task)`` or ``construct(input_shape, num_classes)``;
            without a third parameter ``weights`` the model has no pretrained weights.
        input_size: (width, height) in pixels.
        task: its ``head`` makes the outputs.
        weights: "imagenet" (an error if not available), "none", or "auto": ImageNet weights, or
            none with a warning.

    Returns:
        The model, and the weights that it starts from.

    Raises:
        UserError: "imagenet" was requested and is not available, or ``construct`` returned
            anything but a model with one input and valid layer names.

    >>> import keras
    >>> from kerakit.tasks import Classification
    >>> def construct(input_shape, task):
    ...     image = keras.Input(input_shape)
    ...     return keras.Model(image, task.head(image))
    >>> model, weights = build_model(construct, (32, 24), Classification(["cat", "dog"]))
    >>> model.input_shape, model.output_shape, weights
    ((None, 24, 32, 3), (None, 2), 'none')
    """
    import keras

    # keras.json of earlier projects may have channels_first: it would train, on other axes.
    keras.config.set_image_data_format("channels_last")
    input_shape = (input_size[1], input_size[0], 3)
    parameters = inspect.signature(construct).parameters
    given = len(task.class_names) if "num_classes" in parameters else task
    name = construct.__module__.rsplit(".", 1)[-1]
    model, used = _construct(construct, input_shape, given, weights, name)
    _check(model, name)
    return model, used


def _construct(
    construct: Callable[..., Any],
    input_shape: tuple[int, int, int],
    given: Task | int,
    weights: Weights,
    name: str,
) -> tuple[keras.Model, Literal["imagenet", "none"]]:
    """Call ``construct`` with or without ImageNet weights; see ``build_model``."""
    if weights == "none":
        return construct(input_shape, given), "none"
    if "weights" not in inspect.signature(construct).parameters:
        if weights == "imagenet":
            raise UserError(
                f"the model {name} has no ImageNet weights. Omit --weights, or choose another "
                "--model."
            )
        print(f"{name} has no ImageNet weights: training from scratch.", flush=True)
        return construct(input_shape, given), "none"
    try:
        with _quiet_download(name):
            return construct(input_shape, given, weights="imagenet"), "imagenet"
    except WeightsNotFoundError as error:
        reason = str(error)
    except Exception as error:
        # Keras raises a bare Exception where a download fails; others have other causes.
        if "URL fetch failure" not in str(error):
            raise
        cause = str(error).rsplit("--", 1)[-1].strip()
        reason = f"the download failed: {cause}; copy ~/.keras/models from a machine that has them"
    if weights == "imagenet":
        raise UserError(
            f"the ImageNet weights of {name} are not available ({reason}). Fix that, or pass "
            "--weights none to train from scratch."
        )
    print(
        f"WARNING: the ImageNet weights of {name} are not available ({reason}): TRAINING FROM "
        "SCRATCH.",
        flush=True,
    )
    return construct(input_shape, given), "none"


@contextlib.contextmanager
def _quiet_download(name: str) -> Iterator[None]:
    """Print one line where Keras prints an address and a progress bar; hide a warning of it."""
    with contextlib.redirect_stdout(_DownloadLine(name, sys.stdout)), warnings.catch_warnings():
        # MobileNetV3 warns at sizes other than 224; its weights fit all sizes.
        warnings.filterwarnings("ignore", "`input_shape` is undefined or non-square")
        yield


class _DownloadLine(io.TextIOBase):
    """A stream that replaces the messages of ``keras.utils.get_file`` and passes others on."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self._name, self._stream = name, stream
        self._is_downloading = self._is_announced = False

    def write(self, text: str) -> int:
        """Write ``text`` unless it belongs to a download."""
        if text.startswith("Downloading data from "):
            self._is_downloading, self._is_announced = True, False
            return len(text)
        bar = re.search(r"(\d+)/(\d+)\D.*[━─]", text)
        if self._is_downloading and bar and not self._is_announced:
            size = int(bar[2]) / 1e6
            self._stream.write(f"downloading the ImageNet weights of {self._name}: {size:.1f} MB\n")
            self._stream.flush()
            self._is_announced = True
        elif not (self._is_downloading and (bar or not text.strip("\b\r\n "))):
            self._is_downloading = False
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()


def _check(model: Any, name: str) -> None:
    """Raise UserError unless ``model`` can be trained: its type, inputs and layer names."""
    import keras

    if not isinstance(model, keras.Model):
        raise UserError(
            f"construct() of the model {name} returned {type(model).__name__}. Expected a "
            "keras.Model."
        )
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) > 1:
        raise UserError(
            f"the model {name} has {len(inputs)} inputs. Expected one: the image, "
            "keras.Input(input_shape)."
        )
    if keras.backend.backend() != "tensorflow":
        return
    invalid = [one.name for one in flatten_layers(model) if not _SCOPE.fullmatch(one.name)]
    if invalid:
        raise UserError(
            f"TensorFlow accepts no layers of these names: {list_names(invalid)} (model {name}). "
            "Use letters, digits, and _ . - in names."
        )


_SCOPE = re.compile(r"[A-Za-z0-9_.\\/>-]*")
"""Names of scopes in TensorFlow's graphs (``tf.Graph.name_scope``)."""
