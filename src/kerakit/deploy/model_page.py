"""MODEL.md of the device bundle: inputs, outputs, decoding and samples for other programs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.device.decoders import make_decoder, split_outputs
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.device.preprocessing import Preprocessing
from kerakit.files import write_text
from kerakit.report.text import render_text
from kerakit.tflite.graph import Graph, Tensor, read_graph

PAGE = "MODEL.md"
GOLDEN_INPUT, GOLDEN_OUTPUT = "golden_input.bin", "golden_output.bin"
FILES = (PAGE, GOLDEN_INPUT, GOLDEN_OUTPUT)
"""Files of the device bundle for programs of the user's own."""

SHOWN_LABELS = 50
"""Number of names that the page lists."""

_FORMULAS = {
    "classification": "Output {0}: one score per class. The predicted class is that of the highest "
    "score.",
    "multilabel": "Output {0}: one score per class, independent of the others. A class is present "
    "if its score is at least its threshold: {thresholds}.",
    "regression": "Output {0}: one fraction f per quantity. value = low + f * (high - low), with "
    "low {low} and high {high}.",
    "segmentation": "Output {0}: scores (rows, columns, classes) of a grid over the input. Resize "
    "the scores to the size of the photo, linearly between the centers of the cells; the class of "
    "a pixel is that of its highest score. The samples count cells of the grid instead.",
    "keypoints": "Output {heatmaps}: heatmaps (rows, columns, points), logits; output {offsets}: "
    "offsets (rows, columns, 2 * points), x and y per point, in cells. Of each point, take the "
    "cell (row, column) of the highest logit h:\n\n"
    "x = (column + 0.5 + offset x) / columns, y = (row + 0.5 + offset y) / rows, as fractions of "
    "the input; confidence = 1 / (1 + exp(-h)).",
    "detection": "For each stride s, a grid of cells of s by s pixels: {levels}. Of the cell (row, "
    "column), with its center at x = (column + 0.5) * s, y = (row + 0.5) * s:\n\n"
    "score = sigmoid(object) * sigmoid(highest class logit), with sigmoid(v) = 1 / (1 + exp(-v)); "
    "class = that of the highest logit;\n\n"
    "left = x - box[0] * s, top = y - box[1] * s, right = x + box[2] * s, bottom = y + box[3] * s, "
    "in pixels of the input, clipped to it.\n\n"
    "Omit scores below {threshold} and boxes without an area. Non-maximum suppression: in "
    "descending order of scores, omit a box whose intersection over union with a remaining one of "
    "its class exceeds {overlap}. At most 1,000 candidates and 100 objects.",
}


def write_model_page(
    bundle: Path,
    task: Mapping[str, Any],
    image: NDArray[np.uint8],
    outputs: Sequence[NDArray[Any]],
    runtime: str,
) -> None:
    """Write MODEL.md and the golden example as raw bytes.

    Args:
        bundle: the device bundle, with model.tflite and labels.txt.
        task: content of task.json.
        image: a held-out image, uint8 (height, width, 3).
        outputs: stored outputs of the model for it, without the batch axis.
        runtime: name and version of the runtime that computed them.
    """
    graph = read_graph((bundle / "model.tflite").read_bytes())
    labels = (bundle / "labels.txt").read_text(encoding="utf-8").splitlines()
    names = [str(name) for name in task.get("outputs") or [""]]
    height, width = image.shape[:2]
    parts = _find_parts(task)
    values = {
        "height": height,
        "width": width,
        "task": parts[0][1]["task"] if len(parts) == 1 and not parts[0][0] else "",
        **_constants(parts[0][1], _indices(parts[0][0], names), graph),
    }
    (bundle / GOLDEN_INPUT).write_bytes(image.tobytes())
    (bundle / GOLDEN_OUTPUT).write_bytes(b"".join(one.tobytes() for one in outputs))
    page = render_text(
        "model.md.jinja",
        height=height,
        width=width,
        input=_describe(graph.inputs[0]),
        outputs=[
            {**_describe(tensor), "label": name or task.get("task", "")}
            for name, tensor in zip(names, graph.outputs, strict=True)
        ],
        steps=_steps(Preprocessing.read(bundle / PREPROCESSING), width, height),
        parts=[
            {"title": title, "formula": _formula(spec, _indices(title, names), graph)}
            for title, spec in parts
        ],
        labels=labels,
        shown=SHOWN_LABELS,
        runtime=runtime,
        golden={
            "input": image.ravel().tolist(),
            "input_sha256": hashlib.sha256(image.tobytes()).hexdigest(),
            "outputs": [one.ravel().tolist() for one in outputs],
            "sha256": [hashlib.sha256(one.tobytes()).hexdigest() for one in outputs],
        },
        expected=_expect(values["task"], task, labels, outputs, graph, (width, height)),
        samples={
            name: render_text(f"model_{name}.jinja", **values)
            for name in ("python", "kotlin", "swift")
        },
    )
    write_text(bundle / PAGE, page)


