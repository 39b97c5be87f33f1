"""Make every format, load it again, measure it, report it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy import evaluate, pack
from kerakit.deploy.edgetpu import EDGETPU
from kerakit.deploy.format import Format, Skipped, Source, Written
from kerakit.deploy.health import examine
from kerakit.deploy.keras import H5, KERAS
from kerakit.deploy.litert import FLOAT32, INT8
from kerakit.deploy.report import Row, write_report
from kerakit.errors import JobError, UserError
from kerakit.files import make_folder, sha256, write_text

FORMATS: dict[str, Format] = {f.name: f for f in (H5, KERAS, FLOAT32, INT8, EDGETPU)}
"""The formats by name, as in ``kerakit.deploy.FORMAT_NAMES``; the Edge TPU's is made from the int8 file, so after it."""

LABELS, REPORT = "labels.txt", "report.json"


class Deployment:
    """The folder that is delivered: files appear in it whole, and the report last.

    Args:
        path: the folder; it needs not exist.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.report = self.path / REPORT
        self.names = [f.file for f in FORMATS.values()] + ["model_edgetpu.log", LABELS, REPORT]
        self.names += [f"{pack.FOLDER}/{name}" for name in pack.FILES]

    def refuse_existing(self, overwrite: bool) -> None:
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
            make_folder(self.path / pack.FOLDER)
        for name in self.names:
            if name in made and name != REPORT:
                (folder / name).replace(self.path / name)
            elif name not in made:
                (self.path / name).unlink(missing_ok=True)
        (folder / REPORT).replace(self.report)
        # One that holds other files than ours stays.
        with contextlib.suppress(OSError):
            (self.path / pack.FOLDER).rmdir()


def deploy(
    model: Any,
    deployment: Deployment,
    class_names: Sequence[str],
    calibration: Callable[[], Iterator[NDArray[np.uint8]]],
    held_out: Iterable[tuple[Any, Any]],
    formats: Sequence[str] | None = None,
    edgetpu_compiler: Path | None = None,
    about: dict[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Deliver ``model``.

    Args:
        model: a built ``keras.Model`` with one output of (batch, classes) scores.
        deployment: where to.
        class_names: for labels.txt, in the order of the outputs.
        calibration: returns a new iterator over training images, uint8 (height, width, 3).
        held_out: batches of (uint8 images, int targets) that no training saw; iterated once for each format.
        formats: keys of FORMATS; these must succeed. Default: all, where what cannot be made here is skipped.
        edgetpu_compiler: Google's compiler, or None for the one on the PATH.
        about: facts for the report.
        say: gets one line for each step.

    Returns:
        One row for each format. A format that failed has ``status`` "failed"; the others are delivered all the same.

    Raises:
        UserError: the model does not fit: several outputs, or another number of classes.
    """
    _refuse_other_tasks(model, class_names)
    make_folder(deployment.path)
    with tempfile.TemporaryDirectory(prefix=".kerakit-", dir=deployment.path) as temporary:
        source = Source(model, calibration, Path(temporary), edgetpu_compiler)
        say("the trained model: scoring the held-out images")
        reference, targets = evaluate.scores(lambda images: np.asarray(model.predict_on_batch(images)), held_out)
        wanted = [f for f in FORMATS.values() if formats is None or f.name in formats]
        images = pack.pick(held_out, len(targets))
        rows = [_deliver(f, source, held_out, images, reference, asked=formats is not None, say=say) for f in wanted]
        write_text(source.folder / LABELS, "".join(f"{name}\n" for name in class_names))
        _pack(source.folder, rows, images, say)
        kept = {row.file for row in rows if row.status == "delivered"} | {LABELS, "model_edgetpu.log", pack.FOLDER}
        for path in source.folder.iterdir():
            if path.name not in kept:
                path.unlink()
        facts = {"held_out_images": len(targets), "keras_accuracy": evaluate.share_right(reference, targets), **(about or {})}
        write_report(source.folder / REPORT, rows, facts)
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


def _deliver(
    one: Format,
    source: Source,
    held_out: Iterable[Any],
    images: NDArray[np.uint8],
    reference: NDArray[np.float32],
    asked: bool,
    say: Callable[[str], None],
) -> Row:
    """Write, load and measure one format; a few ``images`` tell its latency and health."""
    try:
        say(f"{one.name}: writing {one.file}")
        written = _written(one, source, images)
    except Skipped as reason:
        # Asked for by name, a format that is left out is a failure.
        return Row(one.name, one.file, "failed" if asked else "skipped", str(reason))
    except JobError as error:
        return Row(one.name, one.file, "failed", str(error))
    row = Row(one.name, one.file, "delivered", bytes=written.path.stat().st_size, sha256=sha256(written.path))
    row.details = written.details
    if warnings := row.details.get("health"):
        say(f"{one.name}: {len(warnings)} warning(s) about its numbers, each in the report with its layer")
    predict = one.load(written.path)
    if predict is None:
        row.reason = "not run: no device here"
        return row
    say(f"{one.name}: scoring the held-out images")
    predicted, targets = evaluate.scores(predict, held_out)
    row.accuracy = evaluate.share_right(predicted, targets)
    row.agreement = evaluate.share_equal(predicted, reference)
    row.latency_ms = evaluate.latency_ms(predict, images[0])
    return row


def _written(one: Format, source: Source, images: NDArray[np.uint8] | None = None) -> Written:
    """Write a format, after what it is made from; given ``images``, the int8 file must be sound."""
    needs = getattr(one, "made_from", None)
    if needs is not None and not (source.folder / needs).exists():
        _written(next(f for f in FORMATS.values() if f.file == needs), source, images)
    written = one.write(source)
    if one is INT8 and images is not None:
        written.details["health"] = examine(written.path, source.model, images)
    return written


def _pack(folder: Path, rows: list[Row], images: NDArray[np.uint8], say: Callable[[str], None]) -> None:
    """Make the device's pack of an int8 file that is delivered; if it does not find its scores again, neither is."""
    for row in rows:
        if row.format == INT8.name and row.status == "delivered":
            try:
                pack.write_pack(folder, images)
                say(f"{pack.FOLDER}: a folder for the device; its program found the scores of {len(images)} images again")
            except JobError as error:
                row.status, row.reason = "failed", str(error)
