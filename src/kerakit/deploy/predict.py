"""Predictions for image files, from a Keras model or from an exported one."""

from __future__ import annotations

import csv
import io
import json
import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from kerakit import nested
from kerakit.data.decode import Pixels
from kerakit.data.placement import Placement
from kerakit.data.walk import list_images
from kerakit.deploy.bundle import read_as_device
from kerakit.deploy.folder import ExportFolder
from kerakit.deploy.formats.base import LABELS, TASK
from kerakit.deploy.formats.tflite import INT8
from kerakit.device.decoders import make_decoder
from kerakit.device.photo import decode
from kerakit.device.predict import drawn_path
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.device.preprocessing import Preprocessing
from kerakit.errors import ImageError, UserError, first_line, list_names, printable
from kerakit.files import make_dir, read_json
from kerakit.inference import PredictFn, name_outputs
from kerakit.machine import available_cores
from kerakit.report.plots import save_image
from kerakit.tasks import Classification, Task, make_task
from kerakit.tflite.process import ModelProcess

_READ_AHEAD = 64
"""Number of images that are read in parallel."""

_DECIMALS = 4

_MAX_SIZE = 2**31
"""Limit of FlatBuffers, in bytes."""

EXPORTS = "an export folder (the --save_to of deploy.py) or a .tflite file"
"""Paths that ``load_exported`` takes, for error messages."""

Prediction = tuple[Path, list[dict[str, Any]]]
"""Path of an image, and the records of ``Task.describe``."""


def find_images(paths: Sequence[Path]) -> list[Path]:
    """Return the files among ``paths`` and the images in the folders among them, sorted by folder.

    Raises:
        UserError: a path does not exist, or there are no images.

    >>> find_images([Path("gone.jpg")])
    Traceback (most recent call last):
    kerakit.errors.UserError: there is no file or folder gone.jpg.
    """
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            found += [path / name for name in list_images(path)]
        elif path.exists():
            found.append(path)
        else:
            raise UserError(f"there is no file or folder {path}.")
    if not found:
        raise UserError(
            f"there are no images in {', '.join(map(str, paths)) or 'the arguments'}. Expected "
            "files such as .jpg or .png, or folders of them."
        )
    return found


@dataclass(frozen=True)
class ExportedModel:
    """A TensorFlow Lite file with its labels, run in a process of its own.

    Attributes:
        predict: runs the model; a file that ends its runtime raises UserError.
        task: its task, from labels.txt.
        read: reads an image file like the device bundle: uint8 (height, width, 3).
        placement: returns the position of an image in the model's input, by its path.
        assumption: what the file leaves open about its input and was assumed; "" if nothing.

    >>> task = Classification(["cat", "dog"])
    >>> ExportedModel(lambda images: images, task, lambda path: path).assumption
    ''
    """

    predict: PredictFn
    task: Task
    read: Callable[[Path], Pixels]
    placement: Callable[[Path], Placement] | None = None
    assumption: str = ""


def load_exported(path: Path, expected: str = f"a run folder, {EXPORTS}") -> ExportedModel:
    """Load a TensorFlow Lite file, or the int8 model of an export folder.

    Args:
        path: the file, or the folder.
        expected: the paths that a command takes, for its error messages.

    Raises:
        UserError: no model, no labels.txt beside it, or they don't fit; or a model that is not the
            one of report.json beside it.

    >>> load_exported(Path("gone.tflite"))
    Traceback (most recent call last):
    kerakit.errors.UserError: gone.tflite does not exist. Expected ...
    """
    file = _find_model(path, expected)
    ExportFolder(file.parent).check_file(file)
    task, output_names = _read_task(file)
    try:
        preprocessing = Preprocessing.read(file.with_name(PREPROCESSING))
    except ValueError as error:
        raise UserError(f"{error}. Copy it again from the export folder.") from None
    process = ModelProcess()
    try:
        model = process.load(file.read_bytes())
    except UserError as error:
        raise UserError(f"cannot use {file}: {error}") from None
    _check_outputs(file, task, output_names, model.outputs)
    _check_values(file, task, output_names, model.outputs)

    def predict(images: Pixels) -> Any:
        try:
            return name_outputs(process.predict(images), output_names)
        except UserError as error:
            raise UserError(f"cannot use {file}: {error}") from None

    return ExportedModel(
        predict,
        task,
        partial(read_as_device, input_size=model.input_size, preprocessing=preprocessing),
        partial(Placement, preprocessing=preprocessing, input_size=model.input_size),
        # Kerakit's own exports take pixels from 0 to 255.
        assumption="" if file.with_name(PREPROCESSING).exists() else model.assumption,
    )


