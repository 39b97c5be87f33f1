"""A detector for Frigate: its TensorFlow Lite file with the four outputs of SSD models.

Frigate's detectors "cpu" and "edgetpu" with ``model_type: ssd`` read boxes, class ids, scores and a
count (``tflite_detect_raw`` in frigate/detectors/detector_utils.py, ``EdgeTpuTfl.detect_raw`` in
frigate/detectors/plugins/edgetpu_tfl.py). So decoding and non-maximum suppression are appended to
the int8 model, in float32 on the CPU, up to TFLite_Detection_PostProcess. After the Edge TPU
compiler, too: the compiled part remains as it is.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from kerakit.deploy import ALL_FORMATS
from kerakit.deploy.formats.base import TASK
from kerakit.deploy.formats.edgetpu import EDGETPU
from kerakit.deploy.formats.tflite import INT8
from kerakit.device.decoders import make_decoder
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.device.preprocessing import STRETCH, Preprocessing
from kerakit.errors import JobError, UserError
from kerakit.files import read_json, write_text
from kerakit.tflite.append import Appender
from kerakit.tflite.runtime import dequantize, start_interpreter, stored_predict_fn

FOLDER = "frigate"
LABELMAP, CONFIG = "labelmap.txt", "config.yml"

MAX_OBJECTS = 20
MIN_SCORE = 0.4
"""Number of objects that Frigate reads per image, and the lowest score."""

TOLERANCE = 1e-4
"""Largest difference of a side, as a fraction of the image, and of a score from the decoder's."""

_PLACE = "/config/kerakit"
_OPERATOR = "TFLite_Detection_PostProcess"


def check_frigate(task: Any, formats: Sequence[str] | None = None) -> None:
    """Raise UserError unless a task is detection, and int8 among the formats."""
    if formats is not None and not {INT8.name, ALL_FORMATS} & set(formats):
        raise UserError("--bundle frigate needs the format int8. Add it to --formats.")
    if task.name != "detection":
        raise UserError(
            f"--bundle frigate is for detectors; the task is {task.name}. Omit it, or train a "
            "detector: kerakit new --task detection."
        )


def write_frigate(folder: Path, images: NDArray[np.uint8]) -> str:
    """Write the folder for Frigate of an exported detector, and verify its model.

    Args:
        folder: the export folder, with model.tflite, task.json and, optionally,
            model_edgetpu.tflite.
        images: held-out images, uint8 (n, height, width, 3).

    Returns:
        A warning, where Frigate's images differ from those of the training; or "".

    Raises:
        JobError: the model finds other objects than the decoder.
    """
    task = read_json(folder / TASK, dict)
    made = folder / FOLDER
    warning = _check_images(Preprocessing.read(folder / PREPROCESSING), images.shape)
    made.mkdir()
    try:
        height, width = images.shape[1:3]
        for name in (INT8.file, EDGETPU.file):
            if (folder / name).exists():
                content = (folder / name).read_bytes()
                (made / name).write_bytes(append_decoder(content, task, (width, height)))
        names = [str(name) for name in task["classes"]]
        lines = [f"{index} {name}\n" for index, name in enumerate(names)]
        write_text(made / LABELMAP, "".join(lines))
        write_text(made / CONFIG, _describe(task, names, (width, height), made, warning))
        difference = compare(folder, task, images)
        if difference > TOLERANCE:
            raise JobError(
                f"the model for Frigate differs from the decoder by {difference:.2g} (allowed: "
                f"{TOLERANCE:g})."
            )
    except Exception:
        shutil.rmtree(made)
        raise
    return warning


def _check_images(policy: Preprocessing, shape: tuple[int, ...]) -> str:
    """Return a warning where Frigate reads other images than the training did."""
    if policy == STRETCH and shape[1] == shape[2]:
        return ""
    trained = "another PREPROCESSING" if policy != STRETCH else "an input that is not square"
    return (
        f"WARNING: Frigate stretches square regions of the camera to the input, and the model was "
        f"trained with {trained}: it may find fewer objects there than was measured."
    )


def append_decoder(content: bytes, task: Mapping[str, Any], input_size: tuple[int, int]) -> bytes:
    """Return a detector with boxes, class ids, scores and a count as outputs.

    Boxes are (1, 20, 4): upper, left, lower and right side as fractions of the input; class ids and
    scores (1, 20), the highest score first; the count (1,).

    Args:
        content: the int8 model, or the compiled one.
        task: content of task.json.
        input_size: (width, height).
    """
    graph = Appender(content)
    index = {str(name): graph.outputs[i] for i, name in enumerate(task["outputs"])}
    strides, classes = [int(stride) for stride in task["strides"]], len(task["classes"])
    boxes, objectness, logits = (
        _join(graph, [index[f"{name}_{stride}"] for stride in strides], size)
        for name, size in (("box", 4), ("object", 1), ("class", classes))
    )
    least = min(graph.scale(index[f"class_{stride}"]) for stride in strides)
    sides, has_area = _corners(graph, boxes, strides, input_size)
    scores = _scores(graph, objectness, logits, least)
    count = graph.shape(scores)[1]
    float_scores = [(graph.shape(scores), "float32")]
    [scores] = graph.apply("MUL", [scores, has_area], float_scores, {"table": "MulOptions"})
    anchors = graph.constant(np.tile([0.0, 0.0, 1.0, 1.0], (count, 1)))
    outputs = graph.apply(
        _OPERATOR,
        [sides, scores, anchors],
        [((1, MAX_OBJECTS, 4), "float32")]
        + [((1, MAX_OBJECTS), "float32")] * 2
        + [((1,), "float32")],
        custom=_postprocess_options(task, classes),
    )
    return graph.finish(outputs)


