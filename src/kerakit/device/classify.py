"""Say what photos show, with the TensorFlow Lite model beside this file.

    python classify.py photo.jpg      for each photo its label, the confidence, and the milliseconds that the model took
    python classify.py --check        does the model give on this device what it gave when it was delivered?
    python classify.py --time 100     how long one image takes

Needs Python 3.7 or newer, NumPy, Pillow, and ai-edge-litert or tflite-runtime; a model compiled for the Edge TPU also needs a
Coral and Google's libedgetpu. Exit code 1: the check failed; 2: called wrongly, or something cannot be read.
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

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).resolve().parent
EDGETPU = "libedgetpu.so.1"
AFFINE: Any = 0  # by its number: Pillow has moved the name
# Kernels round differently: an EfficientNet-Lite0's scores on LiteRT 2.3 and on a TensorFlow Lite of 2021 were 0.7 steps of
# 1/256 apart in the mean, 17 at most (186 photos). So the mean may be this many steps off, and the best class may be another
# one only where it was ahead by fewer steps than that.
MEAN_STEPS, SURE_STEPS = 1.5, 16
Image.MAX_IMAGE_PIXELS = 125_000_000  # as in training, twice this is refused


class Refused(Exception):  # noqa: N818 - not a fault of the program
    """What is wrong with what was given, in words."""


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what goes wrong into Refused with the file's name."""
    try:
        yield
    except (
        *(OSError, RuntimeError, ValueError, TypeError, KeyError, EOFError, SyntaxError),
        *(struct.error, zipfile.BadZipFile, Image.DecompressionBombError),
    ) as error:
        raise Refused(f"cannot use {path}: {error}") from None


