"""Predict photos with the TensorFlow Lite model in this folder.

    python predict.py photo.jpg      print the prediction and the latency of each photo
    python predict.py folder --top 3 the same for the photos of a folder, with three labels each
    python predict.py folder --json  print one JSON object per photo
    python predict.py photo.jpg --draw drawn  save the photos with their predictions in a folder
    python predict.py --check        compare the outputs on this device with those of the export
    python predict.py --time 100     print the median latency of 100 runs

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
import json
import os
import platform
import stat
import statistics
import sys
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if __package__ or TYPE_CHECKING:  # in Kerakit, which reads images by it for the accuracy gate
    from kerakit.device import photo, preprocessing
    from kerakit.device.decoders import make_decoder
else:  # on a device: the files beside this one
    import photo
    import preprocessing
    from decoders import make_decoder

HERE = Path(__file__).resolve().parent
EDGETPU = "libedgetpu.so.1"
TASK = "task.json"
# Kernels round differently: an EfficientNet-Lite0's scores on LiteRT 2.3 and on a TensorFlow Lite
# of 2021 differed by 0.7 steps of 1/256 on average and 17 at most (186 photos); on tflite-runtime
# 2.11, the scores of a multi-label model by 2.5 and 11, the number of a regression by 1.7 and 7,
# keypoints by 1.4 and 10, masks by 0.7 and 5 (16 photos; all trained briefly). So the mean may
# differ by MEAN_STEPS, and a prediction may change if TIE_STEPS can change it.
MEAN_STEPS, TIE_STEPS = 4, 16
# Values that are resized at a time. Pages of new memory take longer than the arithmetic.
STRIP = 32768
PIPE_CLOSED = 141  # 128 + SIGPIPE, as shells expect


def printable(text: Any) -> str:
    """Return a path or a label without control characters; bytes that are not UTF-8 stay."""
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) == "Cc" else c for c in str(text))


class InputError(Exception):
    """Wrong arguments or unreadable input."""


@contextlib.contextmanager
def input_errors(path: Path) -> Iterator[None]:
    """Turn errors about a file into InputError with its name.

    All of them: NumPy, Pillow, zipfile and zlib have many types for damaged content.
    """
    try:
        # Opening a named pipe would wait for a writer, reading a device file might never end.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ValueError("it is not a regular file")
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot use {printable(path)}: {error.strerror or error}") from None
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise InputError(f"cannot use {printable(path)}: {reason}") from None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the lines that a runtime's native code writes to stderr when it starts."""
    sys.stderr.flush()
    saved, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)


class Model:
    """A TensorFlow Lite file with uint8 input and outputs, on the installed runtime."""

    def __init__(self, path: Path) -> None:
        content = path.read_bytes()
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.compiled = b"edgetpu-custom-op" in content
        runtime, self.runtime = find_runtime()
        if self.compiled:
            ctypes.CDLL(EDGETPU)  # without the library, load_delegate would print a stack trace
        delegates = [runtime.load_delegate(EDGETPU)] if self.compiled else []
        with quiet():
            self._interpreter = runtime.Interpreter(
                model_path=str(path), experimental_delegates=delegates
            )
            self._interpreter.allocate_tensors()
        # By index: compiled files have no signatures.
        self._input = self._interpreter.get_input_details()[0]
        self._outputs = self._interpreter.get_output_details()
        if any(one["dtype"] is not np.uint8 for one in [self._input, *self._outputs]):
            raise ValueError("its input and outputs are not all uint8")
        self.shape = tuple(self._input["shape"][1:])
        self.preprocessing = preprocessing.Preprocessing.read(HERE / preprocessing.FILE)
        self.task = read_task(HERE / TASK)
        self.names = [str(name) for name in self.task.get("outputs", ())]
        if len(self._outputs) != max(1, len(self.names)):
            raise ValueError(f"it has {len(self._outputs)} outputs, {TASK} {len(self.names)} names")
        self.decoder = make_decoder(self.task)
        self._check_decoder(path)

    def _check_decoder(self, path: Path) -> None:
        """Raise InputError unless the decoder takes the outputs of the file."""
        try:
            for value in (0, 255):
                blank = [np.full(one["shape"][1:], value, np.uint8) for one in self._outputs]
                self.decoder.describe(self.decode(blank), size=(16, 16))
        except Exception as error:  # damaged values cause errors of many types
            raise InputError(
                f"cannot use {HERE / TASK}: it does not fit the outputs of {path.name} ({error!r})"
            ) from None

    def read(self, path: Path) -> Any:
        """Read an image file as the input of this model: uint8 (height, width, 3) RGB."""
        return read_photo(path, self.shape[0], self.shape[1], self.preprocessing)

    def run(self, pixels: Any) -> tuple[list[Any], float]:
        """Map uint8 (height, width, 3) to quantized outputs, uint8 each, and milliseconds."""
        start = time.perf_counter()
        self._interpreter.set_tensor(self._input["index"], pixels[None])
        self._interpreter.invoke()
        outputs = [self._interpreter.get_tensor(one["index"])[0] for one in self._outputs]
        return outputs, (time.perf_counter() - start) * 1e3

    def decode(self, outputs: Any) -> Any:
        """Return the prediction for quantized outputs, in the coordinates of the input."""
        return self.decoder.decode(self.dequantize(outputs))

    def dequantize(self, outputs: Any) -> Any:
        """Return the real values of quantized outputs: an array, or a dictionary of several."""
        real = []
        for one, values in zip(self._outputs, outputs):
            scale, zero_point = one["quantization"]
            real.append(np.float32(scale) * (values.astype(np.float32) - zero_point))
        return dict(zip(self.names, real)) if self.names else real[0]

    def ties(self, outputs: Any) -> bool:
        """Whether TIE_STEPS in the quantized outputs may change the prediction."""
        step = TIE_STEPS * max(one["quantization"][0] for one in self._outputs)
        return bool(self.decoder.ties(self.dequantize(outputs), step))


