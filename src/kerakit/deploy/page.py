"""The report page of an export."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kerakit import nested
from kerakit.deploy.edgetpu.forecast import COMPILER, forecast
from kerakit.deploy.formats.edgetpu import EDGETPU
from kerakit.deploy.formats.tflite import INT8
from kerakit.deploy.gate import AccuracyGate, describe_drop
from kerakit.deploy.quantization.health import summarize
from kerakit.deploy.results import FormatResult
from kerakit.files import write_text
from kerakit.inference import TIMED_RUNS
from kerakit.report.accuracy_latency import FormatPoint, plot_accuracy_latency
from kerakit.report.formatting import (
    FRACTIONS,
    format_label,
    format_percent,
    format_points,
    format_time,
    format_value,
)
from kerakit.report.page import (
    Badge,
    Block,
    Chart,
    Code,
    Gallery,
    Heading,
    Inline,
    Labeled,
    Note,
    Page,
    Paragraph,
    Sample,
    Section,
    Table,
    Tile,
    Tiles,
    Values,
    environment_section,
    make_block,
    render,
)

MAX_REGRESSIONS = 32
"""Number of int8 regressions that are shown."""

_HELD_OUT = {
    "test": "test images, used neither for training nor for selecting the checkpoint",
    "val": "validation images. The checkpoint was selected on them, so metrics on new images "
    "may be lower",
}
_NOTES = {
    "calibration": "Training images that calibrate the activation ranges: class-balanced, without "
    "augmentation. The SHA-256 is that of the list of their names.",
    "half_calibration": "Were there enough calibration images? A second int8 file is calibrated on "
    "the first half of them and evaluated on the held-out images. Agreement: fraction with the "
    "prediction of the Keras model, to be compared with that of int8 under Formats. Same "
    "prediction: fraction with the prediction of the exported int8 file. If the agreements differ "
    "or the same prediction is below 99 %, use more calibration images (--num_calibration).",
    "health": "Numerical problems by layer. Warnings may cost accuracy; notes need no action.",
    "fallbacks": "Attempts to bring the int8 file within the accuracy gate, in order.",
}
_TARGETS = {
    "tpu": Badge("Edge TPU", "good"),
    "cpu": Badge("CPU", "bad"),
    "unknown": Badge("unknown", "idle"),
}


def write_page(
    path: Path,
    results: Sequence[FormatResult],
    report: Mapping[str, Any],
    gate: AccuracyGate,
    sample_name: Callable[[int], str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: path of the page, in the export folder.
        results: one per format.
        report: the content of report.json.
        gate: that the results were measured with.
        sample_name: returns the name of a held-out image by its sample index.
    """
    int8 = next((one for one in results if one.format == INT8.name and one.measurement), None)
    predictions: dict[str, Any] = {"Keras": gate.reference}
    if int8 is not None:
        predictions["int8"] = int8.predictions
    sections = [
        _formats(results, report),
        _accuracy_and_latency(results, report),
        *gate.task.report(predictions, gate.targets),
        _regressions(gate, int8, sample_name),
        _operators(path.parent, results),
        *_details(results),
        environment_section(report),
    ]
    run = f"{report['run']}, checkpoint {report['checkpoint']}; exported" if "run" in report else ""
    page = Page(
        f"{report.get('model', 'model')}: export",
        [Paragraph(f"{run or 'Exported'} {format_time(report['created'])}")],
        [_tiles(results, report, int8), *(section for section in sections if section is not None)],
    )
    write_text(path, render(page))


def _tiles(
    results: Sequence[FormatResult], report: Mapping[str, Any], int8: FormatResult | None
) -> Tiles:
    failed = [one.format for one in results if one.status == "failed" or one.passed is False]
    metric = report["main_metric"]
    label = format_label(metric)
    if failed:
        gate = Tile("accuracy gate", Badge(f"{len(failed)} failed", "bad"), ", ".join(failed))
    else:
        limit = f"{label} drop of at most {format_points(report['max_drop'])}"
        gate = Tile("accuracy gate", Badge("passed", "good"), limit)
    keras = format_value(report["keras_metrics"][metric], metric)
    tiles = [
        gate,
        Tile(f"{label}, Keras", keras, f"{report['held_out_images']:,} held-out images"),
    ]
    if int8 is not None and int8.measurement is not None:
        agreement = f"agreement {format_percent(int8.measurement.agreement)}"
        score = format_value(int8.measurement.metrics[metric], metric)
        tiles.append(Tile(f"{label}, int8", score, agreement))
        latency = format_value(int8.latency_ms, "latency_ms")
        device = f"per image, 1 thread, {report['cpu'] or 'CPU'}"
        tiles.append(Tile("latency, int8", f"{latency} ms", device))
        size = format_value(int8.size_bytes, "size_bytes")
        tiles.append(Tile("size, int8", f"{size} KiB", int8.file))
    return Tiles(tiles)