class Classifier:
    """A TensorFlow Lite file on what there is to run it. Tensors are read by index: compiled files have no signatures."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self.sha256, self.compiled = (
            hashlib.sha256(content).hexdigest(),
            b"edgetpu-custom-op" in content,
        )
        runtime, self.runtime = find_runtime()
        if self.compiled:
            ctypes.CDLL(EDGETPU)  # without the library, load_delegate would print a stack trace
        delegates = [runtime.load_delegate(EDGETPU)] if self.compiled else []
        self._interpreter = runtime.Interpreter(
            model_path=str(path), experimental_delegates=delegates
        )
        self._interpreter.allocate_tensors()
        self._into, self._out = (
            self._interpreter.get_input_details()[0],
            self._interpreter.get_output_details()[0],
        )
        if self._into["dtype"] is not np.uint8 or self._out["dtype"] is not np.uint8:
            raise ValueError("it does not take and give uint8")
        self.shape, self.classes = tuple(self._into["shape"][1:]), int(self._out["shape"][-1])
        self.scale, self.zero_point = self._out["quantization"]

    def run(self, pixels: Any) -> tuple[Any, float]:
        """Map uint8 (height, width, 3) to the scores as they are stored, uint8 (classes,), and the milliseconds taken."""
        start = time.perf_counter()
        self._interpreter.set_tensor(self._into["index"], pixels[None])
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._out["index"])[0], (
            time.perf_counter() - start
        ) * 1e3


def find_runtime() -> tuple[Any, str]:
    """Return the module with the interpreter, and its name, version and processor."""
    reasons = []
    for name in ("ai_edge_litert", "tflite_runtime"):
        try:
            module = importlib.import_module(name + ".interpreter")
            return (
                module,
                f"{name} {importlib.import_module(name).__version__} on {platform.machine()}",
            )
        except ImportError as error:
            reasons.append(str(error))
    raise Refused(
        f"no TensorFlow Lite runtime ({'; '.join(reasons)}). Install one: python -m pip install ai-edge-litert"
    )


def read_photo(path: Path, height: int, width: int) -> Any:
    """Read an image as training does: uint8 (height, width, 3), upright, RGB, the whole of it, transparent on white.

    Training scales with OpenCV. On 393 photos of 400 by 533 this gave pixels 0.34 of 255 away in the mean, 1 at most; other
    files than JPEGs, where they shrink to a quarter or less, 0.3 to 0.9 in the mean (20 photos of 3,024 by 4,032, of 1,000 by
    1,400).
    """
    with reading(path), Image.open(path) as opened:
        turned = opened.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        # A JPEG may be scaled down by 2, 4 or 8 while it is decoded; for other formats this does nothing.
        opened.draft(opened.mode, (height, width) if turned else (width, height))
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I;16"):
            image = Image.fromarray((np.asarray(image, np.uint16) >> 8).astype(np.uint8))
        if image.mode in ("I", "F"):
            raise ValueError(
                f"pixels of mode {image.mode} have no known range; convert it to 8 bits"
            )
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = Image.alpha_composite(
                Image.new("RGBA", image.size, "white"), image.convert("RGBA")
            )
        image = image.convert("RGB")
        if image.width >= 4 * width or image.height >= 4 * height:
            return np.array(image.resize((width, height), resample=4))  # by areas
        # Bilinear between the nearest four pixels, as OpenCV does it; Pillow's resize would take more of them.
        matrix = (image.width / width, 0, 0, 0, image.height / height, 0)
        return np.array(image.transform((width, height), AFFINE, matrix, resample=2))


def check(model: Classifier, path: Path) -> bool:
    """Compare with what was delivered; print how far the scores are from it, in steps of 1/256."""
    with reading(path), np.load(path, allow_pickle=False) as golden:
        images, expected, sha256, runtime = (
            golden[name] for name in ("images", "scores", "sha256", "runtime")
        )
        labels = str(golden["labels"])
        here, there = (
            (images.dtype, images.shape[1:], expected.shape),
            (np.uint8, model.shape, (len(images), model.classes)),
        )
        if here != there or not len(images):
            raise ValueError(
                f"it is of another model: it has {images.shape} and {expected.shape}, the model {model.shape}"
            )
    if not model.compiled and model.sha256 != sha256:
        print(
            f"FAILED: this is not the model that was delivered: its SHA-256 is {model.sha256}, not {sha256}"
        )
        return False
    if (HERE / "labels.txt").read_text(encoding="utf-8") != labels:
        print("FAILED: labels.txt is not the one that was delivered")
        return False
    found = np.stack([model.run(image)[0] for image in images])
    steps, same = np.abs(found.astype(int) - expected), found.argmax(1) == expected.argmax(1)
    best = np.sort(expected.astype(int), axis=1)[:, -2:]
    sure = best[:, -1] - best[:, 0] >= SURE_STEPS
    exact = not model.compiled and model.runtime == runtime
    passed = not steps.any() if exact else steps.mean() <= MEAN_STEPS and same[sure].all()
    allowed = (
        "no difference on this runtime"
        if exact
        else f"{MEAN_STEPS} steps in the mean, no other class where it was sure"
    )
    print(f"{model.runtime}{' and ' + EDGETPU if model.compiled else ''}; delivered by {runtime}")
    print(
        f"the same class for {same.sum()} of {len(same)} images; scores {steps.mean():.2f} steps apart, {steps.max()} at most"
    )
    print(f"{'passed' if passed else 'FAILED'} (allowed: {allowed})")
    return bool(passed)


def main() -> int:
    """Do what the command line says; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*", type=Path)
    parser.add_argument("--model", type=Path, default=HERE / "model.tflite")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--time", type=int, default=0, metavar="N")
    args = parser.parse_args()
    if not (args.photos or args.check or args.time > 0):
        parser.error("expected photos, --check or --time N")
    with reading(args.model):
        model = Classifier(args.model)
    with reading(HERE / "labels.txt"):
        labels = (HERE / "labels.txt").read_text(encoding="utf-8").splitlines()
        if len(labels) != model.classes:
            raise ValueError(f"it has {len(labels)} lines, the model {model.classes} classes")
    code = 1 if args.check and not check(model, HERE / "golden.npz") else 0
    if args.time > 0:
        times = [model.run(np.zeros(model.shape, np.uint8))[1] for _ in range(3 + args.time)][
            3:
        ]  # the first ones warm up
        print(
            f"median {statistics.median(times):.2f} ms, {min(times):.2f} to {max(times):.2f} ({model.runtime})"
        )
    for path in args.photos:
        try:
            scores, ms = model.run(read_photo(path, *model.shape[:2]))
            confidence = model.scale * (int(scores.max()) - model.zero_point)
            print(f"{path}: {labels[scores.argmax()]} {confidence:.2f} ({ms:.1f} ms)")
        except Refused as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (
        Refused,
        RuntimeError,
    ) as error:  # a runtime raises RuntimeError where a model cannot run, as without its Coral
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
