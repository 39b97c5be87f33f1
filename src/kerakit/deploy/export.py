"""Make every format, load it again, measure it, report it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy import ALL, DEFAULT_FORMATS, evaluate, ladder, pack
from kerakit.deploy.edgetpu.compiler import EDGETPU
from kerakit.deploy.formats.base import LABELS, Compiling, Format, Skipped, Source, Written
from kerakit.deploy.formats.keras import H5, KERAS, predictor
from kerakit.deploy.formats.onnx import ONNX
from kerakit.deploy.formats.openvino import OPENVINO
from kerakit.deploy.formats.saved_model import SAVED_MODEL
from kerakit.deploy.formats.tflite import DYNAMIC_RANGE, FLOAT16, FLOAT32, INT8, INT16X8
from kerakit.deploy.page import write_page
from kerakit.deploy.quantization.calibration import Calibration
from kerakit.deploy.quantization.health import examine
from kerakit.deploy.report import Row, write_report
from kerakit.errors import JobError, UserError
from kerakit.files import make_dir, move_into_place, remove, sha256, size, write_text

_ALL = (
    H5,
    KERAS,
    SAVED_MODEL,
    FLOAT32,
    FLOAT16,
    DYNAMIC_RANGE,
    INT8,
    EDGETPU,
    ONNX,
    OPENVINO,
    INT16X8,
)
FORMATS: dict[str, Format] = {f.name: f for f in _ALL}
"""The formats by name, as in ``kerakit.deploy.FORMAT_NAMES``: each after what it is made from, the slow ones last."""

REPORT, PAGE = "report.json", "report.html"


class Deployment:
    """The folder that is delivered: files appear in it whole, and the report last.

    Args:
        path: the folder; it needs not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.report = self.path / REPORT
        self.page = self.path / PAGE
        self.names = [f.file for f in FORMATS.values()] + [
            "model_edgetpu.log",
            LABELS,
            PAGE,
            REPORT,
        ]
        self.names += [f"{pack.FOLDER}/{name}" for name in pack.FILES]

    def check_new(self, overwrite: bool) -> None:
        """Raise UserError if deploying into this folder would lose something."""
        for path in (self.path, self.path / pack.FOLDER):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; --save_to expects a folder.")
        there = [name for name in self.names if (self.path / name).exists()]
        if there and not overwrite:
            raise UserError(
                f"{self.path} already holds {there[0]}. Choose another --save_to, or give --overwrite to replace it."
            )

    def take(self, folder: Path) -> None:
        """Move what was made in ``folder`` here; what an earlier deployment left under our names goes."""
        made = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
        self.report.unlink(missing_ok=True)
        if pack.FOLDER in made:
            make_dir(self.path / pack.FOLDER)
        for name in self.names:
            if name in made and name != REPORT:
                move_into_place(folder / name, self.path / name)
            elif name not in made:
                remove(self.path / name)
        (folder / REPORT).replace(self.report)
        # One that holds other files than ours stays.
        with contextlib.suppress(OSError):
            (self.path / pack.FOLDER).rmdir()


