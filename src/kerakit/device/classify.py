"""Classify photos with the TensorFlow Lite model in this folder.

    python classify.py photo.jpg      print label, confidence and latency of each photo
    python classify.py --check        compare the scores on this device with those of the export
    python classify.py --time 100     print the median latency of 100 runs

Needs Python 3.7 or newer, NumPy, Pillow, and ai-edge-litert or tflite-runtime; a model compiled for
the Edge TPU also needs a Coral and Google's libedgetpu. Exit code 1: the check failed; 2: wrong
arguments or unreadable input.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import importlib
import platform
import statistics
import struct
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import classification  # type: ignore[import-not-found]  # the file beside this one
import numpy as np
import photo  # type: ignore[import-not-found]  # and this one
from PIL import Image

HERE = Path(__file__).resolve().parent
EDGETPU = "libedgetpu.so.1"
AFFINE: Any = 0  # as a number: Pillow has moved the name
# Kernels round differently: an EfficientNet-Lite0's scores on LiteRT 2.3 and on a TensorFlow Lite
# of 2021 differed by 0.7 steps of 1/256 on average and 17 at most (186 photos). So the mean may
# differ by MEAN_STEPS, and the predicted class may change if it led by fewer than TIE_STEPS.
MEAN_STEPS, TIE_STEPS = 1.5, 16


class InputError(Exception):
    """Wrong arguments or unreadable input."""


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turn errors about a file into InputError with its name."""
    try:
        yield
    except (
        *(OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, SyntaxError),
        *(struct.error, zipfile.BadZipFile),
    ) as error:
        raise InputError(f"cannot use {path}: {error}") from None


