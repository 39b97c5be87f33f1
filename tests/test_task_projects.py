"""Projects of all tasks: created, trained, evaluated, exported, and run as on a device."""

from __future__ import annotations

import csv
import difflib
import io
import json
from pathlib import Path

import numpy as np
import optuna
import pytest
from huggingface_hub import ModelCard
from PIL import Image

from kerakit import UserError
from kerakit.data.ready import write_ready_data
from kerakit.new_project import new_project
from kerakit.update import TASKS, _read_task, create_project, task_template, update_project
from projects import Project, edit, make_task_project, template_modules

SPATIAL = ("segmentation", "keypoints", "detection")


@pytest.mark.parametrize("task", TASKS)
def test_projects_differ_in_few_lines(task: str) -> None:
    base, template = task_template("classification"), task_template(task)
    assert base.keys() == template.keys()
    changed = [name for name in base if base[name] != template[name]]
    assert set(changed) <= {"task.py", "reader.py"}
    lines = [
        line
        for name in changed
        for line in difflib.ndiff(base[name].splitlines(), template[name].splitlines())
        if line[0] in "+-"
    ]
    assert len(lines) <= 150


@pytest.mark.parametrize("task", TASKS)
def test_the_search_suggests_mixup_where_labels_can_be_blended(task: str, tmp_path: Path) -> None:
    create_project(tmp_path / "project", task)
    assert suggests_mixup(tmp_path / "project") == (task not in SPATIAL)
    if task == "multitask":
        edit(tmp_path / "project" / "task.py", '"size": Regression', '"size": Segmentation')
        edit(tmp_path / "project" / "task.py", "MultiTask, Regression", "MultiTask, Segmentation")
        assert not suggests_mixup(tmp_path / "project")


def suggests_mixup(project: Path) -> bool:
    with template_modules(project) as load:
        args = load("config").TrainConfig(save_to=Path("progress/search"))
        return "mixup" in load("search").suggest(optuna.create_study().ask(), args)


@pytest.mark.parametrize(
    "task",
    [
        "detection",
        "multitask",
        *(
            pytest.param(task, marks=pytest.mark.slow)
            for task in TASKS
            if task not in ("classification", "detection", "multitask")
        ),
    ],
)
def test_a_project_of_each_task(task: str, tmp_path: Path) -> None:
    project = make_task_project(tmp_path / "project", task, 120)
    size = "64,64" if task in SPATIAL else "48,48"
    flags = ("--input_size", size, "--batch_size", 8)
    jitter = ("--jitter", *(("--mosaic", 0.5) if task == "detection" else ()))
    trained = project.train(*flags, *jitter)
    assert trained.code == 0, trained.err
    recorded = json.loads((project.path / "progress/test/config.json").read_text())["task"]
    assert recorded["task"] == task
    evaluated = project.call("evaluate.py", "--read_from", "progress/test")
    assert evaluated.code == 0, evaluated.err
    frigate = ("--bundle", "frigate") if task == "detection" else ()
    deployed = project.deploy("--formats", "float32,int8,keras", "--max_drop", 1, *frigate)
    assert deployed.code == 0, deployed.out + deployed.err
    report = json.loads((project.path / "deploy/test/report.json").read_text())
    assert {"README.md", "device/MODEL.md"} <= set(report["files"])
    assert ("frigate/model.tflite" in report["files"]) == (task == "detection")
    assert ModelCard.load(project.path / "deploy/test/README.md").data.model_name == "small_cnn"
    by_format = {row["format"]: row for row in report["formats"]}
    assert by_format["float32"]["agreement"] == pytest.approx(1)
    metrics = json.loads((project.path / "progress/test/evaluation.json").read_text())["metrics"]
    main = report["main_metric"]
    assert next(iter(metrics)) == main
    assert report["keras_metrics"][main] == pytest.approx(metrics[main])

    image = sorted((project.path / "data/images").iterdir())[0]
    predicted = project.call("predict.py", "--read_from", "progress/test", image)
    assert predicted.code == 0, predicted.err
    rows = list(csv.DictReader(io.StringIO(predicted.out)))
    assert all(row["path"] == str(image) for row in rows)
    device = Project(project.path / "deploy/test/device")
    checked = device.run("predict.py", "--check", image, "--json", "--draw", "drawn")
    assert checked.code == 0, checked.out + checked.err
    assert json.loads(checked.out.splitlines()[-1])["path"] == str(image)
    with Image.open(next((device.path / "drawn").iterdir())) as drawn, Image.open(image) as photo:
        assert drawn.width >= photo.width


def test_the_data_of_another_task_is_refused(tmp_path: Path) -> None:
    table = write_ready_data("regression", tmp_path / "data", 8)
    with pytest.raises(UserError, match="no boxes"):
        new_project(tmp_path / "project", "detection", table)
    assert not (tmp_path / "project").exists()


