"""Crafted files: no code runs, no program starts, nothing outside is read or written, words.

More of them: test_damaged_run.py, test_escaping.py, test_reproduce.py (records of runs),
test_interrupted.py (locks), models/test_torch_file.py (pickles), tflite/ (models), data/.
"""

from __future__ import annotations

import contextlib
import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from kerakit.checkpoint import Checkpoint
from kerakit.data import DataReader, ObjectReader, recognize
from kerakit.deploy import ExportFolder, find_images, load_exported, write_predictions
from kerakit.device import predict as program
from kerakit.errors import KerakitError, UserError, printable_lines
from kerakit.locks import release_all
from kerakit.run import Run
from kerakit.tasks import make_task
from kerakit.trained_weights import load_weights
from projects import write_image

FORBIDDEN = (
    *("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork"),
    *("pickle.find_class", "socket.connect", "ctypes.dlopen", "webbrowser.open"),
)
ESCAPE = "\x1b]0;title\x07\x1b[2J"
SHELL = "$(touch ran); `touch ran` | touch ran #"
PYTHON = "__import__('os').system('touch ran')"
YAML = "!!python/object/apply:os.system ['touch ran']"

_watched: list[Path] = []
_events: list[str] = []


def _watch(event: str, args: tuple[Any, ...]) -> None:
    if not _watched:
        return
    if event in FORBIDDEN:
        _events.append(f"{event} {args}")
    elif event == "open" and str(args[0]).startswith(str(_watched[0])):
        _events.append(f"open {args[0]}")