def read_task(path: Path) -> Any:
    """Read task.json; labels.txt beside it replaces the names of a classifier."""
    with input_errors(path):
        task = json.loads(path.read_text(encoding="utf-8-sig"))
        if not isinstance(task, dict):
            raise ValueError("it is not a JSON object")
    if task.get("task") == "classification":
        labels = read_text(HERE / "labels.txt").splitlines()
        if len(labels) != len(task.get("classes", ())):
            raise InputError(
                f"cannot use {HERE / 'labels.txt'}: it has {len(labels)} lines, {TASK} "
                f"{len(task.get('classes', ()))} classes"
            )
        if not all(label.strip() for label in labels):
            raise InputError(f"cannot use {HERE / 'labels.txt'}: it has an empty line")
        task["classes"] = labels
    return task


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


def read_photo(
    path: Path, height: int, width: int, policy: preprocessing.Preprocessing = preprocessing.STRETCH
) -> Any:
    """Read an image as training does: uint8 (height, width, 3) RGB.

    The orientation is applied, transparency becomes white, and the image is cropped, resized and
    padded as ``policy`` says. The pixels are those of training, which resizes with OpenCV; where an
    image is enlarged, or shrinks to less than a quarter after decoding, some differ by 1 of 255.
    """
    with input_errors(path):
        data, size = path.read_bytes(), (width, height)
        if policy == preprocessing.STRETCH:
            return resize(photo.decode(data, width, height), size)
        if data[:2] == b"\xff\xd8":  # it is scaled down while it is decoded
            stored = photo.jpeg_frame(data)[:2]
            upright = stored if photo.jpeg_orientation(data) < 5 else stored[::-1]
            layout = policy.layout(*upright, input_size=size)
            pixels = photo.decode(data, *layout.resized)
        else:
            pixels = photo.decode(data, width, height)
            layout = policy.layout(pixels.shape[1], pixels.shape[0], size)
        return layout.apply(resize(pixels, layout.resized))


