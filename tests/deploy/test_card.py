"""The model card, read by the parser of the Hugging Face Hub's client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard

from digits import Exported
from kerakit.deploy.card import write_card
from kerakit.deploy.gate import AccuracyGate
from kerakit.deploy.results import FormatResult, write_report
from kerakit.device.preprocessing import Preprocessing
from kerakit.report.text import escape_markdown
from kerakit.tasks import Classification, Detection, MultiLabel, Regression, Segmentation, Task

HOSTILE = "a|b\n---\nx: <script>alert(1)</script> [l](http://e.org) `c` *d*"
TARGETS = np.tile([0, 1], 10)
SCORES = np.eye(2, dtype=np.float32)[TARGETS] * 0.8 + 0.1


def card_of(folder: Path, names: tuple[str, str], info: dict[str, Any]) -> Any:
    """Return the card of two formats, of which one was not run, and one skipped."""
    task = Classification(names)
    images = np.zeros((20, 4, 4, 3), np.uint8)
    images[:, 0, 0, 0] = TARGETS
    gate = AccuracyGate(task, [(images, TARGETS)], lambda x: SCORES[x[:, 0, 0, 0]], 0.01)
    wrong = task.decode(SCORES[np.r_[1, np.arange(1, 20)]])
    int8 = FormatResult("int8", "model.tflite", "exported", sha256="ab" * 32, size_bytes=2048)
    int8.measurement, int8.latency_ms = gate.measure(wrong), 1.5
    edgetpu = FormatResult("edgetpu", "model_edgetpu.tflite", "exported", size_bytes=4096)
    edgetpu.reason = "not tested on a device"
    skipped = FormatResult("onnx", "model.onnx", "skipped", "needs tf2onnx")
    report = write_report(folder / "report.json", [int8, edgetpu, skipped], gate, info)
    write_card(folder, task, report, (4, 4, 3))
    return ModelCard.load(folder / "README.md")


def test_the_parser_of_the_hub_reads_the_measured_rows(tmp_path: Path) -> None:
    data = {"name": "photos", "train": 1433, "val": 180, "test": 20, "fingerprint": "52969cb2"}
    info = {"model": "small_cnn", "held_out": "test", "data": data}
    card = card_of(tmp_path, ("apple", "pear"), info)
    assert card.data.pipeline_tag == "image-classification"
    assert card.data.library_name == "litert"
    assert {"kerakit", "tflite"} <= set(card.data.tags)
    assert "license" not in card.data.to_dict()
    assert card.data.model_name == "small_cnn"
    rows = {row.metric_name: row for row in card.data.eval_results}
    accuracy = rows["accuracy, int8"]
    assert accuracy.metric_value == pytest.approx(0.95)
    assert accuracy.metric_args == {"format": "int8", "sha256": "ab" * 32}
    assert (accuracy.dataset_name, accuracy.dataset_split) == ("photos", "test")
    assert accuracy.dataset_revision == "52969cb2"
    assert rows["latency (ms), int8"].metric_value == 1.5
    assert rows["agreement, int8"].metric_type == "agreement"
    assert not [name for name in rows if name.endswith(("edgetpu", "onnx"))]
    for text in (
        "| int8 | `model.tflite` | 95.00 % | +5.00 |",
        "| training images | 1,433 |",
        "edgetpu: exported, not measured (not tested on a device)",
        "int8: FAILED the accuracy gate: accuracy drop 5.00 pp > 1.00 pp",
        "apple, pear",
    ):
        assert text in card.text, text
    assert "onnx" not in card.text


def test_untrusted_names_are_shown_as_they_are(tmp_path: Path) -> None:
    info = {"model": HOSTILE, "held_out": "val", "data": {"name": HOSTILE}}
    card = card_of(tmp_path, ("pear", HOSTILE), info)
    line = " ".join(HOSTILE.split())
    assert card.data.model_name == line
    assert card.data.eval_results[0].dataset_name == line
    assert "<script" not in card.text
    assert "[l](" not in card.text
    assert escape_markdown(HOSTILE) in card.text
    assert "selected on the validation images" in card.text
    assert "better than chance" not in card.text


def test_a_model_of_chance_and_a_page_are_named(tmp_path: Path) -> None:
    card = card_of(tmp_path, ("a", "b"), {"better_than_chance": False})
    assert "The Keras model is not better than chance" in card.text
    assert "demo.html" not in card.text
    report = json.loads((tmp_path / "report.json").read_text())
    report["formats"].append(FormatResult("web", "demo.html", "exported").to_json())
    (tmp_path / "frigate").mkdir()
    Preprocessing(crop=(0, 0.1, 1, 1), color="gray").save(tmp_path / "preprocessing.json")
    write_card(tmp_path, Classification(["a", "b"]), report, (4, 4, 3))
    text = (tmp_path / "README.md").read_text()
    assert "`demo.html` runs the model in a browser" in text
    assert "image, cropped to 0 to 1 of its width and 0.1 to 1 of its height, resized" in text
    assert "`frigate/` has the model" in text
    assert "ratio, gray in three equal channels." in text


@pytest.mark.parametrize(
    ("task", "tag"),
    [
        (Detection(["a"]), "object-detection"),
        (Segmentation(["a", "b"]), "image-segmentation"),
        (MultiLabel(["a", "b"]), "image-classification"),
        (Regression(["size"]), None),
    ],
)
def test_tasks_have_the_names_of_the_hub(tmp_path: Path, task: Task, tag: str | None) -> None:
    report = {
        "versions": {"kerakit": "0"},
        "formats": [FormatResult("h5", "model.h5", "exported").to_json()],
        "main_metric": task.main_metric,
        "keras_metrics": {task.main_metric: 0.5},
        "held_out_images": 3,
        "max_drop": 0.01,
        "cpu": None,
        "machine": "Linux",
        "created": "2026-11-23T10:00:00+00:00",
    }
    write_card(tmp_path, task, report, (8, 8, 3))
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == tag
    assert card.data.get("library_name") is None
    assert card.data.eval_results is None


def test_an_export_has_a_card(exported_digits: Exported) -> None:
    card: Any = ModelCard.load(exported_digits.folder / "README.md")
    report = json.loads((exported_digits.folder / "report.json").read_text())
    assert "README.md" in report["files"]
    [int8] = report["formats"]
    rows = {row.metric_name: row.metric_value for row in card.data.eval_results}
    assert rows["accuracy, int8"] == pytest.approx(int8["metrics"]["accuracy"], abs=1e-6)
    assert "digit 0, digit 1" in card.text
