"""Make every format, load it again, measure it, report it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from kerakit.deploy import ALL, DEFAULT_FORMATS, evaluate
from kerakit.deploy.calibration import Calibration
from kerakit.deploy.edgetpu import EDGETPU
from kerakit.deploy.format import LABELS, Format, Skipped, Source, Written
from kerakit.deploy.keras import H5, KERAS, predictor
from kerakit.deploy.litert import DYNAMIC_RANGE, FLOAT16, FLOAT32, INT8, INT16X8
from kerakit.deploy.onnx import ONNX
from kerakit.deploy.openvino import OPENVINO
from kerakit.deploy.page import write_page
from kerakit.deploy.report import Row, write_report
from kerakit.deploy.saved_model import SAVED_MODEL
from kerakit.errors import JobError, UserError
from kerakit.files import make_folder, put_in_place, remove, sha256, size, write_text

_ALL = (H5, KERAS, SAVED_MODEL, FLOAT32, FLOAT16, DYNAMIC_RANGE, INT8, EDGETPU, ONNX, OPENVINO, INT16X8)
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
        self.names = [f.file for f in FORMATS.values()] + ["model_edgetpu.log", LABELS, PAGE, REPORT]

    def refuse_existing(self, overwrite: bool) -> None:
        """Raise UserError if deploying into this folder would lose something."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path} is a file; --save_to expects a folder.")
        there = [name for name in self.names if (self.path / name).exists()]
        if there and not overwrite:
            raise UserError(
                f"{self.path} already holds {there[0]}. Choose another --save_to, or give --overwrite to replace it."
            )

    def take(self, folder: Path) -> None:
        """Move what was made in ``folder`` here; what an earlier deployment left under our names goes."""
        made = {path.name for path in folder.iterdir()}
        self.report.unlink(missing_ok=True)
        for name in self.names:
            if name in made and name != REPORT:
                put_in_place(folder / name, self.path / name)
            elif name not in made:
                remove(self.path / name)
        (folder / REPORT).replace(self.report)


def deploy(
    model: Any,
    deployment: Deployment,
    class_names: Sequence[str],
    calibration: Calibration,
    held_out: Iterable[tuple[Any, Any]],
    formats: Sequence[str] | None = None,
    max_drop: float = 0.01,
    edgetpu_compiler: Path | None = None,
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
        edgetpu_compiler: Google's compiler, or None for the one on the PATH.
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
    make_folder(deployment.path)
    with tempfile.TemporaryDirectory(prefix=".kerakit-", dir=deployment.path) as temporary:
        source = Source(model, calibration, Path(temporary), edgetpu_compiler)
        say("the trained model: scoring the held-out images")
        gate = evaluate.Gate(held_out, predictor(model), class_names, max_drop)
        names = DEFAULT_FORMATS if formats is None else FORMATS if ALL in formats else formats
        asked = formats is not None and ALL not in formats
        rows = [_deliver(f, source, gate, asked, say) for f in FORMATS.values() if f.name in names]
        write_text(source.folder / LABELS, "".join(f"{name}\n" for name in class_names))
        kept = {row.file for row in rows if row.status == "delivered"} | {LABELS, "model_edgetpu.log"}
        for path in source.folder.iterdir():
            if path.name not in kept:
                remove(path)
        facts = {"held_out_images": len(gate.targets), "keras_accuracy": gate.accuracy, "max_drop": max_drop, **(about or {})}
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
        raise UserError(f"the model tells {model.output_shape[1]} classes apart, the data has {len(class_names)}.")


def _deliver(one: Format, source: Source, gate: evaluate.Gate, asked: bool, say: Callable[[str], None]) -> Row:
    """Write, load and measure one format."""
    try:
        say(f"{one.name}: writing {one.file}")
        written = _written(one, source)
        predict = one.load(written.path)
    except Skipped as reason:
        # Asked for by name, a format that is left out is a failure.
        return Row(one.name, one.file, "failed" if asked else "skipped", str(reason))
    except JobError as error:
        return Row(one.name, one.file, "failed", str(error))
    row = Row(one.name, one.file, "delivered", bytes=size(written.path), sha256=sha256(written.path), details=written.details)
    if predict is None:
        row.reason = "not run: no device here"
        return row
    say(f"{one.name}: scoring the held-out images")
    predicted = gate.scores(predict)
    row.measured = gate.measure(predicted)
    row.answers = evaluate.Answers.of(predicted)
    row.latency_ms = evaluate.latency_ms(predict, gate.image())
    if written.half is not None and (predict := one.load(written.half)) is not None:
        with_half = gate.scores(predict)
        measured = gate.measure(with_half)
        row.details["half_the_calibration"] = {
            "accuracy": measured.accuracy,
            "agreement": measured.agreement,
            "same_class": evaluate.share_equal(with_half, predicted),
        }
    return row


def _written(one: Format, source: Source) -> Written:
    """Write a format, after what it is made from."""
    needs = getattr(one, "made_from", None)
    if needs is not None and not (source.folder / needs).exists():
        _written(next(f for f in FORMATS.values() if f.file == needs), source)
    return one.write(source)