def resize(pixels: Any, size: tuple[int, int]) -> Any:
    """Resize pixels to (width, height) as training does."""
    (width, height), (rows, columns) = size, pixels.shape[:2]
    if columns >= 4 * width or rows >= 4 * height:
        rows, columns = min(rows, height), min(columns, width)
        pixels = photo.average(pixels, columns, rows)
    if (columns, rows) == size:
        return pixels
    # Bilinear in the fixed-point numbers of OpenCV: columns, then rows, weights of 11 bits.
    # Pillow's resize uses more than the nearest four pixels, and its transform rounds down.
    first, second, x = _neighbors(columns, width)
    above, below, y = _neighbors(rows, height)
    # Rows of bytes: to take single bytes is faster than to take pixels of three.
    first, second = ((3 * at[:, None] + np.arange(3)).ravel() for at in (first, second))
    x, y = np.repeat(x, 3), y[:, None]
    values = np.reshape(pixels, (rows, 3 * columns))
    result = np.empty((height, 3 * width), np.uint8)
    step = max(1, STRIP // (3 * width))
    for start in range(0, height, step):
        part = slice(start, start + step)
        top = above[start]
        strip = values[top : below[part][-1] + 1]
        wide = _weighted(strip, first, 1, 2048 - x)
        wide += _weighted(strip, second, 1, x)
        wide >>= 4
        mixed = _weighted(wide, above[part] - top, 0, 2048 - y[part])
        mixed >>= 16
        lower = _weighted(wide, below[part] - top, 0, y[part])
        lower >>= 16
        mixed += lower
        mixed += 2
        mixed >>= 2
        result[part] = mixed
    return result.reshape(height, width, 3)


def _weighted(values: Any, at: Any, axis: int, weight: Any) -> Any:
    taken = np.take(values, at, axis).astype(np.int32, copy=False)
    taken *= weight
    return taken


def _neighbors(length: int, wanted: int) -> tuple[Any, Any, Any]:
    """Return, for each of the wanted pixels, its two neighbors and the second's weight of 2048."""
    at = ((np.arange(wanted) + 0.5) * (length / wanted) - 0.5).astype(np.float32)
    at = np.clip(at, 0, length - 1)
    first = at.astype(np.int32)
    weight = np.rint((at - first) * 2048).astype(np.int32)
    return first, np.minimum(first + 1, length - 1), weight


def read_text(path: Path) -> str:
    """Return the text of a file, without a byte order mark, which editors add."""
    with input_errors(path):
        return path.read_text(encoding="utf-8-sig")


def find_photos(path: Path) -> list[Path]:
    """Return the images of a folder and its subfolders, sorted; a file as it is."""
    if not path.is_dir():
        return [path]
    found = []
    for parent, folders, files in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [
            Path(parent, name)
            for name in files
            if name.lower().endswith(photo.EXTENSIONS) and not name.startswith(".")
        ]
    if not found:
        raise InputError(f"cannot use {path}: no images in this folder")
    return sorted(found)


def check(model: Model, path: Path) -> bool:
    """Compare outputs with the golden file; print the differences in steps of 1/256."""
    # NumPy leaves a damaged file open that it opened itself.
    with input_errors(path), path.open("rb") as file, np.load(file, allow_pickle=False) as golden:
        images = golden["images"]
        stored = [golden[f"output_{i}"] for i in range(max(1, len(model.names)))]
        sha256, runtime, labels = (str(golden[name]) for name in ("sha256", "runtime", "labels"))
        policy = str(golden["preprocessing"])
        if images.dtype != np.uint8 or images.shape[1:] != model.shape or not len(images):
            raise ValueError(
                f"it belongs to another model: images {images.shape} {images.dtype}, model input "
                f"{model.shape}"
            )
        shapes = [values.shape for values in model.run(images[0])[0]]
        found = [(one.dtype, one.shape) for one in stored]
        if found != [(np.uint8, (len(images), *shape)) for shape in shapes]:
            raise ValueError(
                f"it belongs to another model: outputs {[one.shape[1:] for one in stored]}, those "
                f"of the model {shapes}"
            )
    if not model.compiled and model.sha256 != sha256:
        print(f"FAILED: not the exported model: its SHA-256 is {model.sha256}, expected {sha256}")
        return False
    if read_text(HERE / "labels.txt") != labels:
        print("FAILED: labels.txt differs from the exported one")
        return False
    if repr(model.preprocessing) != policy:
        print(f"FAILED: {preprocessing.FILE} differs from the exported one")
        return False
    steps, same, close = [], [], []
    for i, image in enumerate(images):
        outputs, expected = model.run(image)[0], [one[i] for one in stored]
        steps.append([np.abs(one.astype(int) - wanted) for one, wanted in zip(outputs, expected)])
        same.append(model.decoder.same(model.decode(outputs), model.decode(expected)))
        close.append(model.ties(expected))
    means = [float(np.mean([row[n] for row in steps])) for n in range(len(stored))]
    largest = max(int(one.max()) for row in steps for one in row)
    exact = not model.compiled and model.runtime == runtime
    differs = any(not alike and not tie for alike, tie in zip(same, close))
    passed = largest == 0 if exact else max(means) <= MEAN_STEPS and not differs
    allowed = (
        "no difference on this runtime"
        if exact
        else f"a mean of {MEAN_STEPS} steps; the same prediction unless {TIE_STEPS} steps can "
        "change it"
    )
    print(f"{model.runtime}{', ' + EDGETPU if model.compiled else ''}; exported with {runtime}")
    print(
        f"agreement: {sum(same)} of {len(same)} images; output difference: mean {max(means):.2f} "
        f"steps, maximum {largest}"
    )
    print(f"{'passed' if passed else 'FAILED'} (allowed: {allowed})")
    return bool(passed)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", nargs="*", type=Path, help="image files and folders")
    parser.add_argument("--top", type=int, metavar="N", help="labels per photo")
    parser.add_argument(
        "--model", type=Path, default=HERE / "model.tflite", help="default: model.tflite"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object per photo and line")
    parser.add_argument("--draw", type=Path, metavar="FOLDER", help="save drawn photos as PNG")
    parser.add_argument("--check", action="store_true", help="verify model, labels and runtime")
    parser.add_argument("--time", type=int, default=0, metavar="N", help="measure N runs")
    args = parser.parse_args()
    if not (args.photos or args.check or args.time > 0):
        parser.error("expected photos, --check or --time N")
    if args.top is not None and args.top < 1:
        parser.error(f"--top is {args.top}; expected at least 1")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="surrogateescape")  # names of files are bytes
    with input_errors(args.model):
        model = Model(args.model)
    if args.draw:
        try:
            args.draw.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"cannot use {args.draw}: {error.strerror or error}") from None
    code = 1 if args.check and not check(model, HERE / "golden.npz") else 0
    if args.time > 0:
        blank = np.zeros(model.shape, np.uint8)
        times = [model.run(blank)[1] for _ in range(3 + args.time)][3:]  # the first ones warm up
        print(
            f"median {statistics.median(times):.2f} ms, {min(times):.2f} to {max(times):.2f} ms "
            f"({model.runtime})"
        )
    for given in args.photos:
        try:
            paths = find_photos(given)
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
            continue
        for path in paths:
            try:
                print(predict(model, path, args))
            except InputError as error:
                print(f"error: {error}", file=sys.stderr)
                code = 2
    return code