def test_the_task_of_annotations_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    boxes = write_ready_data("detection", tmp_path / "boxes", 8)
    with pytest.raises(UserError, match=r"one class \(images\).*COCO: .*--task is detection"):
        new_project(tmp_path / "project", "classification", boxes)
    masks = write_ready_data("segmentation", tmp_path / "masks", 8)
    new_project(tmp_path / "project", "classification", masks)
    assert "for which --task is segmentation." in capsys.readouterr().out
    with pytest.raises(UserError, match=r"has no boxes\. Expected a table, or annotations"):
        new_project(tmp_path / "numbers", "regression", masks)


@pytest.mark.parametrize(("is_sample", "size"), [(False, (384, 384)), (True, (128, 128))])
def test_defaults_are_those_of_the_task_and_of_the_sample_data(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], is_sample: bool, size: tuple[int, int]
) -> None:
    data = None if is_sample else write_ready_data("detection", tmp_path / "data", 8)
    project = Project(tmp_path / "project")
    steps = new_project(project.path, "detection", data)
    assert "python train.py --save_to progress/test\n" in steps
    # Few images: more epochs, and early stopping later.
    patience = f"PATIENCE = {10 if is_sample else 100}\n"
    assert patience in (project.path / "callbacks.py").read_text()
    owner = project.path / "config.py"
    edit(owner, "BATCH_SIZE_DEFAULT = 8", "BATCH_SIZE_DEFAULT = 6")
    # The values are edits of the template, which an update leaves as they are.
    base = project.path / ".kerakit/template/config.py"
    base.write_text(f"# Of an earlier version.\n{base.read_text()}")
    edit(owner, '"""Configuration', '# Of an earlier version.\n"""Configuration')
    assert update_project(project.path) == []
    assert "Of an earlier version" not in owner.read_text()
    (project.path / "show.py").write_text(
        "import config\n"
        "flags = config.TrainConfig.parse(['--save_to', 'a', '--no_jitter'])\n"
        "print(config.TrainConfig(save_to='a').jitter, flags.jitter, flags.batch_size,"
        " flags.input_size, flags.ema, flags.as_flags())"
    )
    shown = project.run("show.py")
    assert shown.out == f"True False 6 {size} 0.98 ['--save_to=a', '--no_jitter']\n", shown.err


def test_the_input_of_segmentation_has_the_shape_of_the_images(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        (tmp_path / "scenes" / name).mkdir(parents=True)
        for i in range(10):
            Image.new("L", (480, 360), i % 2).save(tmp_path / "scenes" / name / f"{i}.png")
    new_project(tmp_path / "project", "segmentation", tmp_path / "scenes")
    config = (tmp_path / "project" / "config.py").read_text()
    assert "INPUT_SIZE_DEFAULT = (384, 288)\n" in config
    assert "NUM_EPOCHS_DEFAULT = 200\n" in config
    assert "PATIENCE = 100\n" in (tmp_path / "project" / "callbacks.py").read_text()


def test_outputs_follow_the_columns_of_a_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "t.csv"
    rows = ["path,animal,weight,tags", *(f"{i}.jpg,{'ab'[i % 2]},{i}.5,x;y" for i in range(9))]
    table.write_text("\n".join(rows))
    new_project(tmp_path / "project", "multitask", table)
    assert "9 images, outputs animal, weight, tags" in capsys.readouterr().out
    text = (tmp_path / "project/task.py").read_text()
    assert '= {"animal": Classification, "weight": Regression, "tags": MultiLabel}' in text
    compile(text, "task.py", "exec")


def test_an_update_merges_the_template_of_the_task(tmp_path: Path) -> None:
    create_project(tmp_path / "project", "detection")
    path = tmp_path / "project/task.py"
    path.write_text(path.read_text() + "\nMINE = 1\n")
    assert update_project(tmp_path / "project") == []
    assert "MINE" in path.read_text()
    assert "ObjectReader" in (tmp_path / "project/reader.py").read_text()
    assert _read_task(tmp_path / "project") == "detection"
    (tmp_path / "project/.kerakit/task").write_text("other\n")
    with pytest.raises(UserError, match="unknown task 'other'"):
        update_project(tmp_path / "project")


def test_predictions_are_in_pixels_of_the_original_image(tmp_path: Path) -> None:
    """A detector on letterboxed images; the model is replaced by one that finds a fixed box."""
    from kerakit.data.placement import Placement
    from kerakit.device.preprocessing import Preprocessing
    from kerakit.tasks import Detection

    Image.new("RGB", (200, 100)).save(tmp_path / "wide.png")
    task = Detection(["cat"])
    place = Placement(tmp_path / "wide.png", Preprocessing("letterbox"), (64, 64))
    # The image is 64 by 32 in the middle: rows 16 to 48 of the input.
    found = np.array([[0.25, 0.25, 0.5, 0.75, 0.9, 0]], np.float32)
    (record,) = task.describe(task.locate(found, place), size=place.image_size)
    assert [record[side] for side in ("x1", "y1", "x2", "y2")] == [50, 0, 100, 100]