def _describe(tensor: Tensor) -> dict[str, Any]:
    is_quantized = len(tensor.scales) == 1
    return {
        "name": tensor.name,
        "shape": f"({', '.join(map(str, tensor.shape))})",
        "type": tensor.type.lower(),
        "scale": f"{tensor.scales[0]:.9g}" if is_quantized else "-",
        "zero_point": int(tensor.zero_points[0]) if is_quantized else "-",
    }


def _steps(policy: Preprocessing, width: int, height: int) -> list[str]:
    """Return the steps from an upright photo to the input, as ``Preprocessing.layout`` has them."""
    steps = []
    if policy.crop != (0, 0, 1, 1):
        left, top, right, bottom = (f"{side:g}" for side in policy.crop)
        steps.append(
            f"Crop it to the part from {left} to {right} of its width and {top} to {bottom} of its "
            "height."
        )
    size = f"{width} by {height} pixels"
    steps.append(
        {
            "stretch": f"Resize it to {size}, without preserving the aspect ratio.",
            "letterbox": f"Resize it by the factor with which it just fits into {size} (sides "
            "rounded), and put it in the middle of a black image of this size; of an odd number of "
            "free rows or columns, the smaller part is above or left.",
            "center_crop": f"Resize it by the factor with which it just covers {size} (sides "
            "rounded), and crop its middle; of an odd number of rows or columns that exceed it, "
            "the smaller part is cut above or left.",
        }[policy.resize]
    )
    if policy.color == "gray":
        steps.append(
            "Replace red, green and blue by (19595 * red + 38470 * green + 7471 * blue + 32768) / "
            "65536, rounded down."
        )
    return steps


def _find_parts(task: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the name of each task among several, "" for a single one, and its values."""
    if task.get("task") == "multitask":
        return list(task["tasks"].items())
    return [("", task)]


def _indices(part: str, names: Sequence[str]) -> dict[str, int]:
    """Return the indices of the outputs of a task, by their names in it."""
    if not part:
        return {name: index for index, name in enumerate(names)}
    parts = split_outputs({name: index for index, name in enumerate(names)})
    found = parts[part]
    return dict(found) if isinstance(found, dict) else {"": found}


def _constants(spec: Mapping[str, Any], indices: Mapping[str, int], graph: Graph) -> dict[str, Any]:
    """Return the numbers of a task that the samples contain."""
    kind = spec["task"]
    if kind == "multilabel":
        return {"thresholds": list(map(float, spec["thresholds"]))}
    if kind == "regression":
        return {name: list(map(float, spec[name])) for name in ("low", "high")}
    if kind == "keypoints":
        rows, columns = graph.outputs[indices["heatmaps"]].shape[1:3]
        return {**indices, "rows": rows, "columns": columns}
    if kind == "detection":
        levels = [
            (int(s), *(indices[f"{name}_{s}"] for name in ("box", "object", "class")))
            for s in spec["strides"]
        ]
        return {
            "levels": levels,
            "threshold": float(spec["threshold"]),
            "iou": float(spec["overlap"]),
        }
    return {}


def _formula(spec: Mapping[str, Any], indices: Mapping[str, int], graph: Graph) -> str:
    text = _FORMULAS.get(spec["task"])
    if text is None:
        return "A task of the owner's own: see `decode` in task.py of its project."
    values: dict[str, Any] = _constants(spec, indices, graph)
    if "levels" in values:
        values["levels"] = "; ".join(
            f"s = {stride}: box is output {box}, object {objectness}, class {classes}"
            for stride, box, objectness, classes in values["levels"]
        )
    lists = {key: ", ".join(map(str, v)) for key, v in values.items() if isinstance(v, list)}
    return text.format(
        next(iter(indices.values())), **{**values, **lists, "overlap": values.get("iou")}
    )


def _expect(
    kind: str,
    task: Mapping[str, Any],
    labels: Sequence[str],
    outputs: Sequence[NDArray[Any]],
    graph: Graph,
    size: tuple[int, int],
) -> str | None:
    """Return what the samples print for the golden example; None where they print values."""
    if not kind or kind not in _FORMULAS:
        return None
    decoder = make_decoder(dict(task))
    names = [str(name) for name in task.get("outputs") or ()]
    real = [
        np.float32(tensor.scales[0]) * (values.astype(np.float32) - tensor.zero_points[0])
        for tensor, values in zip(graph.outputs, outputs, strict=True)
    ]
    prediction = decoder.decode(dict(zip(names, real, strict=True)) if names else real[0])
    if kind == "segmentation":
        counts = np.bincount(real[0].argmax(axis=-1).ravel(), minlength=len(labels))
        return "\n".join(f"{name} {n}" for name, n in zip(labels, counts, strict=True) if n)
    rows = decoder.describe(prediction, size=size)
    return "\n".join(_format(row) for row in rows)


def _format(record: Mapping[str, Any]) -> str:
    name, *_ = record.values()
    sides = [record[key] for key in ("x", "y", "x1", "y1", "x2", "y2") if key in record]
    places = "".join(f" {value:.1f}" for value in sides)
    if "value" in record:
        return f"{name} {record['value']:.3f}"
    if "x" in record:
        return f"{name}{places} {record['confidence']:.3f}"
    return f"{name} {record['confidence']:.3f}{places}"