def drawn_path(folder: Path, path: Path) -> Path:
    """Return the path of a drawn photo: another one for a photo of this name in another folder."""
    return folder / f"{path.stem}-{hashlib.sha256(bytes(path)).hexdigest()[:6]}.png"


def predict(model: Model, path: Path, args: Any) -> str:
    """Predict one photo, draw it with --draw, and return the line to print."""
    outputs, ms = model.run(model.read(path))
    prediction, size = model.decode(outputs), (1, 1)
    if args.draw or model.decoder.has_coordinates:
        with input_errors(path):
            data = path.read_bytes()
            size = photo.upright_size(data)
            layout = model.preprocessing.layout(*size, (model.shape[1], model.shape[0]))
        prediction = model.decoder.to_image(prediction, layout)
    if args.draw:
        with input_errors(path):
            image = photo.decode(data, *size)
        drawn = model.decoder.draw(image, prediction)
        target = drawn_path(args.draw, path)
        partial = target.with_name(f".{target.name}.part")
        try:
            Image.fromarray(np.asarray(drawn)).save(partial, "PNG")
            partial.replace(target)
        except OSError as error:
            raise InputError(f"cannot write {target}: {error.strerror or error}") from None
    top = {} if args.top is None else {"top": args.top}
    if args.json:
        records = model.decoder.describe(prediction, size=size, **top)
        return json.dumps(
            {"path": str(path), "predictions": records, "latency_ms": round(ms, 3)},
        )
    caption = printable(model.decoder.caption(prediction, **top))
    return f"{printable(path)}: {caption} ({ms:.1f} ms)"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:  # the reader of the output, such as head, has ended
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)
    # A runtime raises RuntimeError if a model cannot run, as a compiled one without its Coral.
    except (InputError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
