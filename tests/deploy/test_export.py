"""All formats in one folder: what is delivered, what is left out, what takes whose place."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit.deploy import FORMAT_NAMES
from kerakit.deploy.export import Deployment, deploy
from kerakit.deploy.quantization.calibration import Calibration
from kerakit.deploy.report import Row
from pages import Page

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
BESIDE = {"labels.txt", "report.json", "report.html"}


class HeldOut:
    def __iter__(self) -> Iterator[Any]:
        yield IMAGES[:16], np.zeros(16, np.int64)
        yield IMAGES[16:], np.ones(8, np.int64)


@pytest.fixture(scope="module")
def model() -> keras.Model:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 127.5, offset=-1)(image))
    return keras.Model(image, layers.Dense(2, activation="softmax")(layers.Flatten()(x)))


def run(model: keras.Model, folder: Path, *names: str) -> dict[str, Row]:
    calibration = Calibration(tuple(map(str, range(24))), lambda: iter(IMAGES))
    rows = deploy(
        model,
        Deployment(folder),
        ["a", "b"],
        calibration,
        HeldOut(),
        names or None,
        say=lambda _: None,
    )
    return {row.format: row for row in rows}


def expect_the_page_to_say_what_the_report_says(folder: Path) -> None:
    report = json.loads((folder / "report.json").read_text())
    page = Page(folder / "report.html")
    page.expect_it_loads_nothing()
    headings, *lines = page.tables()[0]
    by_format = {line[0].split()[0]: dict(zip(headings, line, strict=True)) for line in lines}
    assert list(by_format) == [row["format"] for row in report["formats"]]
    for row in report["formats"]:
        line, measured = by_format[row["format"]], row["measured"]
        if measured is None:
            assert set(list(line.values())[2:]) == {""}
            assert line["gate"] == row["status"]
            assert (
                f"{row['format']} {row['status']}:  {row['reason']}".replace(":  ", ": ")
                in page.text
            )
            continue
        assert line["gate"] == ("passed" if measured["passed"] else "below the gate")
        assert line["accuracy"] == f"{measured['accuracy']:.2%}"
        assert float(line["drop"].rstrip("%")) == pytest.approx(measured["drop"] * 100, abs=0.005)
        assert line["as Keras"] == f"{measured['agreement']:.2%}"
        assert line["worst class"] == f"{measured['worst_class']} {measured['worst_accuracy']:.1%}"
        assert line["confidence error"] == f"{measured['confidence_error']:.3f}"
        assert line["ms"] == f"{row['latency_ms']:.2f}"
        assert line["KiB"] == f"{row['bytes'] / 1024:,.0f}"
        assert row["sha256"].startswith(line["SHA-256"])
    assert {
        "Accuracy and latency",
        "What is confused",
        "Operators on the Edge TPU and on the CPU",
    } <= set(page.headings)
    assert report["versions"]["keras"] in page.section("Made with")
    assert "not run for it" in page.section("Operators on the Edge TPU and on the CPU")
    assert report["formats"][6]["details"]["calibration"]["sha256"] in page.section(
        "Calibration: int8, int16x8"
    )


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(
        "kerakit.deploy.format.find_spec", lambda name: None if name in missing else find_spec(name)
    )
    monkeypatch.setenv("PATH", "")


def test_all_formats_and_then_fewer(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with monkeypatch.context() as patch:
        without(patch, "tf2onnx", "onnxruntime")
        rows = run(model, tmp_path, "all")
    assert tuple(rows) == FORMAT_NAMES
    assert {name for name, row in rows.items() if row.status != "delivered"} == {"edgetpu", "onnx"}
    assert rows["onnx"].status == "skipped"
    assert rows["onnx"].reason == "needs tf2onnx and onnxruntime: pip install 'kerakit[onnx]'"
    delivered = {row.file: row for row in rows.values() if row.status == "delivered"}
    assert {path.name for path in tmp_path.iterdir()} == {*delivered, *BESIDE, "device", "mine.txt"}
    for name, row in delivered.items():
        path = tmp_path / name
        if path.is_file():
            assert (row.bytes, row.sha256) == (
                path.stat().st_size,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        else:
            listed = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
            done = subprocess.run(
                ["bash", "-c", listed], cwd=path, capture_output=True, text=True, check=True
            )
            assert row.sha256 == done.stdout.split()[0]
            assert row.bytes == sum(
                file.stat().st_size for file in path.rglob("*") if file.is_file()
            )
    for name, row in rows.items():
        if row.status == "delivered" and name not in ("int8", "dynamic_range", "int16x8"):
            assert row.measured is not None
            assert row.measured.agreement == 1, name
    expect_the_page_to_say_what_the_report_says(tmp_path)
    assert rows["int8"].details["calibration"]["images"] == 24
    half = rows["int8"].details["half_the_calibration"]
    assert set(half) == {"accuracy", "agreement", "same_class"}
    assert all(0 < share <= 1 for share in half.values())

    old = (tmp_path / "saved_model" / "fingerprint.pb").stat().st_ino
    rows = run(model, tmp_path, "saved_model", "onnx")
    assert {row.status for row in rows.values()} == {"delivered"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "saved_model",
        "model.onnx",
        *BESIDE,
        "mine.txt",
    }
    assert (tmp_path / "saved_model" / "fingerprint.pb").stat().st_ino != old


def test_a_format_asked_for_by_name_must_be_had(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino")
    row = run(model, tmp_path, "openvino")["openvino"]
    assert (row.status, row.reason) == ("failed", "needs openvino: pip install 'kerakit[openvino]'")
    assert {path.name for path in tmp_path.iterdir()} == BESIDE


def test_the_int8_file_is_the_same_whatever_is_made_with_it(
    model: keras.Model, tmp_path: Path
) -> None:
    alone = run(model, tmp_path / "alone", "int8")["int8"]
    with_float = run(model, tmp_path / "both", "float32", "int8")["int8"]
    assert alone.sha256 == with_float.sha256


def test_what_a_runtime_refuses_is_a_failure_in_words(tmp_path: Path) -> None:
    """tf2onnx leaves an operator that ONNX lacks as it is."""

    class Rare(layers.Layer):
        def call(self, x: Any) -> Any:
            import tensorflow as tf

            return tf.math.bessel_i0e(x)

    image = keras.Input((8, 8, 3))
    model = keras.Model(image, layers.Dense(2)(layers.Flatten()(Rare()(image))))
    rows = run(model, tmp_path, "saved_model", "onnx", "openvino")
    assert rows["saved_model"].status == "delivered"
    assert rows["onnx"].status == rows["openvino"].status == "failed"
    assert "BesselI0e" in rows["onnx"].reason
    assert "BesselI0e" in rows["openvino"].reason
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", *BESIDE}
