"""The main job as a user runs it: train.py, evaluate.py and deploy.py of a real project."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kerakit.data import DataReader
from pages import Page
from projects import Project, write_image

# -------------------------------------------------------------------------------------------- files


def test_a_run_has_its_files(trained: Project, photos_once: Path) -> None:
    run = trained.path / "progress" / "test"
    config = json.loads((run / "config.json").read_text())
    assert (config["model"], config["input_size"]) == ("small_cnn", [16, 12])
    assert (config["weights"], config["phases"]) == ("none", ["scratch"])
    assert config["class_names"] == ["apple", "pear"]
    with (run / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    checkpoints = json.loads((run / "ckpt" / "index.json").read_text())
    best_three = sorted(rows, key=lambda row: float(row["val_loss"]))[:3]
    assert [c["epoch"] for c in checkpoints] == [int(row["epoch"]) for row in best_three]
    assert {c["file"] for c in checkpoints} == {p.name for p in (run / "ckpt").glob("*.h5")}
    assert list((run / "logs" / "train").iterdir())
    report = json.loads((run / "report.json").read_text())
    assert report["status"] == "completed"
    reader = DataReader(photos_once)
    counts = {mode: int(reader.counts(mode).sum()) for mode in ("train", "val", "test")}
    assert report["images"] == counts
    page = Page(run / "report.html")
    page.expect_no_requests()
    assert f"{checkpoints[0]['value']:.4g}" in page.text
    assert "python deploy.py --read_from progress/test" in page.text
    assert len(page.images()) == 2
    for mode in ("train", "val"):
        with Image.open(run / "plots" / f"{mode}_batch.png") as picture:
            assert picture.width >= 160


def test_an_export_is_verified(trained: Project, photos_once: Path) -> None:
    result = trained.deploy()
    assert result.code == 0, result.err
    folder = trained.path / "deploy" / "test"
    models = {"model.h5", "model_float32.tflite", "model.tflite"}
    others = {
        "labels.txt",
        "task.json",
        "preprocessing.json",
        "report.json",
        "report.html",
        "README.md",
        "device",
    }
    assert {p.name for p in folder.iterdir()} == models | others
    assert (folder / "labels.txt").read_text() == "apple\npear\n"
    report = json.loads((folder / "report.json").read_text())
    rows: dict[str, Any] = {row["format"]: row for row in report["formats"]}
    for name in ("h5", "float32", "int8"):
        assert rows[name]["status"] == "exported"
        content = (folder / rows[name]["file"]).read_bytes()
        assert rows[name]["sha256"] == hashlib.sha256(content).hexdigest()
        assert rows[name]["size_bytes"] == len(content)
        assert rows[name]["latency_ms"] > 0
    assert rows["h5"]["agreement"] == rows["float32"]["agreement"] == 1
    details = rows["int8"]["details"]
    assert details["calibration"]["images"] == len(DataReader(photos_once).indices("train"))
    assert not [one for one in details["health"] if one["level"] == "error"]
    assert rows["edgetpu"]["status"] == "skipped"
    assert "edgetpu_compiler" in rows["edgetpu"]["reason"]
    assert report["task"] == "classification"
    assert report["main_metric"] == "accuracy"
    assert rows["h5"]["metrics"] == report["keras_metrics"]
    assert report["keras_metrics"]["accuracy"] == 1
    assert "deploy/test/report.html" in result.out
    page = Page(folder / "report.html")
    page.expect_no_requests()
    assert "progress/test" in page.text


def test_the_int8_file_classifies_unseen_images(trained: Project, tmp_path: Path) -> None:
    """The report is not taken on trust: unseen images, raw bytes, LiteRT alone."""
    from ai_edge_litert.interpreter import Interpreter

    result = trained.deploy("--formats", "int8")
    assert (result.code, result.err) == (0, "")
    interpreter = Interpreter(str(trained.path / "deploy" / "test" / "model.tflite"))
    interpreter.allocate_tensors()
    (into,), (out,) = interpreter.get_input_details(), interpreter.get_output_details()
    correct = 0
    for i in range(40):
        path = write_image(tmp_path / "unseen.png", seed=90_000 + i, size=(16, 12), hue=i % 2)
        interpreter.set_tensor(into["index"], np.asarray(Image.open(path))[None])
        interpreter.invoke()
        correct += interpreter.get_tensor(out["index"])[0].argmax() == i % 2
    assert correct >= 38


def test_a_repeated_run_is_the_same(trained: Project) -> None:
    flags = ("--jitter", "--num_epochs", 4, "--batch_size", 4)
    again = trained.train(*flags, save_to="progress/again")
    assert again.code == 0, again.err
    runs = [trained.path / "progress" / name for name in ("test", "again")]
    first, second = ((run / "history.csv").read_text() for run in runs)
    assert first == second


def test_a_training_resumes_from_a_checkpoint(trained: Project) -> None:
    result = trained.train("--from_ckpt", "progress/test", save_to="progress/more")
    assert result.code == 0, result.err
    losses = []
    for name in ("test", "more"):
        text = (trained.path / "progress" / name / "history.csv").read_text()
        losses.append(float(next(csv.DictReader(text.splitlines()))["loss"]))
    before, after = losses
    assert after < before


def test_a_format_requested_by_name_is_required(trained: Project) -> None:
    result = trained.deploy("--formats", "edgetpu")
    assert result.code == 1
    assert "edgetpu_compiler" in result.err
    assert "Exported to" not in result.out


def test_a_cache_changes_nothing_but_the_time(project: Project) -> None:
    histories = []
    for name, cache in (("plain", "none"), ("first", "disk"), ("second", "disk"), ("ram", "ram")):
        flags = ("--jitter", "--num_epochs", 2, "--cache", cache)
        result = project.train(*flags, save_to=f"progress/{name}")
        assert result.code == 0, result.err
        histories.append((project.path / "progress" / name / "history.csv").read_text())
    assert len(set(histories)) == 1
    cached = sum(p.stat().st_size for p in (project.path / ".cache").rglob("*") if p.is_file())
    assert cached >= 40 * 16 * 12 * 3


# ------------------------------------------------------------------------------------ interruption


def test_ctrl_c_keeps_the_checkpoints_and_prints_how_to_resume(project: Project) -> None:
    flags = ["--save_to", "progress/test", "--model", "small_cnn", "--input_size", "16,12"]
    process = subprocess.Popen(
        [sys.executable, "train.py", *flags, "--num_epochs", "10000"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background may have it ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    history = project.path / "progress" / "test" / "history.csv"
    limit = time.monotonic() + 120
    while not history.exists() and time.monotonic() < limit:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "progress/test/report.html" in out
    assert "interrupted" in Page(project.path / "progress" / "test" / "report.html").text
    assert "To resume, repeat your command with --resume" in err
    assert "Traceback" not in err
    assert project.deploy("--formats", "keras").code == 0
