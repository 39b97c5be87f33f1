"""What a model says of photos: labels and confidences, for people and for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np

from kerakit.data.decode import Pixels, read_image
from kerakit.data.folders import list_images
from kerakit.deploy.formats.base import LABELS, Predict
from kerakit.errors import ImageError, JobError, UserError
from kerakit.machine import available_cores

_READ_AT_A_TIME = 64
Answer = tuple[Path, list[tuple[str, float]]]


def images_in(paths: Iterable[Path]) -> list[Path]:
    """Return the files among ``paths``, and the images below the folders among them, sorted.

    Raises:
        UserError: one is not there, or there is no image.
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
            "there are no images in what was given. Expected files such as .jpg or .png, or folders of them."
        )
    return found


def load_delivered(path: Path) -> tuple[Predict, tuple[int, int], list[str]]:
    """Load a delivered TensorFlow Lite file, or the int8 one of a folder that ``deploy.py`` wrote.

    Returns:
        What maps uint8 (n, height, width, 3) to scores (n, classes); the (width, height) that it takes; its labels.

    Raises:
        UserError: there is no such file, no labels.txt beside it, or they don't fit.
    """
    from kerakit.deploy import litert, runtime

    file = path / litert.INT8.file if path.is_dir() else path
    if not file.is_file() or file.suffix != ".tflite":
        raise UserError(
            f"{path} holds no TensorFlow Lite model. Expected a run, a folder that deploy.py wrote, or a .tflite file."
        )
    labels = file.with_name(LABELS)
    if not labels.is_file():
        raise UserError(
            f"there is no {labels}: one line a class, as deploy.py writes it beside the model."
        )
    names = labels.read_text(encoding="utf-8").splitlines()
    try:
        interpreter = runtime.start(file.read_bytes(), str(file))
        (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    except (JobError, ValueError) as error:
        raise UserError(f"{file} is damaged, or needs another runtime: {error}") from None
    if out["shape"][-1] != len(names):
        raise UserError(f"{labels} has {len(names)} lines; {file} gives {out['shape'][-1]} scores.")
    _, height, width, _ = into["shape"]
    return litert.predictor(interpreter), (int(width), int(height)), names


def answers(
    predict: Predict,
    input_size: tuple[int, int],
    labels: list[str],
    paths: list[Path],
    top: int = 1,
) -> Iterator[Answer | ImageError]:
    """Yield for each image its path and its ``top`` labels with their confidences, best first; or why it cannot be read."""
    with ThreadPoolExecutor(available_cores()) as pool:
        rest = iter(paths)
        while part := list(islice(rest, _READ_AT_A_TIME)):
            for path, image in zip(
                part, pool.map(lambda one: _try_read(one, input_size), part), strict=True
            ):
                if isinstance(image, ImageError):
                    yield image
                    continue
                scores = predict(image[None])[0]
                best = np.argsort(-scores, kind="stable")[:top]
                yield path, [(labels[i], float(scores[i])) for i in best]


def _try_read(path: Path, input_size: tuple[int, int]) -> Pixels | ImageError:
    try:
        return read_image(path, input_size)
    except ImageError as error:
        return error


def write_answers(found: Iterable[Answer | ImageError], as_json: bool) -> int:
    """Print CSV (path, label, confidence) or a JSON list to stdout, errors to stderr. Returns how many could not be read."""
    bad = 0
    good: list[Answer] = []
    rows = csv.writer(sys.stdout)
    if not as_json:
        rows.writerow(["path", "label", "confidence"])
    for one in found:
        if isinstance(one, ImageError):
            bad += 1
            print(f"error: {one}", file=sys.stderr)
        elif as_json:
            good.append(one)
        else:
            rows.writerows([one[0], label, f"{confidence:.4f}"] for label, confidence in one[1])
    if as_json:
        entries = [
            {
                "path": str(path),
                "labels": [
                    {"label": label, "confidence": round(value, 4)} for label, value in best
                ],
            }
            for path, best in good
        ]
        print(json.dumps(entries, indent=2, ensure_ascii=False))
    return bad
