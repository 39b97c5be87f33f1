"""What was delivered, as one page to look at: report.json, drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kerakit import answers, charts
from kerakit.deploy.edgetpu.compiler import EDGETPU
from kerakit.deploy.edgetpu.forecast import COMPILER, forecast
from kerakit.deploy.formats.tflite import INT8
from kerakit.deploy.gate import TIMED_RUNS, Answers, Gate
from kerakit.deploy.report import Row
from kerakit.files import write_text
from kerakit.report.page import (
    Html,
    answered,
    badge,
    document,
    gallery,
    header,
    in_words,
    join,
    kibibytes,
    made_with,
    note,
    section,
    shown,
    side_by_side,
    table,
    tag,
    tiles,
    when,
)

MISTAKES_SHOWN = 32

_ABOUT = {
    "calibration": "The ranges of the activations were measured on these training images, without augmentation, classes in "
    "turn. The SHA-256 is that of the list of their names.",
    "half_the_calibration": "The same file made with the first half of those images: where it differs much, more images would "
    "go on changing the result.",
}


def write_page(
    path: Path,
    rows: Sequence[Row],
    report: Mapping[str, Any],
    gate: Gate,
    key: Callable[[int], str] | None = None,
) -> None:
    """Write the page.

    Args:
        path: where to; beside the delivered files.
        rows: of the report.
        report: what report.json holds.
        gate: what was measured with.
        key: gives the name of a held-out image by its place.
    """
    int8 = next((row for row in rows if row.format == INT8.name and row.answers is not None), None)
    name = f"{report.get('model', 'model')} for devices"
    run = (
        f"{report['run']}, checkpoint {report['checkpoint']}; deployed"
        if "run" in report
        else "Deployed"
    )
    body = [
        header(name, f"{run} {when(report['created'])}"),
        _tiles(rows, report, int8),
        _formats(rows, report),
        _accuracy_and_latency(rows, report),
        _confusion(gate, int8),
        _mistakes(gate, int8, key),
        _placement(path.parent, rows),
        *_details(rows),
        made_with(report),
    ]
    write_text(path, document(name, *body))


def _tiles(rows: Sequence[Row], report: Mapping[str, Any], int8: Row | None) -> Html:
    bad = [
        row.format
        for row in rows
        if row.status == "failed" or (row.measured and not row.measured.passed)
    ]
    parts: list[tuple[str, object, object]] = [
        (
            "accuracy gate",
            badge(f"{len(bad)} not passed", "bad") if bad else badge("passed", "good"),
            ", ".join(bad) or f"no file loses more than {report['max_drop']:.2%}",
        ),
        (
            "accuracy, Keras",
            f"{report['keras_accuracy']:.2%}",
            f"of {report['held_out_images']:,} held-out images",
        ),
    ]
    if int8 and int8.measured and int8.latency_ms and int8.bytes:
        parts += [
            (
                "accuracy, int8",
                f"{int8.measured.accuracy:.2%}",
                f"{int8.measured.agreement:.2%} as Keras",
            ),
            (
                "time an image, int8",
                f"{int8.latency_ms:.2f} ms",
                f"on {report['cpu'] or 'this CPU'}, one thread",
            ),
            ("size, int8", kibibytes(int8.bytes), int8.file),
        ]
    return tiles(*parts)


def _formats(rows: Sequence[Row], report: Mapping[str, Any]) -> Html:
    headings = (
        "format",
        "gate",
        "accuracy",
        "drop",
        "as Keras",
        "worst class",
        "confidence error",
        "ms",
        "KiB",
        "SHA-256",
    )
    lines = []
    for row in rows:
        seen = row.measured
        line: list[object] = [join(tag("b", row.format), tag("small", row.file)), _status(row)]
        if seen:
            worst = join(tag("bdi", seen.worst_class), tag("small", f"{seen.worst_accuracy:.1%}"))
            drop = f"{seen.drop:+.2%}" if seen.drop else "0.00%"
            line += [
                f"{seen.accuracy:.2%}",
                drop,
                f"{seen.agreement:.2%}",
                worst,
                f"{seen.confidence_error:.3f}",
            ]
        else:
            line += [""] * 5
        line.append("" if row.latency_ms is None else f"{row.latency_ms:.2f}")
        line.append("" if row.bytes is None else f"{row.bytes / 1024:,.0f}")
        line.append(tag("code", row.sha256[:8], title=row.sha256) if row.sha256 else "")
        lines.append(line)
    reasons = [
        tag("p", tag("b", f"{row.format} {row.status}: "), row.reason) for row in rows if row.reason
    ]
    for row in rows:
        if row.measured and not row.measured.passed:
            lost = f"it loses {row.measured.drop:.2%} of the held-out images, more than {report['max_drop']:.2%}."
            reasons.append(tag("p", tag("b", f"{row.format} is below the gate: "), lost))
    right = ("accuracy", "drop", "as Keras", "confidence error", "ms", "KiB")
    return section("Formats", table(headings, lines, right), *reasons, *_how_measured(report))


def _status(row: Row) -> Html:
    if row.status != "delivered":
        return badge(row.status, "bad" if row.status == "failed" else "idle")
    if row.measured is None:
        return badge("not run", "idle")
    return badge("passed", "good") if row.measured.passed else badge("below the gate", "bad")


def _how_measured(report: Mapping[str, Any]) -> list[Html]:
    kind = {
        "test": " They are the test images: neither training nor the choice of the checkpoint saw them.",
        "val": " They are the validation images: the checkpoint was chosen on them, too, so that new ones may be told worse.",
    }.get(report.get("held_out", ""), "")
    accuracy, count = report["keras_accuracy"], report["held_out_images"]
    terms = {
        "drop": "accuracy lost against the trained Keras model; below 0 it is gained.",
        "as Keras": "the share of images that get the class that Keras gives.",
        "confidence error": "how far confidences are from the share that is right, from 0 to 1.",
        "ms": f"one image on the CPU of the machine that made the files ({report['cpu'] or report['machine']}), the median of "
        f"{TIMED_RUNS}; on one thread, or with TensorFlow (h5, keras, saved_model) on as many as it takes.",
    }
    return [
        note(
            f"Measured on {count:,} held-out images, the same for all files.{kind} {answers.coarseness(accuracy, count)}"
        ),
        note(*(join(tag("b", term), f": {meaning} ") for term, meaning in terms.items())),
    ]


def _accuracy_and_latency(rows: Sequence[Row], report: Mapping[str, Any]) -> Html | None:
    dots = [
        charts.Dot(
            row.format,
            row.latency_ms,
            row.measured.accuracy,
            row.bytes or 0,
            row.measured.passed,
            f"{row.format}: {row.measured.accuracy:.2%} right, {row.latency_ms:.2f} ms, {kibibytes(row.bytes or 0)}",
        )
        for row in rows
        if row.measured and row.latency_ms
    ]
    if not dots:
        return None
    gate = (
        report["keras_accuracy"] - report["max_drop"],
        f"the gate: Keras − {report['max_drop']:.2%}",
    )  # noqa: RUF001
    least = max(4 * report["max_drop"], 6 / report["held_out_images"])
    missing = ", ".join(row.format for row in rows if not row.measured)
    return section(
        "Accuracy and latency",
        tag(
            "div",
            charts.scatter(dots, "milliseconds an image", "accuracy", gate, least),
            class_="wide",
        ),
        note(
            "The area of a dot is the size of the file.",
            f" Not measured here: {missing}." if missing else "",
        ),
    )


def _confusion(gate: Gate, int8: Row | None) -> Html:
    names = gate.class_names
    by_file = {"Keras": Answers.of(gate.reference)}
    if int8 and int8.answers:
        by_file["int8"] = int8.answers
    matrices = {
        name: answers.confusion(gate.targets, one.classes, len(names))
        for name, one in by_file.items()
    }
    drawn = answers.drawn(
        *((name, matrix, False) for name, matrix in matrices.items()), names=names
    )
    listed = [
        (f"{name} confuses most", answers.pairs(matrix, names)) for name, matrix in matrices.items()
    ]
    return section("What is confused", drawn, side_by_side(*listed))


def _mistakes(gate: Gate, int8: Row | None, key: Callable[[int], str] | None) -> Html | None:
    if int8 is None or int8.answers is None:
        return None
    keras, ours, names = Answers.of(gate.reference), int8.answers, gate.class_names
    lost = np.flatnonzero((keras.classes == gate.targets) & (ours.classes != gate.targets))
    won = int(((keras.classes != gate.targets) & (ours.classes == gate.targets)).sum())
    heading = "What int8 gets wrong and Keras right"
    also = f" {won:,} of {len(gate.targets):,} it is the other way round."
    if not len(lost):
        return section(heading, tag("p", f"No held-out image.{' Of' + also if won else ''}"))
    surest = lost[np.argsort(-ours.confidence[lost], kind="stable")][:MISTAKES_SHOWN].tolist()
    pixels = gate.images(set(surest))
    images = []
    for i in surest:
        both = ((INT8.name, ours), ("Keras", keras))
        lines = [
            answered(who, names[said.classes[i]], float(said.confidence[i])) for who, said in both
        ]
        images.append((pixels[i], names[gate.targets[i]], lines, key(i) if key else ""))
    first = f" The {len(surest)} of which int8 is surest:" if len(surest) < len(lost) else ""
    return section(
        heading,
        tag("p", f"{len(lost):,} of {len(gate.targets):,} held-out images; of{also}{first}"),
        gallery(images),
    )


def _placement(folder: Path, rows: Sequence[Row]) -> Html | None:
    parts: list[object] = []
    edgetpu = next(
        (row for row in rows if row.format == EDGETPU.name and row.status == "delivered"), None
    )
    if edgetpu:
        parts += [
            tag("p", "What Google's compiler said of the int8 file:"),
            shown(edgetpu.details),
            tag("h3", "Forecast"),
        ]
    if any(row.format == INT8.name and row.status == "delivered" for row in rows):
        parts += _forecast((folder / INT8.file).read_bytes())
    return section("Operators on the Edge TPU and on the CPU", *parts) if parts else None


def _forecast(content: bytes) -> list[object]:
    placed = forecast(content)
    parts: list[object] = [
        note(
            f"A forecast of what {COMPILER} makes of {INT8.file}; the compiler was not run for it."
        )
    ]
    if placed.refused:
        return [
            *parts,
            tag("p", badge("refused", "bad"), " ", placed.refused.reason),
            note(placed.refused.advice),
        ]
    unknown = f", {placed.unknown} on either" if placed.unknown else ""
    streamed = (
        f", {kibibytes(placed.streamed_bytes)} sent anew for each image"
        if placed.streamed_bytes
        else ""
    )
    summary = (
        f"{placed.on_tpu} of {len(placed.operators)} operators on the Edge TPU, {placed.on_cpu} on the CPU{unknown}; about "
        f"{kibibytes(placed.on_chip_bytes)} of parameters stay on the chip{streamed}."
    )
    counted = Counter((one.op, one.target, one.status) for one in placed.operators)
    kinds = {
        "tpu": badge("Edge TPU", "good"),
        "cpu": badge("CPU", "bad"),
        "unknown": badge("unknown", "idle"),
    }
    rows = [
        [tag("code", op), n, kinds[target], status] for (op, target, status), n in counted.items()
    ]
    return [
        *parts,
        tag("p", summary),
        table(["operator", "count", "runs on", "because"], rows, ("count",)),
    ]


def _details(rows: Sequence[Row]) -> list[Html]:
    """Return a section for each detail that a format found out, whatever it is; formats with the same one share it."""
    found: list[tuple[str, Any, list[str]]] = []
    for row in rows:
        for key, value in row.details.items() if row.format != EDGETPU.name else ():
            same = next((formats for k, v, formats in found if (k, v) == (key, value)), None)
            if same is None:
                found.append((key, value, same := []))
            same.append(row.format)
    return [
        section(
            f"{in_words(key).capitalize()}: {', '.join(formats)}",
            note(_ABOUT[key]) if key in _ABOUT else "",
            shown(value),
        )
        for key, value, formats in found
    ]
