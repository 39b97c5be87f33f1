"""demo.html: one file that holds the exported model, and asks for nothing else."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import kerakit.deploy.web
from converted import add_convolution, classify, convert_int8
from digits import Exported, calibration, digits, export_digits
from kerakit import UserError
from kerakit.deploy import ExportFolder, export_model
from kerakit.deploy.web.command import add_demo
from kerakit.deploy.web.demo import GOLDEN_BYTES, write_demo
from kerakit.device.predict import read_photo
from kerakit.device.preprocessing import Preprocessing
from kerakit.files import read_json
from kerakit.tasks import Classification
from kerakit.tflite.runtime import start_interpreter, stored_predict_fn

WEB = Path(kerakit.deploy.web.__file__).parent
RUNTIME = json.loads((WEB / "runtime/runtime.json").read_text())
LOADING = ("src", "href", "srcset", "data", "action", "poster", "background", "style")
"""Attributes by which a page loads others, or that its policy forbids."""


class DemoPage(HTMLParser):
    """The parts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.loading: list[str] = []
        self.blocks: dict[str, str] = {}
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.policy = ""
        self._open: tuple[str, str | None] = ("", None)
        self.feed(self.source)
        self.data: dict[str, Any] = json.loads(self.blocks["demo"])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self._open = (tag, values.get("id"))
        self.loading += [f"{tag} {name}" for name in values if name in LOADING]
        if values.get("http-equiv") == "Content-Security-Policy":
            self.policy = values["content"] or ""

    def handle_data(self, data: str) -> None:
        tag, name = self._open
        if tag == "script" and name:
            self.blocks[name] = self.blocks.get(name, "") + data
        elif tag == "script":
            self.scripts.append(data)
        elif tag == "style":
            self.styles.append(data)

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002 - its signature
        self._open = ("", None)

    def bytes(self, name: str) -> bytes:
        return gzip.decompress(base64.b64decode(self.blocks[name]))