def _formats(results: Sequence[FormatResult], report: Mapping[str, Any]) -> Section:
    main, *others = report["keras_metrics"]
    columns = [main, "drop", "agreement", "latency_ms", "size_bytes", *others]
    rows = []
    for result in results:
        values = {**result.to_json(), **(result.measurement.metrics if result.measurement else {})}
        rows.append(
            [
                Labeled(result.format, result.file),
                _badge(result),
                *(
                    "" if values.get(key) is None else format_value(values[key], key)
                    for key in columns
                ),
                Code(result.sha256[:8], result.sha256) if result.sha256 else "",
            ]
        )
    headings = [format_label(key) for key in columns]
    remarks: list[Block] = []
    for result in results:
        if result.reason:
            remarks.append(Paragraph(result.reason, f"{result.format} {result.status}:"))
        if result.measurement is not None and not result.measurement.passed:
            drop = describe_drop(format_label(main), result.measurement.drop, report["max_drop"])
            remarks.append(Paragraph(drop, f"{result.format} failed the accuracy gate:"))
    table = Table(["format", "gate", *headings, "SHA-256"], rows, headings)
    return Section("Formats", [table, *remarks, *_method(report)])


def _badge(result: FormatResult) -> Badge:
    if result.status != "exported":
        return Badge(result.status, "bad" if result.status == "failed" else "idle")
    if result.passed is None:
        return Badge("not tested", "idle")
    return Badge("passed", "good") if result.passed else Badge("failed", "bad")


_READING = {
    "device": "Exported files: images read by the program of the device bundle; Keras model: as in "
    "training.",
    "training": "All models: the same arrays.",
}


def _method(report: Mapping[str, Any]) -> list[Block]:
    images = _HELD_OUT.get(report.get("held_out", ""), "held-out images")
    metric = format_label(report["main_metric"])
    reading = _READING[report["image_reading"]]
    machine = report["cpu"] or report["machine"]
    threads = "1 thread, except in TensorFlow (h5, keras, saved_model)"
    return [
        Note(f"Evaluated on {report['held_out_images']:,} {images}. {reading}"),
        Values(
            [
                ("drop", f"decrease of {metric} against the Keras model; negative for a gain"),
                ("agreement", "with the predictions of the Keras model"),
                ("latency", f"per image, median of {TIMED_RUNS}; {machine}, {threads}"),
            ]
        ),
    ]


def _accuracy_and_latency(
    results: Sequence[FormatResult], report: Mapping[str, Any]
) -> Section | None:
    metric = report["main_metric"]
    points = [
        FormatPoint(
            one.format,
            one.latency_ms,
            one.measurement.metrics[metric],
            one.size_bytes or 0,
            one.measurement.passed,
        )
        for one in results
        if one.measurement and one.latency_ms
    ]
    if not points:
        return None
    label, max_drop = format_label(metric), report["max_drop"]
    in_percent = metric.endswith(FRACTIONS)
    drop = format_points(max_drop) if in_percent else f"{max_drop:g}"
    threshold = (
        report["keras_metrics"][metric] - max_drop,
        f"accuracy gate: Keras − {drop}",  # noqa: RUF001 - minus
    )
    min_span = max(4 * max_drop, 6 / report["held_out_images"])
    figure = plot_accuracy_latency(points, label, threshold, min_span, in_percent)
    untested = ", ".join(one.format for one in results if not one.measurement)
    note = f" Not tested: {untested}." if untested else ""
    return Section(
        f"{label if label != label.lower() else label.capitalize()} and latency",
        [Chart(figure, f"{label} over latency"), Note(f"Area of a dot: size of the file.{note}")],
    )