sys.addaudithook(_watch)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder; at the end, what lies outside is as before and was not opened."""
    outside = tmp_path / "outside"
    write_image(outside / "secret.png", 0)
    (outside / "secret.txt").write_text("secret")
    (outside / "secret.bin").write_bytes(np.full(6, 7, np.float32).tobytes())
    before = {path: path.read_bytes() for path in outside.iterdir()}
    inside = tmp_path / "inside"
    inside.mkdir()
    _events.clear()
    _watched.append(outside)
    try:
        with contextlib.chdir(inside):
            yield inside
    finally:
        _watched.clear()
        release_all()
    assert _events == []
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    assert not list(tmp_path.rglob("ran"))
    assert {path.name for path in tmp_path.iterdir()} == {"inside", "outside"}


def make_model() -> keras.Model:
    return keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="scores")])


# -------------------------------------------------------------------------------------------- runs


@pytest.mark.parametrize(
    "values",
    [
        {"model": "../../outside/secret"},
        {"model": PYTHON},
        {"loss": {PYTHON: ESCAPE}},
        {"kerakit": PYTHON, "unknown": YAML},
        {"track": ["../outside"]},
        {"weights": SHELL},
        {"batch_size": "1e999", "seed": -1},
        {"split": SHELL, "task": PYTHON},
        {"class_names": [ESCAPE, SHELL], "model": ESCAPE},
    ],
)
def test_config_json(
    folder: Path, template: Callable[[str], ModuleType], values: dict[str, Any]
) -> None:
    config = template("config")
    (folder / "config.json").write_text(json.dumps({"save_to": "x", **values}))
    with pytest.raises(UserError) as caught:
        config.read(folder)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["../../outside/secret.txt", "/etc/passwd", f"{SHELL}.weights.h5"])
def test_a_list_of_checkpoints(folder: Path, name: str) -> None:
    run = Run(folder / "run").create()
    values = {"file": name, "epoch": 1, "value": 0.5, "sha256": "0" * 64}
    run.index.write_text(json.dumps([values]))
    with pytest.raises(UserError, match="file: expected a name"):
        run.best()
    with pytest.raises(UserError, match="file: expected a name"):
        run.discard_if_empty()


def external_link(file: Any, outside: Path) -> None:
    file["layers"] = h5py.ExternalLink(str(outside / "secret.txt"), "/")


def external_data(file: Any, outside: Path) -> None:
    file.create_dataset(
        "layers/scores/vars/0", (2, 2), "f4", external=[(str(outside / "secret.bin"), 0, 16)]
    )


def virtual_data(file: Any, outside: Path) -> None:
    layout = h5py.VirtualLayout((2, 2), "f4")
    layout[:] = h5py.VirtualSource(str(outside / "secret.bin"), "x", (2, 2))
    file.create_virtual_dataset("layers/scores/vars/0", layout)


def soft_link(file: Any, _: Path) -> None:
    file["layers"] = h5py.SoftLink("/layers")


@pytest.mark.parametrize("craft", [external_link, external_data, virtual_data, soft_link])
def test_a_checkpoint_that_refers_to_other_files(
    folder: Path, craft: Callable[[Any, Path], None]
) -> None:
    path = folder / "a.weights.h5"
    with h5py.File(path, "w") as file:
        craft(file, folder.parent / "outside")
    with pytest.raises(UserError, match="refers to"):
        load_weights(make_model(), path)


def test_a_checkpoint_that_is_a_link_or_of_another_format(folder: Path) -> None:
    run = Run(folder / "run").create()
    path = run.checkpoints / "epoch-0001.weights.h5"
    path.symlink_to("../../../outside/secret.txt")
    checkpoint = Checkpoint(path.name, 1, 0.5, "0" * 64)
    run.index.write_text(json.dumps([asdict(checkpoint)]))
    with pytest.raises(UserError, match="is a link"):
        run.best()
    model = make_model()
    for name in ("evil.keras", "evil.h5", "evil.pkl", "evil.npy"):
        (folder / name).write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
        with pytest.raises(UserError, match="is not a checkpoint"):
            load_weights(model, folder / name)
        with pytest.raises(UserError, match="is not a TensorFlow Lite model"):
            load_exported(folder / name)
    (folder / "evil.weights.h5").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(UserError, match="is damaged"):
        load_weights(model, folder / "evil.weights.h5")


def test_links_in_the_place_of_our_folders(folder: Path) -> None:
    run = Run(folder / "run").create()
    release_all()
    for name in (".previous", ".previous-incomplete"):
        (run.path / name).symlink_to("../../outside")
    run.check_new(overwrite=True)
    run.create(overwrite=True)
    run.discard_if_empty()


# ------------------------------------------------------------------------------------------ exports


@pytest.mark.parametrize(
    "values",
    [
        {"files": ["../../outside/secret.txt", "/etc/passwd", "..", "/"]},
        {"status": "incomplete", "from": "../../outside", "new": ["model.h5"], "files": ["."]},
        {"status": "incomplete", "from": ".kerakit-x/../../../outside", "new": [], "files": []},
        {"status": "incomplete", "from": ".kerakit-link", "new": ["../x"], "files": ["../x"]},
        {"formats": [{"file": "../../outside/secret.txt", "status": "exported"}]},
        {"formats": SHELL, "files": [[PYTHON]]},
    ],
)
def test_a_report_of_an_export(folder: Path, values: dict[str, Any]) -> None:
    (folder / "deploy").mkdir()
    (folder / "deploy/.kerakit-link").symlink_to("../../outside")
    report = folder / "deploy/report.json"
    report.write_text(json.dumps({"versions": {"kerakit": "1"}, **values}))
    export = ExportFolder(folder / "deploy")
    with contextlib.suppress(UserError), export.write() as temporary:
        (temporary / "labels.txt").write_text("new")
        (temporary / "report.json").write_text("{}")
        export.take_over(temporary)
    with contextlib.suppress(UserError):
        load_exported(folder / "deploy")


@pytest.mark.parametrize("name", ["__class__", PYTHON, "../task", None, [], {"a": 1}])
def test_a_task_is_chosen_among_ours(folder: Path, name: Any) -> None:
    with pytest.raises(UserError):
        make_task({"task": name, "name": name, "class_names": [ESCAPE, "b"]})


def test_tasks_of_a_task_are_checked(folder: Path) -> None:
    values: tuple[Any, ...] = ([], None, {"task": []}, SHELL)
    for value in values:
        with pytest.raises(UserError):
            make_task({"task": "multitask", "tasks": {"a": value}})


def test_arrays_of_a_bundle_hold_no_objects(folder: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return exec, ("open('ran', 'w')",)

    np.savez(folder / "golden.npz", images=np.array([Evil()], dtype=object))
    with pytest.raises((ValueError, program.InputError)), np.load(folder / "golden.npz") as golden:
        golden["images"]


# ------------------------------------------------------------------------------------ annotations


def coco(name: str) -> str:
    image = {"id": 1, "file_name": name, "width": 20, "height": 16}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 9, 9]}
    return json.dumps(
        {"images": [image], "annotations": [box], "categories": [{"id": 1, "name": ESCAPE}]}
    )


def voc(name: str) -> str:
    box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox>"
    return (
        f"<annotation><filename>{name}</filename><object><name>a</name>{box}</object></annotation>"
    )


ENTITY = '<!DOCTYPE a [<!ENTITY x SYSTEM "../outside/secret.txt">]>'
OUTSIDE = "../outside/secret.png"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("annotations.json", coco(OUTSIDE)),
        ("annotations.json", coco("/etc/passwd")),
        ("annotations.json", coco(SHELL)),
        ("0.xml", voc(OUTSIDE)),
        ("0.xml", ENTITY + voc("&x;")),
        (
            "0.json",
            json.dumps({"imagePath": OUTSIDE, "imageWidth": 9, "shapes": [{"label": YAML}]}),
        ),
        ("data.yaml", f"names: {YAML}\ntrain: ../outside\n"),
        ("data.yaml", f"path: ../../outside\nnames: [a]\ntrain: {OUTSIDE}\n"),
        ("0.txt", f"0 0.5 0.5 0.1 {PYTHON}\n"),
        ("classes.txt", f"{ESCAPE}\n{SHELL}\n"),
    ],
)
def test_annotations(
    folder: Path, name: str, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_image(folder / "0.png", 0)
    write_image(folder / "1.png", 1)
    (folder / name).write_text(text)
    with contextlib.suppress(KerakitError):
        recognize(folder)
    try:
        reader = ObjectReader(folder)
        for i in range(len(reader)):
            assert reader.image_path(i).resolve().is_relative_to(folder.resolve())
            reader.target(i)
    except KerakitError as error:
        print(printable_lines(str(error)))
    assert "\x1b" not in capsys.readouterr().out


# -------------------------------------------------------------------------------------- file names


NAMES = ("a\nb.png", f"{ESCAPE.replace('/', '')}.png", "$(touch ran).png", "; touch ran.png")
MORE_NAMES = (
    *("--overwrite.png", "-rf.png", "{0.__class__}.png", "%s%n.png", "=cmd()|ran.png", "a...png"),
)


def test_names_of_files(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for i, name in enumerate((*NAMES, *MORE_NAMES)):
        for label in ("a", "b;touch ran"):
            write_image(folder / "data" / label / name, i)
    reader = DataReader(folder / "data")
    keys = [str(reader.key(i)) for i in range(len(reader))]
    assert {Path(key).name for key in keys} == {*NAMES, *MORE_NAMES}
    paths = find_images([folder / "data"])
    records = [{"label": ESCAPE.replace("\x1b", ""), "confidence": 0.5}]
    assert write_predictions([(path, records) for path in paths], as_json=False) == 0
    rows = list(csv.reader(capfd.readouterr().out.splitlines(keepends=True)))
    assert [row[0] for row in rows[1:]] == [str(path) for path in paths]
    for path in paths:
        path.write_bytes(b"")
    errors = [UserError(f"cannot read {path}") for path in paths]
    write_predictions(errors, as_json=False)
    err = capfd.readouterr().err
    assert printable_lines(err) == err
    assert err.count("\n") == len(paths)
