"""The report page of an export with known predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converted import read_pair
from kerakit.deploy.gate import AccuracyGate
from kerakit.deploy.page import MAX_REGRESSIONS, write_page
from kerakit.deploy.results import FormatResult, write_report
from kerakit.tasks import Classification
from pages import Page

CLASSES = ("apple", "<i>pear</i>", "\N{T-SHIRT} plum")
TARGETS = np.tile([0, 1, 2], 40)
IMAGES = np.arange(120, dtype=np.uint8).repeat(4 * 4 * 3).reshape(120, 4, 4, 3)


def scores(classes: Any, confidence: float = 0.9) -> Any:
    rest = (1 - confidence) / 2
    return np.where(np.eye(3)[np.asarray(classes)] > 0, confidence, rest).astype(np.float32)


def page_of(folder: Path, keras: Any, *results: FormatResult, **outputs: Any) -> Page:
    """The page of ``results``, measured where there are outputs of theirs."""
    gate = AccuracyGate(
        Classification(CLASSES),
        [(IMAGES[:50], TARGETS[:50]), (IMAGES[50:], TARGETS[50:])],
        lambda x: keras[x[:, 0, 0, 0]],
        0.01,
    )
    for result in results:
        if result.format in outputs:
            result.predictions = gate.task.decode(outputs[result.format])
            result.measurement = gate.measure(result.predictions)
            result.latency_ms, result.size_bytes, result.sha256 = 1.5, 2048, "ab" * 32
    (folder / "model.tflite").write_bytes(read_pair("bright_16x16"))
    report = write_report(folder / "report.json", list(results), gate, {"held_out": "val"})
    write_page(folder / "report.html", results, report, gate, lambda i: f"photo {i}.jpg")
    page = Page(folder / "report.html")
    page.expect_no_requests()
    return page


def int8(**details: Any) -> FormatResult:
    return FormatResult("int8", "model.tflite", "exported", details=details)


@pytest.mark.parametrize("count", [0, 3, 40])
def test_int8_regressions_are_shown_the_most_confident_first(tmp_path: Path, count: int) -> None:
    ours = TARGETS.copy()
    ours[10 : 10 + count] = (TARGETS[10 : 10 + count] + 1) % 3
    keras = TARGETS.copy()
    keras[5] = (TARGETS[5] + 1) % 3
    outputs = scores(ours)
    outputs[11] = scores([ours[11]], 0.95)[0]
    page = page_of(tmp_path, scores(keras, 0.8), int8(), int8=outputs)
    said = page.section("int8 regressions")
    assert f"{count} of 120" in said
    assert "The reverse: 1." in said
    assert ("Shown: the 32" in said) is (count == 40)
    assert len(page.images()) == min(count, MAX_REGRESSIONS)
    if count:
        label, predicted = CLASSES[TARGETS[11]], CLASSES[ours[11]]
        assert page.captions()[0].startswith(f"{label} int8: {predicted} 95")
        assert page.captions()[0].endswith("photo 11.jpg")
        assert (np.asarray(page.images()[0]) == 11).all()


def test_failed_and_missing_formats_are_marked_with_their_reason(tmp_path: Path) -> None:
    worse = TARGETS.copy()
    worse[:12] = (TARGETS[:12] + 1) % 3
    results = [
        FormatResult("h5", "model.h5", "exported"),
        int8(),
        FormatResult("edgetpu", "model_edgetpu.tflite", "exported", "not <tested>"),
        FormatResult("openvino", "openvino", "skipped", "needs <openvino>"),
        FormatResult("onnx", "model.onnx", "failed", "needs onnx & more"),
    ]
    page = page_of(tmp_path, scores(TARGETS), *results, h5=scores(TARGETS), int8=scores(worse))
    formats = page.tables()[0]
    assert [row[1] for row in formats] == [
        *("gate", "passed", "failed", "not tested", "skipped", "failed")
    ]
    assert formats[0][2:] == [
        *("accuracy", "drop (pp)", "agreement", "latency (ms)", "size (KiB)"),
        *("worst-class recall", "ECE", "SHA-256"),
    ]
    assert formats[2][2:5] == ["90.00 %", "+10.00", "90.00 %"]
    assert formats[2][5:7] == ["1.50", "2"]
    assert formats[2][-1] == "abababab"
    said = page.section("Formats")
    assert "int8 failed the accuracy gate: accuracy drop 10.00 pp > 1.00 pp" in said
    for reason in ("not <tested>", "needs <openvino>", "needs onnx & more"):
        assert reason in said
    assert "120 validation images" in said
    assert "accuracy gate 2 failed int8, onnx" in page.text
    assert "edgetpu, openvino, onnx" in page.section("Accuracy and latency")
    labels = {text.text for text in page.charts()[0].iter("text")}
    assert {"h5", "int8"} <= labels
    assert not {"edgetpu", "onnx"} & labels


def test_keras_and_int8_are_compared(tmp_path: Path) -> None:
    worse = np.where(TARGETS == 0, 1, TARGETS)
    page = page_of(tmp_path, scores(TARGETS), int8(), int8=scores(worse))
    pairs, classes = page.tables()[1:3]
    assert pairs[1] == ["apple", "<i>pear</i>", "40", "100.0 %"]
    assert classes[1] == ["apple", "40", "100.0 %", "0.0 %"]
    assert len(page.charts()) == 3


def test_an_export_without_int8_or_a_tested_format_has_a_page(tmp_path: Path) -> None:
    skipped = FormatResult("onnx", "model.onnx", "skipped", "needs onnx")
    page = page_of(tmp_path, scores(TARGETS), skipped)
    assert page.headings == [
        *("Formats", "Confusion matrix", "Most confused pairs", "Metrics per class", "Environment")
    ]


def test_details_need_no_code_of_their_own(tmp_path: Path) -> None:
    attempts = [
        {"attempt": "percentile", "metrics": {"accuracy": 0.5}, "passed": True},
        {"attempt": "<other>", "metrics": {"accuracy": 0.75}, "passed": False},
    ]
    calibration = {"images": 200, "sha256": "cd" * 32}
    results = [
        int8(fallbacks=attempts, selected="<other>", health=[], calibration=calibration),
        FormatResult("int16x8", "m", "exported", details={"calibration": calibration}),
    ]
    page = page_of(tmp_path, scores(TARGETS), *results)
    assert page.tables()[-1] == [
        ["attempt", "accuracy", "passed"],
        ["percentile", "50.00 %", "yes"],
        ["<other>", "75.00 %", "no"],
    ]
    assert page.section("Health: int8").endswith("none")
    assert "cd" * 32 in page.section("Calibration: int8, int16x8")


def test_the_compilers_output_is_beside_the_forecast(tmp_path: Path) -> None:
    operators = [{"op": "CONV_2D", "count": 33, "status": "Mapped to Edge TPU"}]
    details = {"operators": operators, "on_chip_bytes": 1024}
    edgetpu = FormatResult("edgetpu", "model_edgetpu.tflite", "exported", details=details)
    page = page_of(tmp_path, scores(TARGETS), int8(), edgetpu, int8=scores(TARGETS))
    said = page.section("Operators on the Edge TPU and CPU")
    assert "CONV_2D 33 Mapped to Edge TPU" in said
    assert "on chip (KiB) 1" in said
    assert "edgetpu_compiler 16.0.384591198" in said
    assert said.index("CONV_2D 33") < said.index("Forecast")
