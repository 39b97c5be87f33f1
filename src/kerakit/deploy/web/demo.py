"""The page ``demo.html``: model, runtime, labels and golden outputs in one file.

Its JavaScript, in the folder ``page``, reads pixels and decodes outputs as ``kerakit.device`` does;
the constants of both come from there. The folder ``runtime`` has the files of LiteRT.js: see
``tests/litert_js.py``.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

from kerakit import __version__
from kerakit.device import colors, detection, keypoints, segmentation
from kerakit.device.photo import SMALLEST_SCALED
from kerakit.device.predict import MEAN_STEPS, resize
from kerakit.device.preprocessing import MAX_RESIZED, Preprocessing
from kerakit.errors import UserError
from kerakit.files import size_bytes, write_text
from kerakit.report.formatting import format_preprocessing
from kerakit.report.page import PALETTE
from kerakit.tflite.runtime import start_interpreter, stored_predict_fn

FILE = "demo.html"

GOLDEN_BYTES = 2**20
"""Limit of the held-out images in a page; two are always there."""

SCRIPTS = (
    *(
        "bytes.js",
        "jpeg.js",
        "layout.js",
        "pixels.js",
        "decoders.js",
        "detection.js",
        "segmentation.js",
    ),
    *("keypoints.js", "drawing.js", "cards.js", "model.js", "check.js", "camera.js", "app.js"),
)
"""Files of ``page`` that are joined to one script; the last one starts."""

_HERE = Path(__file__).parent
_GENERATOR = '<meta name="generator" content="Kerakit"'
_FLOAT_TOLERANCE = 1e-3
_TEST_SIZE = 97, 61
"""Width and height of the test image: neither divides an input size."""

_TITLES = {
    "classification": "Image classification",
    "multilabel": "Multi-label classification",
    "regression": "Regression",
    "detection": "Object detection",
    "segmentation": "Segmentation",
    "keypoints": "Keypoints",
    "multitask": "Several tasks",
}
_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_HERE / "page"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_demo(
    path: Path,
    model: Path,
    task: dict[str, Any],
    preprocessing: Preprocessing,
    images: NDArray[np.uint8] | None = None,
) -> None:
    """Write a page that runs a TensorFlow Lite file.

    Args:
        path: path of the page.
        model: an exported file with inputs and outputs of uint8 or float32.
        task: content of task.json.
        preprocessing: crop, resize policy and color.
        images: held-out images, uint8 (n, height, width, 3), for the self-check; None: patterns.

    Raises:
        UserError: LiteRT.js has no tensors of the model's types.
        JobError: LiteRT cannot run the model.
    """
    content = model.read_bytes()
    interpreter = start_interpreter(content, model.name)
    tensors = _describe_tensors(interpreter, model)
    height, width = tensors["input"]["shape"][1:3]
    golden = _patterns(2, width, height) if images is None else _select(images)
    outputs = stored_predict_fn(interpreter)(golden)
    photo = _patterns(1, *_TEST_SIZE)[0]
    layout = preprocessing.layout(*_TEST_SIZE, input_size=(width, height))
    embedded = {
        "wasm": (_HERE / "runtime/litert.wasm.gz").read_bytes(),
        "model": _compress(content),
        "golden_images": _compress(golden.tobytes()),
        "golden_outputs": _compress(b"".join(values.tobytes() for values in outputs)),
        "golden_pixels": _compress(layout.apply(resize(photo, layout.resized)).tobytes()),
    }
    runtime = json.loads(_read("runtime/runtime.json"))
    noun = "Pattern" if images is None else "Held-out image"
    data = {
        "task": task,
        "preprocessing": asdict(preprocessing),
        "model": tensors,
        "golden": {"count": len(golden), "noun": noun, "photo": _to_png(photo)},
        "constants": _constants(task),
    }
    described = f"{model.name}, {width} by {height} pixels, {_count_classes(task)}"
    page = _render(
        title=f"{_TITLES.get(task.get('task', ''), 'Model')}: demo",
        subtitle=described,
        samples_label=f"{noun}s of the self-check; select one to predict it:",
        facts=_facts(model, content, tensors, preprocessing, runtime),
        notice=f"LiteRT.js ({runtime['name']} {runtime['version']}), Copyright Google LLC, "
        f"{runtime['license']}. Changed: its module is a script, and uses the CPU alone.",
        license=_read("runtime/LICENSE"),
        embedded=[(name, Markup(_encode(one))) for name, one in embedded.items()],  # noqa: S704
        # Within a script, "<" could start a tag that ends it.
        data=Markup(json.dumps(data).replace("<", "\\u003c")),  # noqa: S704
    )
    write_text(path, page)


def is_demo(path: Path) -> bool:
    """Whether a file is such a page, by its first lines."""
    with path.open("rb") as file:
        return _GENERATOR.encode() in file.read(4096)


def _render(**values: Any) -> str:
    """Return the page; its policy permits these scripts and this style by their SHA-256."""
    scripts = [
        _read("runtime/litert_wasm.js"),
        _read("runtime/litert.js"),
        '"use strict";\n' + "\n".join(_read(f"page/{name}") for name in SCRIPTS),
    ]
    style = PALETTE + _read("page/demo.css")
    return _ENVIRONMENT.get_template("demo.html.jinja").render(
        scripts=[Markup(script) for script in scripts],  # noqa: S704 - our own files
        script_hashes=Markup(" ".join(map(_hash, scripts))),  # noqa: S704
        style=Markup(style),  # noqa: S704
        style_hash=Markup(_hash(style)),  # noqa: S704
        generator=Markup(_GENERATOR),  # noqa: S704
        **values,
    )


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _describe_tensors(interpreter: Any, model: Path) -> dict[str, Any]:
    """Return type, shape and quantization of the input and the outputs."""
    (into,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    for one in (into, *outputs):
        if one["dtype"] not in (np.uint8, np.float32):
            raise UserError(
                f"{model} has a tensor of {np.dtype(one['dtype']).name} as input or output, which "
                "LiteRT.js does not support. Use a file with uint8 or float32, such as those of "
                "--formats int8,float32."
            )
    names = _signature_names(interpreter)
    described = [
        {
            "keys": [one["name"], *names.get(int(one["index"]), ())],
            "shape": one["shape"][1:].tolist(),
            "dtype": np.dtype(one["dtype"]).name,
            "scale": float(np.float32(one["quantization"][0])),
            "zero_point": int(one["quantization"][1]),
        }
        for one in outputs
    ]
    shape = into["shape"].tolist()
    return {"input": {"shape": shape, "dtype": np.dtype(into["dtype"]).name}, "outputs": described}


def _signature_names(interpreter: Any) -> dict[int, list[str]]:
    """Return the names of the outputs in the file's signature, by the index of their tensor."""
    if not (signatures := interpreter.get_signature_list()):
        return {}
    details = interpreter.get_signature_runner(next(iter(signatures))).get_output_details()
    names: dict[int, list[str]] = {}
    for name, one in details.items():
        names.setdefault(int(one["index"]), []).append(name)
    return names