def _find_model(path: Path, expected: str) -> Path:
    """Return the path of the model; ``expected`` are the paths that the command takes."""
    file = path / INT8.file if path.is_dir() else path
    if file.is_file() and file.suffix == ".tflite":
        if file.stat().st_size >= _MAX_SIZE:
            raise UserError(f"{file} has 2 GiB or more, which no TensorFlow Lite model has.")
        return file
    others = sorted(path.glob("*.tflite")) if path.is_dir() else []
    if others:
        raise UserError(
            f"{path} has no {INT8.file}, the int8 model. Name the file, such as {others[0]}, or "
            "export with --formats int8."
        )
    if not path.exists():
        raise UserError(f"{path} does not exist. Expected {expected}.")
    if path.is_dir():
        raise UserError(f"{path} has no TensorFlow Lite model. Expected {expected}.")
    raise UserError(f"{path} is not a TensorFlow Lite model. Expected {expected}.")


def _read_task(file: Path) -> tuple[Task, tuple[str, ...]]:
    """Return the task of a model and the names of its outputs, () for one output.

    An export of Kerakit has them in task.json; other files are classifiers with a labels.txt.
    """
    path = file.with_name(TASK)
    if not path.exists():
        return Classification(_read_labels(file.with_name(LABELS))), ()
    try:
        values = read_json(path, dict)
        task, names = make_task(values), values.get("outputs", [])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"outputs: expected a list of names, got {reprlib.repr(names)}.")
    except UserError as error:
        raise UserError(f"{path}: {error} Copy it again from the export folder.") from None
    if file.with_name(LABELS).is_file() and isinstance(task, Classification):
        # An owner may have translated the labels.
        labels = _read_labels(file.with_name(LABELS))
        if len(labels) != len(task.class_names):
            raise UserError(
                f"{file.with_name(LABELS)} has {len(labels)} lines, {path} "
                f"{len(task.class_names)} classes. Copy both again from the export folder."
            )
        task = Classification(labels)
    return task, tuple(names)


def _check_outputs(
    file: Path, task: Task, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]
) -> None:
    """Raise UserError unless the outputs of a file are those of its task."""
    if len(shapes) != max(1, len(names)):
        raise UserError(
            f"cannot use {file}: it has {len(shapes)} outputs; expected {max(1, len(names))}"
            f"{f' ({list_names(names)})' if names else ': an image classifier has one'}."
        )
    if not isinstance(task, Classification):
        return
    (shape,) = shapes
    if math.prod(shape) != shape[-1]:
        raise UserError(
            f"cannot use {file}: its output has the shape {list(shape)}; expected [1, classes]"
        )
    if shape[-1] != len(task.class_names):
        raise UserError(
            f"{file.with_name(LABELS)} has {len(task.class_names)} lines, the output of {file} "
            f"{shape[-1]} classes."
        )


def _check_values(
    file: Path, task: Task, names: tuple[str, ...], shapes: tuple[tuple[int, ...], ...]
) -> None:
    """Raise UserError unless the values of task.json decode the outputs of the file."""
    if not file.with_name(TASK).exists():
        return
    values = read_json(file.with_name(TASK), dict)
    try:
        decoder = make_decoder(values)  # of the device bundle and of demo.html
        # Constant outputs, and those with the first, or the last, class as the best one.
        for start, stop in ((0, 0), (1, 1), (30, 10), (10, 30)):
            outputs = name_outputs(
                [
                    np.broadcast_to(np.linspace(start, stop, shape[-1], dtype=np.float32), shape)
                    for shape in shapes
                ],
                names,
            )
            task.describe(task.decode(outputs)[0], None, (16, 16))
            decoder.describe(decoder.decode(nested.take(outputs, 0)), size=(16, 16))
    except Exception as error:
        raise UserError(
            f"{file.with_name(TASK)} does not fit the outputs of {file} "
            f"({type(error).__name__}: {printable(first_line(error))}). Copy both again from the "
            "export folder."
        ) from None


def _read_labels(path: Path) -> tuple[str, ...]:
    """Return the class names."""
    if not path.is_file():
        raise UserError(
            f"there is no {path}. Expected the class names, one per line, as deploy.py writes "
            "them next to the model."
        )
    try:
        # A byte order mark is what editors on Windows add.
        labels = tuple(map(printable, path.read_text(encoding="utf-8-sig").splitlines()))
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path} is not UTF-8 text: {error.reason} at byte {error.start}."
        ) from None
    for number, label in enumerate(labels, 1):
        if not label.strip():
            raise UserError(f"{path}: line {number} is empty. Expected one class name per line.")
    return labels