@pytest.fixture(scope="module")
def exported(exported_digits: Exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An export folder with a page."""
    folder = tmp_path_factory.mktemp("web") / "deploy"
    shutil.copytree(exported_digits.folder, folder)
    add_demo(folder)
    return folder


@pytest.fixture(scope="module")
def page(exported: Path) -> DemoPage:
    return DemoPage(exported / "demo.html")


def test_the_page_loads_nothing(page: DemoPage) -> None:
    assert page.loading == []
    assert not re.search(r"url\(|@import", "".join(page.styles))
    policy = dict(part.strip().split(" ", 1) for part in page.policy.split(";"))
    assert policy["default-src"] == policy["connect-src"] == "'none'"
    assert "unsafe-inline" not in page.policy
    assert "http" not in page.policy
    for kind, texts in (("script-src", page.scripts), ("style-src", page.styles)):
        for text in texts:
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            assert f"'sha256-{digest}'" in policy[kind]
    assert len(page.scripts) == 3


def test_it_holds_the_exported_file(page: DemoPage, exported: Path) -> None:
    assert page.bytes("model") == (exported / "model.tflite").read_bytes()
    assert hashlib.sha256(page.bytes("model")).hexdigest() in page.source
    assert page.data["task"] == json.loads((exported / "task.json").read_text())
    assert page.data["preprocessing"] == json.loads((exported / "preprocessing.json").read_text())
    wasm = hashlib.sha256(base64.b64decode(page.blocks["wasm"])).hexdigest()
    assert wasm == RUNTIME["sha256"]["litert.wasm.gz"]
    assert page.bytes("wasm")[:4] == b"\0asm"
    listed = json.loads((exported / "report.json").read_text())["files"]
    assert {"demo.html", "model.tflite"} <= set(listed)


def test_its_golden_outputs_are_those_of_litert(page: DemoPage, exported_digits: Exported) -> None:
    count = page.data["golden"]["count"]
    images = np.frombuffer(page.bytes("golden_images"), np.uint8).reshape(count, 8, 8, 3)
    held_out = {image.tobytes() for image in exported_digits.held_out}
    assert {image.tobytes() for image in images} <= held_out
    predict = stored_predict_fn(start_interpreter(page.bytes("model"), "model"))
    assert page.bytes("golden_outputs") == predict(images)[0].tobytes()


def test_its_golden_pixels_are_those_of_the_device_program(page: DemoPage, tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(base64.b64decode(page.data["golden"]["photo"]))
    assert page.bytes("golden_pixels") == read_photo(photo, 8, 8).tobytes()


def test_deploy_writes_it_for_the_int8_file(exported_digits: Exported, tmp_path: Path) -> None:
    images, targets = digits()
    results = export_model(
        exported_digits.model,
        Classification(["</script>", *"bcdefghij"]),
        ExportFolder(tmp_path / "deploy"),
        calibration(images[:64]),
        [(images[1500:], targets[1500:])],
        ["web"],
        log=lambda _: None,
    )
    assert [(one.format, one.status) for one in results] == [
        ("int8", "exported"),
        ("web", "exported"),
    ]
    written = DemoPage(tmp_path / "deploy/demo.html")
    assert written.bytes("model") == (tmp_path / "deploy/model.tflite").read_bytes()
    assert written.data["task"]["classes"][0] == "</script>"
    row = read_json(tmp_path / "deploy/report.json", dict)["formats"][1]
    assert row["sha256"] == hashlib.sha256(written.source.encode()).hexdigest()
    assert row["reason"] == "checks itself in the browser"
    # Written again with other labels, the report follows.
    (tmp_path / "deploy/labels.txt").write_text("".join(f"{name}\n" for name in "abcdefghij"))
    path, _ = add_demo(tmp_path / "deploy")
    row = read_json(tmp_path / "deploy/report.json", dict)["formats"][1]
    assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert DemoPage(path).data["task"]["classes"][0] == "a"


def test_float32_is_the_fallback(exported_digits: Exported, tmp_path: Path) -> None:
    export_digits(exported_digits.model, tmp_path / "float", formats=["float32"])
    path, assumption = add_demo(tmp_path / "float")
    assert not assumption
    written = DemoPage(path)
    assert written.bytes("model") == (tmp_path / "float/model_float32.tflite").read_bytes()
    assert written.data["model"]["input"] == {"shape": [1, 8, 8, 3], "dtype": "float32"}
    assert written.data["golden"]["noun"] == "Pattern"  # no bundle has held-out images


def test_large_images_are_few(exported: Path, tmp_path: Path) -> None:
    model, task = exported / "model.tflite", read_json(exported / "task.json", dict)
    many = np.repeat(digits()[0][:1], GOLDEN_BYTES // 192 + 9, axis=0)
    write_demo(tmp_path / "a.html", model, task, Preprocessing(), many)
    assert DemoPage(tmp_path / "a.html").data["golden"]["count"] == GOLDEN_BYTES // 192


def test_a_file_of_the_user_is_kept(exported_digits: Exported, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exported_digits.folder, tmp_path / "deploy"))
    (folder / "demo.html").write_text("mine")
    with pytest.raises(UserError, match="not written by Kerakit"):
        add_demo(folder)
    assert (folder / "demo.html").read_text() == "mine"
    run = tmp_path / "run"
    run.mkdir()
    with pytest.raises(
        UserError, match=r"has no TensorFlow Lite model\. Expected an export folder"
    ):
        add_demo(run)
    (run / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"is a run\. Export it first: python deploy\.py"):
        add_demo(run)
    with pytest.raises(UserError, match="does not exist"):
        add_demo(tmp_path / "gone")


@pytest.mark.parametrize(
    "changes",
    [
        {"formats": None, "files": ["/etc/passwd", "../x", 3, "model.tflite"]},
        {"formats": {"int8": 1}, "files": None},
        {"formats": [1, {"status": "exported"}, {"file": ["x"], "status": "exported"}]},
    ],
    ids=str,
)
def test_a_damaged_report(
    exported_digits: Exported, tmp_path: Path, changes: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(exported_digits.folder, tmp_path / "deploy"))
    report = json.loads((folder / "report.json").read_text())
    (folder / "report.json").write_text(json.dumps({**report, **changes}))
    with ExportFolder(folder).adding(folder / "demo.html"):
        (folder / "demo.html").touch()
    files = json.loads((folder / "report.json").read_text())["files"]
    assert "demo.html" in files
    assert "/etc/passwd" not in files


def test_files_of_other_tools(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\nc\n<d>\n")
    model = add_convolution(classify)
    file = tmp_path / "model.tflite"
    file.write_bytes(convert_int8(model))
    (tmp_path / "config.json").write_text("{}")  # as of other tools
    path, _ = add_demo(tmp_path)
    written = DemoPage(path)
    assert written.data["task"] == {
        "task": "classification",
        "outputs": [],
        "classes": ["a", "b", "c", "<d>"],
    }
    assert written.data["golden"]["noun"] == "Pattern"
    path.unlink()
    as_int8 = convert_int8(model, inference_input_type=tf.int8, inference_output_type=tf.int8)
    file.write_bytes(as_int8)
    with pytest.raises(UserError, match=r"tensor of int8 .*LiteRT\.js does not support"):
        add_demo(file)
    file.write_bytes(as_int8[:200])
    with pytest.raises(UserError, match="cannot use"):
        add_demo(file)
    assert not path.exists()


def test_the_runtime_is_that_of_npm() -> None:
    for name, expected in RUNTIME["sha256"].items():
        assert hashlib.sha256((WEB / "runtime" / name).read_bytes()).hexdigest() == expected, name
    assert "Apache License" in (WEB / "runtime/LICENSE").read_text()