def _postprocess_options(task: Mapping[str, Any], classes: int) -> bytes:
    from flatbuffers import flexbuffers

    values = {
        "max_detections": MAX_OBJECTS,
        "max_classes_per_detection": 1,
        "detections_per_class": 100,
        "use_regular_nms": True,
        "nms_score_threshold": min(MIN_SCORE, float(task["threshold"])),
        "nms_iou_threshold": float(task["overlap"]),
        "num_classes": classes,
        **dict.fromkeys(("y_scale", "x_scale", "h_scale", "w_scale"), 1.0),
    }
    return bytes(flexbuffers.Dumps(values))


def _join(graph: Appender, tensors: list[int], size: int) -> int:
    """Return the real values of the levels of one kind of output, (1, points, size)."""
    parts = []
    for tensor in tensors:
        points = int(np.prod(graph.shape(tensor))) // size
        flat = graph.reshape(tensor, (1, points, size))
        parts += graph.apply("DEQUANTIZE", [flat], [((1, points, size), "float32")])
    count = sum(graph.shape(part)[1] for part in parts)
    options = {"table": "ConcatenationOptions", "axis": 1}
    [joined] = graph.apply("CONCATENATION", parts, [((1, count, size), "float32")], options)
    return joined


def _corners(
    graph: Appender, boxes: int, strides: list[int], size: tuple[int, int]
) -> tuple[int, int]:
    """Return boxes as TFLite_Detection_PostProcess takes them, and 1 for those with an area.

    Of the anchor (0, 0, 1, 1): center y and x, and the logarithms of height and width.
    """
    width, height = size
    scale, centers = [], []
    for stride in strides:
        rows, columns = height // stride, width // stride
        y, x = np.divmod(np.arange(rows * columns), columns)
        center = (np.stack([x, y], axis=1) + 0.5) * stride / [width, height]
        centers.append(np.tile(center, 2))
        step = np.array([-stride, -stride, stride, stride]) / [width, height, width, height]
        scale.append(np.tile(step, (rows * columns, 1)))
    shape = graph.shape(boxes)

    def apply(op: str, *inputs: int, wide: bool = True) -> int:
        table = {"MUL": "MulOptions", "ADD": "AddOptions", "SUB": "SubOptions"}.get(op)
        output = shape if wide else (*shape[:2], 1)
        options = {"table": table} if table else None
        return graph.apply(op, inputs, [(output, "float32")], options)[0]

    moved = apply("MUL", boxes, graph.constant(np.concatenate(scale)[None]))
    corners = apply("ADD", moved, graph.constant(np.concatenate(centers)[None]))
    corners = apply("MAXIMUM", corners, graph.constant([0.0]))
    corners = apply("MINIMUM", corners, graph.constant([1.0]))
    column = ((*shape[:2], 1), "float32")
    axis = graph.constant(2, "int32")
    split = {"table": "SplitOptions", "numSplits": 4}
    left, upper, right, lower = graph.apply("SPLIT", [axis, corners], [column] * 4, split)
    half = graph.constant([0.5])
    encoded = []
    for first, second in ((upper, lower), (left, right)):
        total = apply("ADD", first, second, wide=False)
        encoded.append(apply("MUL", total, half, wide=False))
    lengths = [
        apply("SUB", second, first, wide=False) for first, second in ((upper, lower), (left, right))
    ]
    shorter = apply("MINIMUM", *lengths, wide=False)
    zero = graph.constant([0.0])
    [positive] = graph.apply("GREATER", [shorter, zero], [((*shape[:2], 1), "bool")])
    [has_area] = graph.apply("CAST", [positive], [column])
    least = graph.constant([1e-9])
    for length in lengths:
        safe = apply("MAXIMUM", length, least, wide=False)
        encoded.append(apply("LOG", safe, wide=False))
    options = {"table": "ConcatenationOptions", "axis": 2}
    [sides] = graph.apply("CONCATENATION", encoded, [(shape, "float32")], options)
    return sides, has_area


