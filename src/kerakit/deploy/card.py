"""The model card of an export: README.md with the metadata of the Hugging Face Hub."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from kerakit.deploy.bundle import FOLDER as BUNDLE
from kerakit.deploy.formats.web import WEB
from kerakit.deploy.frigate import FOLDER as FRIGATE
from kerakit.deploy.gate import describe_drop
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.device.preprocessing import Preprocessing
from kerakit.files import write_text
from kerakit.report.formatting import (
    format_label,
    format_points,
    format_preprocessing,
    format_time,
    format_value,
)
from kerakit.report.text import render_text, to_line
from kerakit.tasks.base import Task, label_lines

CARD = "README.md"
"""Name of the model card, which the hub shows."""

MAX_CLASSES = 50
"""Number of class names that the card lists."""

_PIPELINES = {
    "classification": "image-classification",
    "multilabel": "image-classification",
    "detection": "object-detection",
    "segmentation": "image-segmentation",
    "keypoints": "keypoint-detection",
}
"""Tasks of the hub (PIPELINE_DATA of huggingface.js); it has none for numbers from images."""

_LIBRARY = "litert"
"""The hub's name for files of TensorFlow Lite, as in the cards of litert-community."""

_OUTPUTS = {
    "classification": "one score per class",
    "multilabel": "one score per class, independent of the others",
    "regression": "one number per value, to be scaled as `task.json` says",
    "segmentation": "one score per class and cell of a coarse grid",
    "keypoints": "heatmaps and offsets on a coarse grid",
    "detection": "distances to the sides, objectness and classes per cell of several grids; "
    "non-maximum suppression follows outside of the model",
}
_HELD_OUT = {"test": "test images", "val": "validation images"}


def write_card(
    folder: Path, task: Task, report: Mapping[str, Any], input_shape: Sequence[int]
) -> None:
    """Write the model card of an export.

    Args:
        folder: the export folder.
        task: task of the model.
        report: the content of report.json.
        input_shape: (height, width, channels).
    """
    exported = [one for one in report["formats"] if one["status"] == "exported"]
    title = str(report.get("model") or task.name)
    main = report["main_metric"]
    names = label_lines(task)
    write_text(
        folder / CARD,
        render_text(
            "card.md.jinja",
            metadata=yaml.safe_dump(
                _metadata(title, task, report, exported), sort_keys=False, allow_unicode=True
            ),
            title=title,
            task=_task_name(task),
            version=report["versions"]["kerakit"],
            height=input_shape[0],
            width=input_shape[1],
            preprocessing=format_preprocessing(Preprocessing.read(folder / PREPROCESSING)),
            outputs=_OUTPUTS.get(task.name, ""),
            classes=names if task.name != "regression" else [],
            shown=MAX_CLASSES,
            images=f"{report['held_out_images']:,}",
            held_out=_HELD_OUT.get(report.get("held_out", ""), "held-out images"),
            main_metric=format_label(main),
            keras=format_value(report["keras_metrics"][main], main),
            headings=_headings(report),
            rows=list(_rows(report, exported)),
            machine=report["cpu"] or report["machine"],
            created=format_time(report["created"]),
            max_drop=_format_drop(report),
            data=_data_rows(report.get("data") or {}),
            limits=list(_limits(report)),
            has_page=any(one["format"] == WEB.name for one in exported),
            has_frigate=(folder / FRIGATE).is_dir(),
            has_bundle=(folder / BUNDLE).is_dir(),
        ),
    )


def _task_name(task: Task) -> str:
    pipeline = _PIPELINES.get(task.name, task.name)
    if task.name == "multilabel":
        return "multi-label image classification"
    return pipeline.replace("-", " ").replace("_", " ")


def _metadata(
    title: str, task: Task, report: Mapping[str, Any], exported: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """Return the metadata in the order of the hub's specification (modelcard.md of hub-docs)."""
    pipeline = _PIPELINES.get(task.name)
    files = " ".join(one["file"] for one in exported)
    tags = ["kerakit", "keras", *(["tflite"] if ".tflite" in files else []), task.name]
    values: dict[str, Any] = {"tags": list(dict.fromkeys(tags))}
    if ".tflite" in files:
        values = {"library_name": _LIBRARY, **values}
    if pipeline:
        values["pipeline_tag"] = pipeline
    metrics = [metric for one in exported for metric in _metric_entries(one)]
    if not metrics:
        return values
    data = report.get("data") or {}
    name = to_line(data.get("name") or "held-out images")
    dataset: dict[str, Any] = {"type": re.sub(r"[^\w.-]+", "-", name).strip("-.") or "images"}
    dataset |= {"name": name, "split": report.get("held_out", "held-out")}
    if data.get("fingerprint"):
        dataset["revision"] = data["fingerprint"]
    dataset["args"] = {"images": report["held_out_images"]}
    result = {
        "task": {"type": pipeline or "other", "name": _task_name(task).capitalize()},
        "dataset": dataset,
        "metrics": metrics,
    }
    values["model-index"] = [{"name": to_line(title), "results": [result]}]
    return values


def _metric_entries(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the measured values of a format as entries of the model index."""
    measured = {**(result["metrics"] or {}), "agreement": result["agreement"]}
    measured |= {"latency_ms": result["latency_ms"]} if result["latency_ms"] else {}
    for key, value in measured.items():
        if isinstance(value, int | float):
            yield {
                "type": key,
                "value": round(float(value), 6),
                "name": f"{format_label(key)}, {result['format']}",
                "args": {"format": result["format"], "sha256": result["sha256"]},
            }


def _columns(report: Mapping[str, Any]) -> list[str]:
    main, *others = report["keras_metrics"]
    return [main, "drop", "agreement", "latency_ms", "size_bytes", *others]


def _headings(report: Mapping[str, Any]) -> list[str]:
    return ["format", "file", *map(format_label, _columns(report))]


def _rows(report: Mapping[str, Any], exported: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for one in exported:
        values = {**one, **(one["metrics"] or {})}
        cells = [
            "" if values.get(key) is None else format_value(values[key], key)
            for key in _columns(report)
        ]
        yield [one["format"], f"`{one['file']}`", *cells]


def _format_drop(report: Mapping[str, Any]) -> str:
    return f"{format_points(report['max_drop'])} of {format_label(report['main_metric'])}"


def _data_rows(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows = [
        ("dataset", data.get("name")),
        ("training images", data.get("train")),
        ("validation images", data.get("val")),
        ("test images", data.get("test")),
        ("fingerprint", data.get("fingerprint")),
        ("content", data.get("content")),
    ]
    return [
        (label, f"{value:,}" if isinstance(value, int) else str(value))
        for label, value in rows
        if value is not None
    ]


def _limits(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limits of the metrics, and what was not measured."""
    yield (
        "The held-out images are of the same dataset as the training images. Images of other "
        "sources, cameras or places were not measured."
    )
    if report.get("held_out") == "val":
        yield (
            "There are no test images: the checkpoint was selected on the validation images, so "
            "metrics on new images may be lower."
        )
    if report.get("better_than_chance") is False:
        yield (
            "The Keras model is not better than chance on these images. Its metrics, and the "
            "comparison of the files with it, are meaningless."
        )
    main = report["main_metric"]
    for one in report["formats"]:
        name = one["format"]
        if one["status"] == "exported" and one["metrics"] is None:
            yield f"{name}: exported, not measured ({one['reason']})."
        elif one["passed"] is False:
            drop = describe_drop(format_label(main), one["drop"], report["max_drop"])
            yield f"{name}: FAILED the accuracy gate: {drop}."
    yield "Not measured: latency and energy on other devices, robustness, bias between groups."