def deploy(
    model: Any,
    deployment: Deployment,
    class_names: Sequence[str],
    calibration: Calibration,
    held_out: Iterable[tuple[Any, Any]],
    formats: Sequence[str] | None = None,
    max_drop: float = 0.01,
    edgetpu: Compiling = Compiling(),  # noqa: B008 - frozen
    about: dict[str, Any] | None = None,
    key: Callable[[int], str] | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Deliver ``model``.

    Args:
        model: a built ``keras.Model`` with one output of (batch, classes) scores.
        deployment: where to.
        class_names: for labels.txt, in the order of the outputs.
        calibration: the training images that ranges are measured on.
        held_out: batches of (uint8 images, int targets) that no training saw; iterated once for each format.
        formats: keys of FORMATS, which must succeed. Of the default, and of "all", what cannot be made here is skipped.
        max_drop: the largest loss of accuracy that passes the gate.
        edgetpu: how the int8 file is compiled for the Edge TPU.
        about: facts for the report.
        key: gives the name of a held-out image by its place, for the page.
        say: gets one line for each step.

    Returns:
        One row for each format. A format that failed has ``status`` "failed"; the others are delivered all the same, those
        below the gate too.

    Raises:
        UserError: the model does not fit: several outputs, or another number of classes.
    """
    _refuse_other_tasks(model, class_names)
    make_dir(deployment.path)
    with tempfile.TemporaryDirectory(prefix=".kerakit-", dir=deployment.path) as temporary:
        source = Source(model, calibration, Path(temporary), edgetpu)
        say("the trained model: scoring the held-out images")
        gate = evaluate.Gate(held_out, predictor(model), class_names, max_drop)
        names = DEFAULT_FORMATS if formats is None else FORMATS if ALL in formats else formats
        asked = formats is not None and ALL not in formats
        rows: list[Row] = []
        for one in (FORMATS[name] for name in FORMATS if name in names):
            if one is EDGETPU and any(
                row.format == INT8.name and row.status == "failed" for row in rows
            ):
                rows.append(
                    Row(
                        one.name, one.file, "failed", "the int8 file, which it is made from, failed"
                    )
                )
            else:
                rows.append(_deliver(one, source, gate, asked, say))
        write_text(source.folder / LABELS, "".join(f"{name}\n" for name in class_names))
        _pack(source.folder, rows, gate.few, say)
        kept = {row.file for row in rows if row.status == "delivered"} | {
            LABELS,
            "model_edgetpu.log",
            pack.FOLDER,
        }
        for path in source.folder.iterdir():
            if path.name not in kept:
                remove(path)
        facts = {
            "held_out_images": len(gate.targets),
            "keras_accuracy": gate.accuracy,
            "max_drop": max_drop,
            **(about or {}),
        }
        report = write_report(source.folder / REPORT, rows, facts)
        write_page(source.folder / PAGE, rows, report, gate, key)
        deployment.take(source.folder)
    return rows


def _refuse_other_tasks(model: Any, class_names: Sequence[str]) -> None:
    if len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise UserError(
            f"this model gives {len(model.outputs)} output(s) of shape {model.output_shape}; what can be deployed so far is a "
            "classifier: one output of (batch, classes)."
        )
    if model.output_shape[1] != len(class_names):
        raise UserError(
            f"the model tells {model.output_shape[1]} classes apart, the data has {len(class_names)}."
        )


def _deliver(
    one: Format, source: Source, gate: evaluate.Gate, asked: bool, say: Callable[[str], None]
) -> Row:
    """Write, load and measure one format."""
    try:
        say(f"{one.name}: writing {one.file}")
        written = _written(one, source)
        predict = one.load(written.path)
        if predict is None:
            row = _row(one, written)
            row.reason = "not run: no device here"
            return row
        say(f"{one.name}: scoring the held-out images")
        predicted = gate.scores(predict)
        measured = gate.measure(predicted)
        if one is INT8 and not measured.passed:
            say(f"int8: loses {measured.drop:.2%}, more than the gate lets pass: trying other ways")
            written = _repaired(written, source, gate, say)
            predict = INT8.load(written.path)
            predicted = gate.scores(predict)
            measured = gate.measure(predicted)
        if one is INT8:
            written.details["health"] = examine(written.path, source.model, gate.few)
    except Skipped as reason:
        # Asked for by name, a format that is left out is a failure.
        return Row(one.name, one.file, "failed" if asked else "skipped", str(reason))
    except JobError as error:
        remove(source.folder / one.file)
        return Row(one.name, one.file, "failed", str(error))
    row = _row(one, written)
    row.measured, row.latency_ms = measured, evaluate.latency_ms(predict, gate.few[0])
    row.answers = evaluate.Answers.of(predicted)
    if written.half is not None:
        row.details["half_the_calibration"] = _with_half(one.load(written.half), predicted, gate)
    return row


def _row(one: Format, written: Written) -> Row:
    """Return a row for what was delivered, to be filled with what is measured."""
    row = Row(
        one.name,
        one.file,
        "delivered",
        bytes=size(written.path),
        sha256=sha256(written.path),
        details=written.details,
    )
    row.reason = str(row.details.get("taken", ""))
    return row


def _with_half(
    predict: Any, predicted: NDArray[np.float32], gate: evaluate.Gate
) -> dict[str, float]:
    """Return what half of the calibration images would have given: where it is the same, they were enough."""
    with_half = gate.scores(predict)
    measured = gate.measure(with_half)
    same = evaluate.share_equal(with_half, predicted)
    return {"accuracy": measured.accuracy, "agreement": measured.agreement, "same_class": same}


def _repaired(
    written: Written, source: Source, gate: evaluate.Gate, say: Callable[[str], None]
) -> Written:
    """Replace an int8 file that is below the gate by what the ladder finds."""
    floats = (source.folder / FLOAT32.file).read_bytes()
    content, rungs = ladder.climb(floats, source.model, source.calibration, gate, say)
    written.path.write_bytes(content)
    taken = next(rung for rung in rungs if rung.content == content)
    operators = taken.on_tpu + taken.on_cpu
    details = {
        **written.details,
        "ladder": [rung.facts() for rung in rungs],
        "taken": f"{taken.tried} was taken; an Edge TPU would take {taken.on_tpu} of {operators} operators",
    }
    return Written(written.path, details, written.half)


def _written(one: Format, source: Source) -> Written:
    """Write a format, after what it is made from."""
    needs = getattr(one, "made_from", None)
    if needs is not None and not (source.folder / needs).exists():
        _written(next(f for f in FORMATS.values() if f.file == needs), source)
    return one.write(source)


def _pack(
    folder: Path, rows: list[Row], images: NDArray[np.uint8], say: Callable[[str], None]
) -> None:
    """Make the device's pack of an int8 file that is delivered; if it does not find its scores again, neither is."""
    for row in rows:
        if row.format == INT8.name and row.status == "delivered":
            if warnings := row.details["health"]:
                say(
                    f"int8: {len(warnings)} remark(s) on its numbers in the report; none keeps it from running"
                )
            try:
                pack.write_pack(folder, images)
                say(
                    f"{pack.FOLDER}: a folder for the device; its program found the scores of {len(images)} images again"
                )
            except JobError as error:
                row.status, row.reason = "failed", str(error)