def _scores(graph: Appender, objectness: int, logits: int, scale: float) -> int:
    """Return the score of the best class of each point, 0 for its others, (1, points, classes).

    Quantized logits are often equal. The first class wins, as in the decoder: the others are
    lowered by less than one step.
    """
    shape = graph.shape(logits)
    wide, narrow = (shape, "float32"), ((*shape[:2], 1), "float32")
    [certain] = graph.apply("LOGISTIC", [objectness], [narrow])
    [likely] = graph.apply("LOGISTIC", [logits], [wide])
    [scores] = graph.apply("MUL", [certain, likely], [wide], {"table": "MulOptions"})
    classes = shape[2]
    if classes == 1:
        return scores
    ranks = graph.constant(np.arange(classes) * scale / (2 * classes))
    [ordered] = graph.apply("SUB", [logits, ranks], [wide], {"table": "SubOptions"})
    axis = graph.constant([2], "int32")
    keep = {"table": "ReducerOptions", "keepDims": True}
    [best] = graph.apply("REDUCE_MAX", [ordered, axis], [narrow], keep)
    [is_best] = graph.apply("GREATER_EQUAL", [ordered, best], [(shape, "bool")])
    [mask] = graph.apply("CAST", [is_best], [wide])
    [chosen] = graph.apply("MUL", [scores, mask], [wide], {"table": "MulOptions"})
    return chosen


def read_objects(outputs: list[NDArray[Any]]) -> NDArray[np.float32]:
    """Return the rows that Frigate makes of the outputs of one image, float32 (20, 6).

    Class id, score, upper, left, lower and right side; as ``tflite_detect_raw`` of Frigate.
    """
    boxes, kinds, scores, count = (np.asarray(values)[0] for values in outputs)
    rows = np.zeros((MAX_OBJECTS, 6), np.float32)
    for i in range(int(count)):
        if scores[i] < MIN_SCORE or i == MAX_OBJECTS:
            break
        rows[i] = [kinds[i], scores[i], *boxes[i]]
    return rows


def compare(folder: Path, task: Mapping[str, Any], images: NDArray[np.uint8]) -> float:
    """Return the largest difference of an object that Frigate reads from that of the decoder.

    Infinity where the number of objects, or a class, differs; objects of nearly equal scores may be
    exchanged.
    """
    decoder = make_decoder({**task, "threshold": MIN_SCORE})
    plain = start_interpreter((folder / INT8.file).read_bytes(), INT8.file)
    made = start_interpreter((folder / FOLDER / INT8.file).read_bytes(), INT8.file)
    details = plain.get_output_details()
    stored = stored_predict_fn(plain)(images)
    worst = 0.0
    for i, image in enumerate(images):
        real = {}
        for name, one, values in zip(task["outputs"], details, stored, strict=True):
            real[name] = dequantize(values[i], *one["quantization"])
        wanted = decoder.decode(real)
        made.set_tensor(made.get_input_details()[0]["index"], image[None])
        made.invoke()
        rows = read_objects([made.get_tensor(one["index"]) for one in made.get_output_details()])
        found = rows[rows[:, 1] > 0]
        worst = max(worst, _difference(found, wanted[:, [5, 4, 1, 0, 3, 2]]))
    return worst


def _difference(found: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the largest difference of rows of objects, in any order.

    Args:
        found: the rows that Frigate reads.
        wanted: those of the decoder, the highest score first; there may be more.
    """
    # A score at the limit may be above it in one of both.
    found, wanted = (rows[rows[:, 1] >= MIN_SCORE + TOLERANCE] for rows in (found, wanted))
    scores = wanted[:MAX_OBJECTS, 1]
    if len(found) != len(scores):
        return float("inf")
    worst, rest = float(np.abs(found[:, 1] - scores).max(initial=0)), list(wanted)
    if len(wanted) > MAX_OBJECTS:
        # Of objects with the score of the last one, Frigate may read others than the first.
        found = found[found[:, 1] > scores[-1] + TOLERANCE]
    for row in found:
        differences = [
            float(np.abs(row - other).max()) if row[0] == other[0] else float("inf")
            for other in rest
        ]
        nearest = int(np.argmin(differences))
        worst = max(worst, differences[nearest])
        rest.pop(nearest)
    return worst


def _describe(
    task: Mapping[str, Any], names: list[str], size: tuple[int, int], made: Path, warning: str
) -> str:
    """Return the part of Frigate's configuration, with notes."""
    is_compiled = (made / EDGETPU.file).exists()
    detector = {"type": "edgetpu", "device": "usb"} if is_compiled else {"type": "cpu"}
    values = {
        "detectors": {"coral" if is_compiled else "cpu1": detector},
        "model": {
            "path": f"{_PLACE}/{EDGETPU.file if is_compiled else INT8.file}",
            "labelmap_path": f"{_PLACE}/{LABELMAP}",
            "width": size[0],
            "height": size[1],
            "input_tensor": "nhwc",
            "input_pixel_format": "rgb",
            "model_type": "ssd",
        },
        "objects": {
            "track": names,
            "filters": {name: {"min_score": float(task["threshold"])} for name in names},
        },
    }
    return (
        f"# Copy this folder to {_PLACE} of Frigate, and this text into its configuration.\n"
        f"# Frigate reads up to {MAX_OBJECTS} objects of a score of at least {MIN_SCORE}, and "
        "stretches square regions to the input.\n"
        f"# Not run in Frigate, nor on a Coral.\n{f'# {warning}' if warning else ''}\n"
        f"{yaml.safe_dump(values, sort_keys=False, allow_unicode=True)}"
    )
