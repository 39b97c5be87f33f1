"""Export of all formats into one folder: exported, skipped, failed and replaced files."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from kerakit.deploy import (
    FORMAT_NAMES,
    Calibration,
    ExportFolder,
    FormatResult,
    export_model,
    print_results,
)
from kerakit.deploy.gate import Measurement
from kerakit.extras import is_installed
from kerakit.tasks import Classification
from pages import Page

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
BESIDE = {
    *("labels.txt", "preprocessing.json", "task.json", "README.md", "report.json", "report.html"),
}


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


def run(model: keras.Model, folder: Path, *names: str) -> dict[str, FormatResult]:
    results = export_model(
        model,
        Classification(["a", "b"]),
        ExportFolder(folder),
        Calibration(tuple(map(str, range(24))), lambda: iter(IMAGES)),
        HeldOut(),
        names or None,
        log=lambda _: None,
    )
    return {result.format: result for result in results}


def assert_report(folder: Path, results: dict[str, FormatResult]) -> None:
    """The report has the results, and the page names every format."""
    report = json.loads((folder / "report.json").read_text())
    assert report["task"] == "classification"
    assert report["main_metric"] == next(iter(report["keras_metrics"])) == "accuracy"
    assert (report["held_out_images"], report["max_drop"]) == (24, 0.01)
    assert [row["format"] for row in report["formats"]] == list(results)
    for row in report["formats"]:
        result = results[row["format"]]
        assert (row["status"], row["reason"]) == (result.status, result.reason)
        assert (row["size_bytes"], row["sha256"]) == (result.size_bytes, result.sha256)
        if result.measurement is None:
            assert [row[key] for key in ("metrics", "drop", "agreement", "passed")] == [None] * 4
        else:
            assert set(row["metrics"]) == {"accuracy", "worst_class_recall", "ece"}
            assert row["passed"] == (row["drop"] <= 0.01)
            assert row["drop"] == pytest.approx(
                report["keras_metrics"]["accuracy"] - row["metrics"]["accuracy"]
            )
    page = Page(folder / "report.html")
    page.expect_no_requests()
    assert all(name in page.text for name in results)


def without(monkeypatch: pytest.MonkeyPatch, *missing: str) -> None:
    monkeypatch.setattr(
        "kerakit.deploy.formats.base.is_installed",
        lambda name: name not in missing and is_installed(name),
    )
    monkeypatch.setenv("PATH", "")


def test_all_formats_and_then_fewer(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.txt").write_text("kept")
    with monkeypatch.context() as patch:
        without(patch, "tf2onnx", "onnxruntime")
        results = run(model, tmp_path, "all")
    assert tuple(results) == FORMAT_NAMES
    assert {name for name, result in results.items() if result.status != "exported"} == {
        "edgetpu",
        "onnx",
    }
    assert results["onnx"].status == "skipped"
    assert "pip install 'onnx" in results["onnx"].reason
    exported = {row.file: row for row in results.values() if row.status == "exported"}
    assert {path.name for path in tmp_path.iterdir()} == {*exported, *BESIDE, "device", "mine.txt"}
    for name, row in exported.items():
        path = tmp_path / name
        if path.is_file():
            assert (row.size_bytes, row.sha256) == (
                path.stat().st_size,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
        else:
            listed = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
            done = subprocess.run(
                ["bash", "-c", listed], cwd=path, capture_output=True, text=True, check=True
            )
            assert row.sha256 == done.stdout.split()[0]
            assert row.size_bytes == sum(
                file.stat().st_size for file in path.rglob("*") if file.is_file()
            )
    for name, row in results.items():
        if row.status == "exported" and name not in ("int8", "dynamic_range", "int16x8", "web"):
            assert row.measurement is not None
            assert row.measurement.agreement == 1, name
    assert_report(tmp_path, results)
    assert results["int8"].details["calibration"]["images"] == 24
    half = results["int8"].details["half_calibration"]
    assert set(half) == {"metrics", "agreement", "same_prediction"}
    assert 0 < half["agreement"] <= 1
    assert 0 < half["same_prediction"] <= 1

    old = (tmp_path / "saved_model" / "fingerprint.pb").stat().st_ino
    results = run(model, tmp_path, "saved_model", "onnx")
    assert {row.status for row in results.values()} == {"exported"}
    assert {path.name for path in tmp_path.iterdir()} == {
        "saved_model",
        "model.onnx",
        *BESIDE,
        "mine.txt",
    }
    assert (tmp_path / "saved_model" / "fingerprint.pb").stat().st_ino != old


def test_a_named_format_that_is_unavailable_fails(
    model: keras.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(monkeypatch, "openvino")
    results = run(model, tmp_path, "keras", "openvino")
    assert results["openvino"].status == "failed"
    assert "pip install 'openvino" in results["openvino"].reason
    assert {path.name for path in tmp_path.iterdir()} == {"model.keras", *BESIDE}


def test_the_int8_file_does_not_depend_on_other_formats(model: keras.Model, tmp_path: Path) -> None:
    alone = run(model, tmp_path / "alone", "int8")["int8"]
    with_float = run(model, tmp_path / "both", "float32", "int8")["int8"]
    assert alone.sha256 == with_float.sha256


def test_a_model_that_a_runtime_refuses_fails_with_the_reason(tmp_path: Path) -> None:
    """tf2onnx leaves an operator that ONNX lacks as it is."""

    class Rare(layers.Layer):
        def call(self, x: Any) -> Any:
            import tensorflow as tf

            return tf.math.bessel_i0e(x)

    image = keras.Input((8, 8, 3))
    x = layers.Flatten()(Rare()(image))
    model = keras.Model(image, layers.Dense(2, activation="softmax")(x))
    results = run(model, tmp_path, "saved_model", "onnx", "openvino")
    assert results["saved_model"].status == "exported"
    assert results["onnx"].status == results["openvino"].status == "failed"
    assert "BesselI0e" in results["onnx"].reason
    assert "BesselI0e" in results["openvino"].reason
    assert {path.name for path in tmp_path.iterdir()} == {"saved_model", *BESIDE}


def test_printed_results(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = {"accuracy": 0.9, "worst_class_recall": 0.5, "ece": 0.1}
    failing = Measurement(metrics, drop=0.021, passed=False, agreement=0.95)
    passing = Measurement({**metrics, "accuracy": 0.921}, drop=0.0, passed=True, agreement=1.0)
    results = [
        FormatResult("h5", "model.h5", "exported", "", passing, 1.5, 2048, "ab" * 32),
        FormatResult("int8", "model.tflite", "exported", "", failing, 0.25, 1024, "cd" * 32),
        FormatResult("onnx", "model.onnx", "skipped", "needs tf2onnx"),
    ]
    print_results(results, 1900, max_drop=0.01)
    lines = capsys.readouterr().out.splitlines()
    assert "1,900" in lines[0]
    assert "92.10 %" in lines[0]
    cells = {line.strip("\u2502 ").split()[0]: line for line in lines if "model." in line}
    assert all(text in cells["int8"] for text in ("90.00 %", "95.00 %", "0.25", "cdcdcdcd"))
    assert "skipped" in cells["onnx"]
    (failed,) = (line for line in lines if "FAILED" in line)
    assert failed.startswith("int8")
    assert "2.10 pp > 1.00 pp" in failed
    assert "onnx skipped: needs tf2onnx" in lines
