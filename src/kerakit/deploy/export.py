"""Export: write each format, load it again, measure it on held-out images, report it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from kerakit.deploy import ALL_FORMATS, DEFAULT_FORMATS, bundle, frigate
from kerakit.deploy.card import write_card
from kerakit.deploy.failure import describe_failure
from kerakit.deploy.folder import LOGS, ExportFolder
from kerakit.deploy.formats.base import (
    LABELS,
    TASK,
    EdgeTpuOptions,
    ExportSource,
    Format,
    FormatUnavailable,
    WrittenFormat,
)
from kerakit.deploy.formats.table import FORMATS
from kerakit.deploy.formats.tflite import FLOAT32, INT8
from kerakit.deploy.formats.web import MODELS, WEB
from kerakit.deploy.gate import AccuracyGate, Measurement, describe_drop
from kerakit.deploy.held_out import Batches, check_preprocess, preprocessing_of
from kerakit.deploy.page import write_page
from kerakit.deploy.quantization.calibration import Calibration
from kerakit.deploy.quantization.fallbacks import try_fallbacks
from kerakit.deploy.quantization.health import examine, summarize
from kerakit.deploy.results import FormatResult, write_report
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.errors import JobError
from kerakit.files import (
    naming,
    remove,
    sha256,
    size_bytes,
    write_json,
    write_text,
)
from kerakit.inference import keras_predict_fn, measure_latency_ms, output_names
from kerakit.report.formatting import format_label, format_points
from kerakit.tasks.base import Predictions, Task, label_lines
from kerakit.tasks.calibration import calibrate_task
from kerakit.tflite.convert import check_backend
from kerakit.tflite.runtime import load_tflite

if TYPE_CHECKING:
    import keras

Log = Callable[[str], None]


def export_model(
    model: keras.Model,
    task: Task,
    folder: ExportFolder,
    calibration: Calibration,
    held_out: Batches,
    formats: Sequence[str] | None = None,
    max_drop: float = 0.01,
    edgetpu: EdgeTpuOptions = EdgeTpuOptions(),  # noqa: B008 - frozen
    info: dict[str, Any] | None = None,
    sample_name: Callable[[int], str] | None = None,
    log: Log = print,
    bundles: Sequence[str] = (),
) -> list[FormatResult]:
    """Export ``model`` with labels.txt, a device bundle, a model card, and a report.

    If a format fails, the others are still exported. Files that fail the accuracy gate are exported
    too.

    Args:
        model: a trained model; its input is pixels (n, height, width, 3), 0 to 255.
        task: task of the model.
        folder: destination.
        calibration: training images that calibrate the activation ranges.
        held_out: batches of (uint8 images, targets) that were not used for training; iterated once
            per format. The image files of a ``BatchGenerator`` are read as by the device bundle.
        formats: formats that must succeed; None: DEFAULT_FORMATS; with ALL_FORMATS in it: all. In
            the latter two cases, unavailable formats are skipped.
        max_drop: largest accuracy drop that passes the gate, as a fraction.
        edgetpu: options of the Edge TPU compiler.
        info: additional entries of the report.
        sample_name: function from the sample index of a held-out image to its name.
        log: gets one line per step.
        bundles: further folders for programs that run the int8 model: "frigate".

    Returns:
        One result per format; a failed format has ``status`` "failed".

    Raises:
        UserError: Keras runs on another backend than TensorFlow, which the converters need; the
            model doesn't fit the task; ``preprocess`` of ``held_out`` changes pixels; or a bundle
            is not for the task.
        JobError: none of the formats can be exported on this machine, or of this model.

    >>> import tempfile
    >>> import keras
    >>> from kerakit.tasks import Classification
    >>> image = keras.Input((8, 8, 3))
    >>> scores = keras.layers.Dense(2, activation="softmax")(keras.layers.Flatten()(image))
    >>> images, targets = np.zeros((4, 8, 8, 3), np.uint8), np.array([0, 1, 0, 1])
    >>> with tempfile.TemporaryDirectory() as path:
    ...     [result] = export_model(
    ...         keras.Model(image, scores),
    ...         Classification(["cat", "dog"]),
    ...         ExportFolder(path),
    ...         Calibration(("a.jpg", "b.jpg"), lambda: iter(images[:2])),
    ...         held_out=[(images, targets)],
    ...         formats=["keras"],
    ...         log=lambda line: None,
    ...     )
    >>> result.status, result.measurement.agreement
    ('exported', 1.0)
    """
    check_backend("the export")
    if frigate.FOLDER in bundles:
        frigate.check_frigate(task, formats)
    task.check_model(model)
    model = task.inference_model(model)
    check_preprocess(held_out)  # before anything is written
    with folder.write() as temporary, naming(folder.path, temporary):
        source = ExportSource(model, calibration, temporary, edgetpu, task)
        impossible = _check_formats(replace(source, folder=folder.path), formats, log)
        log("Keras model: predicting the held-out images")
        predict = keras_predict_fn(model)
        calibrate_task(task, predict, held_out)
        gate = AccuracyGate(task, held_out, predict, max_drop, output_names(model))
        if gate.reading == "device":
            log("exported files: images read as on the device; agreement includes the difference")
        if chance := gate.describe_chance():
            log(chance)
        write_text(source.folder / LABELS, "".join(f"{name}\n" for name in label_lines(task)))
        write_json(source.folder / TASK, {**task.spec(), "outputs": list(gate.output_names)})
        preprocessing_of(held_out).save(source.folder / PREPROCESSING)
        source = replace(source, samples=gate.sample_images)
        results = _export_formats(source, gate, formats, impossible, log)
        _export_bundle(source.folder, results, gate.sample_images, model, log)
        exported = {result.file for result in results if result.status == "exported"}
        if frigate.FOLDER in bundles and INT8.file in exported:
            results += export_frigate(source.folder, gate.sample_images, model, log)
        folders = (bundle.FOLDER, frigate.FOLDER)
        for path in source.folder.iterdir():
            if path.name not in {*exported, *LOGS, LABELS, TASK, PREPROCESSING, *folders}:
                remove(path)
        written = (folder.page, folder.report, folder.card)
        files = sorted({*folder.list_files(temporary), *(path.name for path in written)})
        info = {**(info or {}), "files": files, "better_than_chance": not chance}
        report = write_report(source.folder / folder.report.name, results, gate, info)
        write_page(source.folder / folder.page.name, results, report, gate, sample_name)
        write_card(source.folder, task, report, model.input_shape[1:])
        folder.take_over(temporary)
    return results


def _export_formats(
    source: ExportSource,
    gate: AccuracyGate,
    names: Sequence[str] | None,
    impossible: Mapping[str, FormatResult],
    log: Log,
) -> list[FormatResult]:
    results: list[FormatResult] = []
    for one in _select(names):
        if one.name in impossible:
            results.append(impossible[one.name])
            continue
        requires = getattr(one, "requires", None)
        broken = [r.format for r in results if r.file == requires and r.status == "failed"]
        if broken:
            reason = f"it is made from {broken[0]}, which failed"
            results.append(FormatResult(one.name, one.file, "failed", reason))
            continue
        try:
            results.append(_export_format(one, source, gate, log))
        except Exception as error:
            reason = describe_failure(error, source.folder / one.file, source.model)
            remove(source.folder / one.file)
            results.append(FormatResult(one.name, one.file, "failed", reason))
            log(f"{one.name}: failed: {reason}")
    return results


def _select(names: Sequence[str] | None) -> list[Format]:
    wanted = set(DEFAULT_FORMATS if names is None else names)
    if WEB.name in wanted and wanted.isdisjoint(MODELS):
        wanted.add(MODELS[0])
    return [one for one in FORMATS.values() if one.name in wanted or ALL_FORMATS in wanted]


def _check_formats(
    source: ExportSource, names: Sequence[str] | None, log: Log
) -> dict[str, FormatResult]:
    """Return the results of formats that cannot be written, by name, before any work.

    Raises:
        JobError: that is all of them.
    """
    unavailable: Literal["failed", "skipped"] = "skipped"
    if names is not None and ALL_FORMATS not in names:
        unavailable = "failed"
    impossible = {}
    for one in _select(names):
        try:
            getattr(one, "check", lambda _: None)(source)
        except FormatUnavailable as unavailable_reason:
            impossible[one.name] = FormatResult(
                one.name, one.file, unavailable, str(unavailable_reason)
            )
        except Exception as error:
            reason = describe_failure(error, source.folder / one.file, source.model)
            impossible[one.name] = FormatResult(one.name, one.file, "failed", reason)
    if len(impossible) == len(_select(names)):
        reasons = "; ".join(f"{one.format}: {one.reason}" for one in impossible.values())
        raise JobError(f"nothing can be exported: {reasons}")
    for result in impossible.values():
        verb = "will be skipped" if result.status == "skipped" else "cannot be exported"
        log(f"{result.format} {verb}: {result.reason}")
    return impossible


def _export_format(one: Format, source: ExportSource, gate: AccuracyGate, log: Log) -> FormatResult:
    """Write, load and measure one format."""
    log(f"{one.name}: writing {one.file}")
    written = _write(one, source)
    predict = one.load(written.path, gate.output_names)
    if predict is None:
        return _describe(one, written, getattr(one, "untested", "not tested on a device"))
    log(f"{one.name}: predicting the held-out images")
    predictions = gate.predict(predict)
    measurement = gate.measure(predictions)
    reason = ""
    if one is INT8 and not measurement.passed:
        drop = describe_drop(format_label(gate.main_metric), measurement.drop, gate.max_drop)
        if reason := _explain_drop(source, gate, measurement):
            log(f"int8: {drop}; {reason}")
        else:
            log(f"int8: {drop}, trying fallbacks")
            reason = _apply_fallbacks(written, source, gate, log)
            predict = INT8.load(written.path, gate.output_names)
            predictions = gate.predict(predict)
            measurement = gate.measure(predictions)
    if one is INT8:
        written.details["health"] = examine(written.path, source.model, gate.sample_images)
    if written.half is not None:
        half = gate.predict(load_tflite(written.half, gate.output_names))
        written.details["half_calibration"] = _compare_half(half, predictions, gate)
    result = _describe(one, written, reason)
    result.measurement, result.predictions = measurement, predictions
    result.latency_ms = measure_latency_ms(predict, gate.sample_images[0])
    return result


def _write(one: Format, source: ExportSource) -> WrittenFormat:
    """Write a format, after the one that it requires."""
    requires = getattr(one, "requires", None)
    if requires is not None and not (source.folder / requires).exists():
        _write(next(other for other in FORMATS.values() if other.file == requires), source)
    return one.write(source)


def _describe(one: Format, written: WrittenFormat, reason: str) -> FormatResult:
    return FormatResult(
        one.name,
        one.file,
        "exported",
        reason,
        size_bytes=size_bytes(written.path),
        sha256=sha256(written.path),
        details=written.details,
    )


def _compare_half(
    half: Predictions, predictions: Predictions, gate: AccuracyGate
) -> dict[str, Any]:
    """Return the metrics with half of the calibration images; if equal, there were enough."""
    measurement = gate.measure(half)
    return {
        "metrics": measurement.metrics,
        "agreement": measurement.agreement,
        "same_prediction": gate.task.agreement(half, predictions),
    }


def _explain_drop(source: ExportSource, gate: AccuracyGate, int8: Measurement) -> str:
    """Return the cause of an accuracy drop that the float32 file has, too; "" if int8 causes it."""
    predict = FLOAT32.load(source.folder / FLOAT32.file, gate.output_names)
    float32 = gate.measure(gate.predict(predict))
    if float32.passed or int8.drop - float32.drop > gate.max_drop:
        return ""
    cause = (
        "it comes from reading images as on the device"
        if gate.reading == "device"
        else "it comes from the conversion to TensorFlow Lite"
    )
    return (
        f"no fallback was tried: the float32 file has an accuracy drop of "
        f"{format_points(float32.drop)}, so {cause}, not from quantization"
    )


def _apply_fallbacks(
    written: WrittenFormat, source: ExportSource, gate: AccuracyGate, log: Log
) -> str:
    """Replace an int8 file that fails the gate by the best fallback; return a remark."""
    content = (source.folder / FLOAT32.file).read_bytes()
    selected, attempts = try_fallbacks(
        content, source.model, source.calibration, source.activation_stats, gate, log
    )
    INT8.save(source, selected.content)
    metadata = size_bytes(written.path) - len(selected.content)
    written.details["fallbacks"] = [attempt.to_json(metadata) for attempt in attempts]
    written.details["selected"] = selected.name
    return (
        f"selected fallback: {selected.name}; {selected.on_tpu} of "
        f"{selected.on_tpu + selected.on_cpu} operators map to the Edge TPU"
    )


def _export_bundle(
    folder: Path,
    results: list[FormatResult],
    images: NDArray[np.uint8],
    model: keras.Model,
    log: Log,
) -> None:
    """Write the device bundle of an exported int8 model; the format fails if its bundle does."""
    int8 = next((one for one in results if one.format == INT8.name), None)
    if int8 is None or int8.status != "exported":
        return
    for line in summarize(int8.details["health"]):
        log(f"int8: {line}")
    try:
        bundle.write_bundle(folder, images)
        log(f"{bundle.FOLDER}: device bundle verified on {len(images)} images")
    except Exception as error:
        int8.status, int8.reason = "failed", describe_failure(error, folder / int8.file, model)
        remove(folder / bundle.FOLDER)


def export_frigate(
    folder: Path, images: NDArray[np.uint8], model: keras.Model, log: Log
) -> list[FormatResult]:
    """Write the folder for Frigate; return its result if it failed, which ends nothing else."""
    name = frigate.FOLDER
    try:
        if warning := frigate.write_frigate(folder, images):
            log(f"{name}: {warning}")
    except Exception as error:
        reason = describe_failure(error, folder / name, model)
        log(f"{name}: failed: {reason}")
        return [FormatResult(name, f"{name}/{INT8.file}", "failed", reason)]
    log(f"{name}: verified on {len(images)} images")
    return []