def _select(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return evenly spaced images of at most GOLDEN_BYTES."""
    count = min(len(images), max(2, GOLDEN_BYTES // images[0].nbytes))
    selected: NDArray[np.uint8] = images[np.linspace(0, len(images) - 1, count).round().astype(int)]
    return selected


def _patterns(count: int, width: int, height: int) -> NDArray[np.uint8]:
    """Return gradients with noise, uint8 (count, height, width, 3), the same at each call."""
    noise = np.random.default_rng(0).integers(0, 64, (count, height, width, 3))
    ramp = np.add.outer(np.linspace(0, 95, height), np.linspace(0, 96, width))
    return (noise + ramp[None, :, :, None]).astype(np.uint8)


def _constants(task: dict[str, Any]) -> dict[str, Any]:
    """Return the constants of decoding and drawing."""
    parts = [task, *task.get("tasks", {}).values()]
    count = max(len(part.get("classes", ())) for part in parts)
    return {
        "max_candidates": detection.MAX_CANDIDATES,
        "max_objects": detection.MAX_OBJECTS,
        "box_colors": detection.COLORS,
        "opacity": segmentation.OPACITY,
        "ignored": segmentation.IGNORED,
        "max_resized": MAX_RESIZED,
        "smallest_scaled": SMALLEST_SCALED,
        "min_confidence": keypoints.MIN_CONFIDENCE,
        "colors": [colors.color(i) for i in range(count)],
        "mean_steps": MEAN_STEPS,
        "float_tolerance": _FLOAT_TOLERANCE,
    }


def _count_classes(task: dict[str, Any]) -> str:
    nouns = {
        "regression": ("quantity", "quantities"),
        "keypoints": ("point", "points"),
        "multitask": ("task", "tasks"),
    }
    name = task.get("task", "")
    count = len(task.get("tasks" if name == "multitask" else "classes", ()))
    return f"{count} {nouns.get(name, ('class', 'classes'))[count != 1]}"


def _facts(
    model: Path,
    content: bytes,
    tensors: dict[str, Any],
    preprocessing: Preprocessing,
    runtime: dict[str, Any],
) -> Sequence[tuple[str, str]]:
    _, height, width, _ = tensors["input"]["shape"]
    return (
        ("File", f"{model.name}, {size_bytes(model) / 1024:,.0f} KiB"),
        ("SHA-256", hashlib.sha256(content).hexdigest()),
        ("Input", f"{tensors['input']['dtype']}, {width} by {height} pixels"),
        ("Outputs", "; ".join(_describe_outputs(tensors["outputs"]))),
        ("Preprocessing", format_preprocessing(preprocessing)),
        ("Runtime", f"LiteRT.js {runtime['version']}, WebAssembly, one thread"),
        ("Written by", f"Kerakit {__version__}"),
    )


def _describe_outputs(outputs: Iterable[dict[str, Any]]) -> list[str]:
    return [f"{one['dtype']} {' by '.join(map(str, one['shape']))}" for one in outputs]


def _to_png(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return _encode(file.getvalue())


def _compress(content: bytes) -> bytes:
    return gzip.compress(content, 9, mtime=0)


def _encode(content: bytes) -> str:
    return base64.b64encode(content).decode()