def predict_images(
    predict: PredictFn,
    task: Task,
    read: Callable[[Path], Pixels],
    paths: Sequence[Path],
    top: int | None = None,
    placement: Callable[[Path], Placement] | None = None,
    draw: Path | None = None,
) -> Iterator[Prediction | UserError]:
    """Yield the prediction for each image, or the error if it cannot be read or predicted.

    Args:
        predict: runs the model.
        task: decodes its outputs.
        read: reads an image file as the model's input, uint8 (height, width, 3).
        paths: paths of the images.
        top: number of records per image; default: that of ``task.describe``.
        placement: returns the position of an image in the model's input; default: predictions stay
            in the coordinates of the input.
        draw: folder for the images with their predictions, as PNG files; needs ``placement``.

    >>> import numpy as np
    >>> task = Classification(["cat", "dog"])
    >>> predict = lambda images: np.array([[0.2, 0.8]], np.float32)
    >>> black = np.zeros((8, 8, 3), np.uint8)
    >>> list(predict_images(predict, task, lambda path: black, [Path("a.jpg")]))
    [(PosixPath('a.jpg'), [{'label': 'dog', 'confidence': 0.8...}])]
    """
    if draw is not None:
        make_dir(draw)
    with ThreadPoolExecutor(available_cores()) as pool:
        rest = iter(paths)
        while part := list(islice(rest, _READ_AHEAD)):
            images = pool.map(lambda path: _try_read(path, read), part)
            for path, image in zip(part, images, strict=True):
                if isinstance(image, ImageError):
                    yield image
                    continue
                outputs = predict(image[None])
                if not all(np.isfinite(array).all() for array in nested.arrays(outputs)):
                    yield UserError(
                        f"no prediction for {path}: the model outputs NaN or infinity. Its weights "
                        "are damaged, or the training diverged."
                    )
                    continue
                prediction, size = task.decode(outputs)[0], (image.shape[1], image.shape[0])
                if placement is not None and (task.has_coordinates or draw):
                    place = placement(path)
                    prediction = task.locate(prediction, place)
                    size = place.image_size
                if draw is not None:
                    drawn = task.draw(decode(path.read_bytes(), *size), prediction)
                    save_image(drawn, drawn_path(draw, path))
                records = (
                    task.describe(prediction, size=size)
                    if top is None
                    else task.describe(prediction, top, size)
                )
                yield path, records


def _try_read(path: Path, read: Callable[[Path], Pixels]) -> Pixels | ImageError:
    try:
        return read(path)
    except ImageError as error:
        return error


def write_predictions(predictions: Iterable[Prediction | UserError], as_json: bool) -> int:
    """Print predictions as CSV or JSON to stdout, errors to stderr.

    Args:
        predictions: output of ``predict_images``.
        as_json: a JSON list of {"path", "predictions"} instead of CSV with one row per record.

    Returns:
        Number of images that were not predicted.

    >>> write_predictions([(Path("a.jpg"), [{"label": "dog", "confidence": 0.8}])], as_json=False)
    path,label,confidence
    a.jpg,dog,0.8000
    0
    """
    errors, entries = 0, []
    writer = None
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Names of files are bytes, which need not be UTF-8.
        is_utf8 = sys.stdout.encoding.lower().replace("-", "") == "utf8"
        sys.stdout.reconfigure(errors="surrogateescape" if is_utf8 else "backslashreplace")
    for one in predictions:
        if isinstance(one, UserError):
            errors += 1
            print(f"error: {printable(str(one))}", file=sys.stderr)
            continue
        path, records = one
        if as_json:
            rounded = [{name: _round(value) for name, value in row.items()} for row in records]
            entries.append({"path": str(path), "predictions": rounded})
            continue
        for record in records:
            if writer is None:
                writer = csv.writer(sys.stdout, lineterminator="\n")
                writer.writerow(["path", *record])
            writer.writerow([path, *map(_format, record.values())])
    if as_json:
        text = json.dumps(entries, indent=2, ensure_ascii=False)
        if not _is_unicode(text):
            text = json.dumps(entries, indent=2)  # JSON has no bytes: Python's escapes of them
        print(text)
    sys.stdout.flush()  # at exit, Python may pass over an error
    return errors


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _round(value: Any) -> Any:
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _format(value: Any) -> Any:
    return f"{value:.{_DECIMALS}f}" if isinstance(value, float) else value