class Classifier:
    """A TensorFlow Lite file with uint8 input and output, on the installed runtime."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.compiled = b"edgetpu-custom-op" in content
        runtime, self.runtime = find_runtime()
        if self.compiled:
            ctypes.CDLL(EDGETPU)  # without the library, load_delegate would print a stack trace
        delegates = [runtime.load_delegate(EDGETPU)] if self.compiled else []
        self._interpreter = runtime.Interpreter(
            model_path=str(path), experimental_delegates=delegates
        )
        self._interpreter.allocate_tensors()
        # By index: compiled files have no signatures.
        self._input = self._interpreter.get_input_details()[0]
        self._output = self._interpreter.get_output_details()[0]
        if self._input["dtype"] is not np.uint8 or self._output["dtype"] is not np.uint8:
            raise ValueError("its input and output are not both uint8")
        self.shape = tuple(self._input["shape"][1:])
        self.classes = int(self._output["shape"][-1])

    def run(self, pixels: Any) -> tuple[Any, float]:
        """Map uint8 (height, width, 3) to quantized scores, uint8 (classes,), and milliseconds."""
        start = time.perf_counter()
        self._interpreter.set_tensor(self._input["index"], pixels[None])
        self._interpreter.invoke()
        scores = self._interpreter.get_tensor(self._output["index"])[0]
        return scores, (time.perf_counter() - start) * 1e3

    def dequantize(self, scores: Any) -> Any:
        """Return the real values of quantized scores."""
        scale, zero_point = self._output["quantization"]
        return scale * (scores.astype(np.float64) - zero_point)


def find_runtime() -> tuple[Any, str]:
    """Return the module with the interpreter, and its name, version and processor."""
    reasons = []
    for name in ("ai_edge_litert", "tflite_runtime"):
        try:
            module = importlib.import_module(name + ".interpreter")
            version = importlib.import_module(name).__version__
            return module, f"{name} {version} on {platform.machine()}"
        except ImportError as error:
            reasons.append(str(error))
    raise InputError(
        f"no TensorFlow Lite runtime ({'; '.join(reasons)}). Install one: "
        "python -m pip install ai-edge-litert"
    )


def read_photo(path: Path, height: int, width: int) -> Any:
    """Read an image as training does: uint8 (height, width, 3) RGB.

    The orientation is applied, the whole image is resized, transparency becomes white. Training
    resizes with OpenCV: on 393 photos of 400 by 533 the pixels differed by 0.34 of 255 on average
    and 1 at most; files other than JPEG that shrink to a quarter or less, by 0.3 to 0.9 on average
    (20 photos of 3,024 by 4,032, of 1,000 by 1,400).
    """
    with input_errors(path):
        image = Image.fromarray(photo.decode(path.read_bytes(), width, height))
    if image.width >= 4 * width or image.height >= 4 * height:
        return np.array(image.resize((width, height), resample=4))  # area averaging
    # Bilinear between the nearest four pixels as in OpenCV; Pillow's resize uses more of them.
    matrix = (image.width / width, 0, 0, 0, image.height / height, 0)
    return np.array(image.transform((width, height), AFFINE, matrix, resample=2))


def check(model: Classifier, path: Path) -> bool:
    """Compare scores with the golden file; print the differences in steps of 1/256."""
    with input_errors(path), np.load(path, allow_pickle=False) as golden:
        images, expected = golden["images"], golden["scores"]
        sha256, runtime, labels = (str(golden[name]) for name in ("sha256", "runtime", "labels"))
        found = (images.dtype, images.shape[1:], expected.shape)
        if found != (np.uint8, model.shape, (len(images), model.classes)) or not len(images):
            raise ValueError(
                f"it belongs to another model: images {images.shape} {images.dtype}, scores "
                f"{expected.shape}, model input {model.shape}, {model.classes} classes"
            )
    if not model.compiled and model.sha256 != sha256:
        print(f"FAILED: not the exported model: its SHA-256 is {model.sha256}, expected {sha256}")
        return False
    if (HERE / "labels.txt").read_text(encoding="utf-8") != labels:
        print("FAILED: labels.txt differs from the exported one")
        return False
    scores = np.stack([model.run(image)[0] for image in images])
    steps, same = np.abs(scores.astype(int) - expected), scores.argmax(1) == expected.argmax(1)
    best = np.sort(expected.astype(int), axis=1)[:, -2:]
    confident = best[:, -1] - best[:, 0] >= TIE_STEPS
    exact = not model.compiled and model.runtime == runtime
    passed = not steps.any() if exact else steps.mean() <= MEAN_STEPS and same[confident].all()
    allowed = (
        "no difference on this runtime"
        if exact
        else f"a mean of {MEAN_STEPS} steps; the same class unless two scores differ by fewer than "
        f"{TIE_STEPS}"
    )
    print(f"{model.runtime}{', ' + EDGETPU if model.compiled else ''}; exported with {runtime}")
    print(
        f"agreement: {same.sum()} of {len(same)} images; score difference: mean "
        f"{steps.mean():.2f} steps, maximum {steps.max()}"
    )
    print(f"{'passed' if passed else 'FAILED'} (allowed: {allowed})")
    return bool(passed)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*", type=Path, help="image files")
    parser.add_argument(
        "--model", type=Path, default=HERE / "model.tflite", help="default: model.tflite"
    )
    parser.add_argument("--check", action="store_true", help="verify model, labels and runtime")
    parser.add_argument("--time", type=int, default=0, metavar="N", help="measure N runs")
    args = parser.parse_args()
    if not (args.photos or args.check or args.time > 0):
        parser.error("expected photos, --check or --time N")
    with input_errors(args.model):
        model = Classifier(args.model)
    with input_errors(HERE / "labels.txt"):
        labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
        if len(labels) != model.classes:
            raise ValueError(f"it has {len(labels)} lines, the model {model.classes} classes")
    code = 1 if args.check and not check(model, HERE / "golden.npz") else 0
    if args.time > 0:
        blank = np.zeros(model.shape, np.uint8)
        times = [model.run(blank)[1] for _ in range(3 + args.time)][3:]  # the first ones warm up
        print(
            f"median {statistics.median(times):.2f} ms, {min(times):.2f} to {max(times):.2f} ms "
            f"({model.runtime})"
        )
    for path in args.photos:
        try:
            scores, ms = model.run(read_photo(path, *model.shape[:2]))
            ((index, confidence),) = classification.decode(model.dequantize(scores))
            print(f"{path}: {labels[index]} {confidence:.2f} ({ms:.1f} ms)")
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    # A runtime raises RuntimeError if a model cannot run, as a compiled one without its Coral.
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
