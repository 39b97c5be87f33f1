"""Predictions for image files, from a Keras model or from an exported one."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from kerakit.data.decode import Pixels, read_image
from kerakit.data.walk import list_images
from kerakit.deploy.formats.base import LABELS
from kerakit.deploy.formats.tflite import INT8
from kerakit.errors import ImageError, JobError, UserError, printable
from kerakit.inference import PredictFn
from kerakit.machine import available_cores
from kerakit.tasks.base import Task
from kerakit.tasks.classification import Classification
from kerakit.tflite.runtime import start_interpreter, tflite_predict_fn

_READ_AHEAD = 64
"""Number of images that are read in parallel."""

_DECIMALS = 4

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


def load_exported(path: Path) -> tuple[PredictFn, tuple[int, int], Task]:
    """Load a TensorFlow Lite file, or the int8 model of an export folder.

    Returns:
        Function that runs the model; its input size (width, height); its task, from labels.txt.

    Raises:
        UserError: no model, no labels.txt beside it, or they don't fit.

    >>> load_exported(Path("gone.tflite"))
    Traceback (most recent call last):
    kerakit.errors.UserError: gone.tflite is not a TensorFlow Lite model. Expected ...
    """
    file = path / INT8.file if path.is_dir() else path
    if not file.is_file() or file.suffix != ".tflite":
        raise UserError(
            f"{path} is not a TensorFlow Lite model. Expected a run folder, an export folder (the "
            "--save_to of deploy.py) or a .tflite file."
        )
    labels = file.with_name(LABELS)
    if not labels.is_file():
        raise UserError(
            f"there is no {labels}. Expected the class names, one per line, as deploy.py writes "
            "them next to the model."
        )
    names = [*map(printable, labels.read_text(encoding="utf-8").splitlines())]
    try:
        interpreter = start_interpreter(file.read_bytes(), str(file))
        (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    except (JobError, ValueError) as error:
        raise UserError(f"{file} is damaged, or needs another runtime: {error}") from None
    if out["shape"][-1] != len(names):
        raise UserError(
            f"{labels} has {len(names)} lines, the output of {file} {out['shape'][-1]} classes."
        )
    _, height, width, _ = into["shape"]
    return tflite_predict_fn(interpreter), (int(width), int(height)), Classification(names)


def predict_images(
    predict: PredictFn,
    task: Task,
    input_size: tuple[int, int],
    paths: Sequence[Path],
    top: int = 1,
) -> Iterator[Prediction | ImageError]:
    """Yield the prediction for each image, or the error if it cannot be read.

    Args:
        predict: runs the model.
        task: decodes its outputs.
        input_size: (width, height) of its input.
        paths: paths of the images.
        top: number of records per image.

    >>> import numpy as np
    >>> task = Classification(["cat", "dog"])
    >>> predict = lambda images: np.array([[0.2, 0.8]], np.float32)
    >>> [error] = predict_images(predict, task, (8, 8), [Path("gone.jpg")])
    >>> isinstance(error, ImageError)
    True
    """
    with ThreadPoolExecutor(available_cores()) as pool:
        rest = iter(paths)
        while part := list(islice(rest, _READ_AHEAD)):
            images = pool.map(lambda path: _try_read(path, input_size), part)
            for path, image in zip(part, images, strict=True):
                if isinstance(image, ImageError):
                    yield image
                else:
                    prediction = task.decode(predict(image[None]))[0]
                    yield path, task.describe(prediction, top)


def _try_read(path: Path, input_size: tuple[int, int]) -> Pixels | ImageError:
    try:
        return read_image(path, input_size)
    except ImageError as error:
        return error


def write_predictions(predictions: Iterable[Prediction | ImageError], as_json: bool) -> int:
    """Print predictions as CSV or JSON to stdout, errors to stderr.

    Args:
        predictions: output of ``predict_images``.
        as_json: a JSON list of {"path", "predictions"} instead of CSV with one row per record.

    Returns:
        Number of images that could not be read.

    >>> write_predictions([(Path("a.jpg"), [{"label": "dog", "confidence": 0.8}])], as_json=False)
    path,label,confidence
    a.jpg,dog,0.8000
    0
    """
    errors, entries = 0, []
    writer = None
    for one in predictions:
        if isinstance(one, ImageError):
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
        print(json.dumps(entries, indent=2, ensure_ascii=False))
    return errors


def _round(value: Any) -> Any:
    return round(value, _DECIMALS) if isinstance(value, float) else value


def _format(value: Any) -> Any:
    return f"{value:.{_DECIMALS}f}" if isinstance(value, float) else value
