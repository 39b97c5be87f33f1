"""The page of a deployment, of scores that are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from converted import pair
from kerakit.deploy.gate import Answers, Gate
from kerakit.deploy.page import MISTAKES_SHOWN, write_page
from kerakit.deploy.report import Row, write_report
from pages import Page

CLASSES = ("apple", "<i>pear</i>", "\N{T-SHIRT} plum")
TARGETS = np.tile([0, 1, 2], 40)
IMAGES = np.arange(120, dtype=np.uint8).repeat(4 * 4 * 3).reshape(120, 4, 4, 3)


def scores(answers: Any, confidence: float = 0.9) -> Any:
    rest = (1 - confidence) / 2
    return np.where(np.eye(3)[np.asarray(answers)] > 0, confidence, rest).astype(np.float32)


def page_of(folder: Path, keras: Any, *rows: Row, **predicted: Any) -> Page:
    """The page of ``rows``, measured where there are scores of theirs."""
    gate = Gate(
        [(IMAGES[:50], TARGETS[:50]), (IMAGES[50:], TARGETS[50:])],
        lambda x: keras[x[:, 0, 0, 0]],
        CLASSES,
        0.01,
    )
    for row in rows:
        if row.format in predicted:
            row.answers, row.measured = (
                Answers.of(predicted[row.format]),
                gate.measure(predicted[row.format]),
            )
            row.latency_ms, row.bytes, row.sha256 = 1.5, 2048, "ab" * 32
    facts = {
        "held_out_images": 120,
        "keras_accuracy": gate.accuracy,
        "max_drop": 0.01,
        "held_out": "val",
    }
    (folder / "model.tflite").write_bytes(pair("bright_16x16"))
    report = write_report(folder / "report.json", list(rows), facts)
    write_page(folder / "report.html", rows, report, gate, lambda i: f"photo {i}.jpg")
    page = Page(folder / "report.html")
    page.expect_it_loads_nothing()
    return page


def int8(**details: Any) -> Row:
    return Row("int8", "model.tflite", "delivered", details=details)


@pytest.mark.parametrize("count", [0, 3, 40])
def test_what_int8_gets_wrong_and_keras_right_is_shown(tmp_path: Path, count: int) -> None:
    ours = TARGETS.copy()
    ours[10 : 10 + count] = (TARGETS[10 : 10 + count] + 1) % 3
    keras = TARGETS.copy()
    keras[5] = (TARGETS[5] + 1) % 3
    predicted = scores(ours)
    predicted[11] = scores([ours[11]], 0.95)[0]  # the surest
    page = page_of(tmp_path, scores(keras, 0.8), int8(), int8=predicted)
    said = page.section("What int8 gets wrong and Keras right")
    assert len(page.images()) == min(count, MISTAKES_SHOWN)
    if not count:
        assert "No held-out image. Of 1 of 120 it is the other way round." in said
        return
    assert f"{count} of 120 held-out images; of 1 of 120 it is the other way round." in said
    assert ("The 32 of which int8 is surest" in said) is (count == 40)
    figures = [
        " ".join(f.itertext())
        for f in page.root.iter("figcaption")
        if "photo" in "".join(f.itertext())
    ]
    right, wrong = CLASSES[TARGETS[11]], CLASSES[ours[11]]
    assert figures[0] == f"{right} int8:  {wrong}  95% Keras:  {right}  80% photo 11.jpg"
    assert (np.asarray(page.images()[0]) == 11).all()


def test_what_is_below_the_gate_or_not_there_is_marked_with_its_reason(tmp_path: Path) -> None:
    worse = TARGETS.copy()
    worse[:12] = (TARGETS[:12] + 1) % 3
    rows = [
        Row("h5", "model.h5", "delivered"),
        int8(),
        Row("edgetpu", "model_edgetpu.tflite", "skipped", "no <compiler> here"),
        Row("onnx", "model.onnx", "failed", "needs onnx & more"),
    ]
    page = page_of(tmp_path, scores(TARGETS), *rows, h5=scores(TARGETS), int8=scores(worse))
    gates = [line[1] for line in page.tables()[0]]
    assert gates == ["gate", "passed", "below the gate", "skipped", "failed"]
    formats = page.section("Formats")
    assert (
        "int8 is below the gate: it loses 10.00% of the held-out images, more than 1.00%."
        in formats
    )
    assert "edgetpu skipped: no <compiler> here" in formats
    assert "onnx failed: needs onnx & more" in formats
    assert "2 not passed int8, onnx" in page.text
    assert [c.attrib["class"] for c in page.root.iter("circle")] == ["good", "bad"]
    assert "Not measured here: edgetpu, onnx." in page.section("Accuracy and latency")
    assert "One of 120 images is 0.833%" in formats
    assert "the checkpoint was chosen on them, too" in formats


def test_details_need_no_code_of_their_own(tmp_path: Path) -> None:
    rungs = [
        {"tried": "as it is", "accuracy": 0.5, "maps": True},
        {"tried": "<other>", "accuracy": 0.75, "maps": False},
    ]
    calibration = {"images": 200, "sha256": "cd" * 32}
    rows = [
        int8(ladder=rungs, health=[], calibration=calibration),
        Row("int16x8", "m", "delivered", details={"calibration": calibration}),
    ]
    page = page_of(tmp_path, scores(TARGETS), *rows)
    assert page.tables()[-1] == [
        ["tried", "accuracy", "maps"],
        ["as it is", "50.00%", "yes"],
        ["<other>", "75.00%", "no"],
    ]
    assert page.section("Health: int8") == "Health: int8 none"
    assert "cd" * 32 in page.section("Calibration: int8, int16x8")


def test_the_compilers_word_stands_beside_the_forecast(tmp_path: Path) -> None:
    operators = [{"op": "CONV_2D", "count": 33, "status": "Mapped to Edge TPU"}]
    edgetpu = Row(
        "edgetpu",
        "model_edgetpu.tflite",
        "delivered",
        details={"operators": operators, "on_chip_bytes": 1024},
    )
    page = page_of(tmp_path, scores(TARGETS), int8(), edgetpu, int8=scores(TARGETS))
    said = page.section("Operators on the Edge TPU and on the CPU")
    assert "CONV_2D 33 Mapped to Edge TPU" in said
    assert "on chip bytes 1 KiB" in said
    assert "A forecast of what edgetpu_compiler 16.0.384591198 makes of model.tflite" in said
    assert "on the Edge TPU" in said