def _regressions(
    gate: AccuracyGate, int8: FormatResult | None, sample_name: Callable[[int], str] | None
) -> Section | None:
    if int8 is None or int8.predictions is None:
        return None
    task, predictions = gate.task, int8.predictions
    of_keras = set(task.mistakes(gate.reference, gate.targets).tolist())
    of_int8 = task.mistakes(predictions, gate.targets).tolist()
    regressions = [index for index in of_int8 if index not in of_keras]
    fixed = len(of_keras.difference(of_int8))
    shown = regressions[:MAX_REGRESSIONS]
    pixels = gate.load_images(set(shown))
    count = gate.count
    text = (
        f"{len(regressions):,} of {count:,} held-out images are correct with the Keras model "
        f"and mistakes of int8. The reverse: {fixed:,}."
    )
    if len(shown) < len(regressions):
        text += f" Shown: the {len(shown)} most confident."
    samples = [
        Sample(
            task.overlay(pixels[index], predictions[index], nested.take(gate.targets, index)),
            task.format_annotation(nested.take(gate.targets, index)),
            [
                f"{name}: {task.format_prediction(each[index])}"
                for name, each in (("int8", predictions), ("Keras", gate.reference))
            ],
            sample_name(index) if sample_name else "",
        )
        for index in shown
    ]
    notes = [Note(task.overlay_note)] if task.overlay_note and samples else []
    return Section("int8 regressions", [Paragraph(text), *notes, Gallery(samples)])


def _operators(folder: Path, results: Sequence[FormatResult]) -> Section | None:
    exported = {one.format: one for one in results if one.status == "exported"}
    blocks: list[Block] = []
    if EDGETPU.name in exported:
        compiler: Block = make_block(exported[EDGETPU.name].details)
        blocks += [Paragraph("Output of the compiler:"), compiler, Heading("Forecast")]
    if INT8.name in exported:
        blocks += _forecast((folder / INT8.file).read_bytes())
    return Section("Operators on the Edge TPU and CPU", blocks) if blocks else None


def _forecast(content: bytes) -> list[Block]:
    found = forecast(content)
    note = Note(f"Forecast of what {COMPILER} does with {INT8.file}; it was not run for it.")
    if found.refused:
        return [
            note,
            Paragraph(found.refused.reason, Badge("refused", "bad")),
            Note(found.refused.advice),
        ]
    unknown = f", {found.unknown} unknown" if found.unknown else ""
    on_chip, streamed = (
        format_value(size, "bytes") for size in (found.on_chip_bytes, found.streamed_bytes)
    )
    summary = (
        f"{found.on_tpu} of {len(found.operators)} operators on the Edge TPU, {found.on_cpu} on "
        f"the CPU{unknown}. Estimated parameters: {on_chip} KiB cached on the chip, {streamed} KiB "
        "streamed per inference."
    )
    counts = Counter((one.op, one.target, one.status) for one in found.operators)
    rows: list[list[Inline]] = [
        [Code(op), count, _TARGETS[target], status]
        for (op, target, status), count in counts.items()
    ]
    table = Table(["operator", "count", "target", "status"], rows, ["count"])
    return [note, Paragraph(summary), *map(Note, found.warnings), table]


def _details(results: Sequence[FormatResult]) -> list[Section]:
    """Return one section per detail of the formats; formats with the same detail share it."""
    groups: dict[tuple[str, str], list[FormatResult]] = {}
    for result in results:
        for key, value in result.details.items():
            # Other sections show these.
            if result.format != EDGETPU.name and key != "selected":
                groups.setdefault((key, json.dumps(value)), []).append(result)
    sections = []
    for (key, _), group in groups.items():
        label, names = format_label(key), ", ".join(one.format for one in group)
        notes = [Note(_NOTES[key])] if key in _NOTES else []
        blocks: list[Block] = [*notes]
        if key == "health":
            blocks += [
                Paragraph(line[0].upper() + line[1:]) for line in summarize(group[0].details[key])
            ]
        blocks.append(make_block(group[0].details[key], key))
        sections.append(Section(f"{label[0].upper()}{label[1:]}: {names}", blocks))
    return sections
