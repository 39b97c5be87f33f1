"""New projects: the template of a task, with a sample dataset or the owner's data."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path
from typing import Any

from kerakit import data as readers
from kerakit.address import as_place, as_url
from kerakit.data.ready import write_ready_data
from kerakit.data.sizes import choose_input_size
from kerakit.errors import UserError, list_names, printable
from kerakit.files import naming, remove, write_text
from kerakit.tasks import Classification, MultiLabel, Regression, Segmentation
from kerakit.update import TASKS, create_project

_DEFAULTS: dict[str, dict[str, Any]] = {
    "segmentation": {"BATCH_SIZE_DEFAULT": 8, "JITTER_DEFAULT": True},
    "regression": {"BATCH_SIZE_DEFAULT": 8},
    "keypoints": {"BATCH_SIZE_DEFAULT": 16, "JITTER_DEFAULT": True},
    "detection": {
        "INPUT_SIZE_DEFAULT": (384, 384),
        "BATCH_SIZE_DEFAULT": 8,
        "LEARNING_RATE_DEFAULT": 2e-3,
        "JITTER_DEFAULT": True,
        "EMA_DEFAULT": 0.98,
    },
}
"""Constants of config.py by task, where they differ from those of classification."""

_SAMPLE_DEFAULTS: dict[str, dict[str, Any]] = {
    **{task: {"INPUT_SIZE_DEFAULT": (128, 128)} for task in TASKS[1:]},
    "segmentation": {"INPUT_SIZE_DEFAULT": (128, 128), "BATCH_SIZE_DEFAULT": 16},
    "regression": {"INPUT_SIZE_DEFAULT": (128, 128), "NUM_EPOCHS_DEFAULT": 15},
    "detection": {"INPUT_SIZE_DEFAULT": (128, 128), "NUM_EPOCHS_DEFAULT": 10},
}
"""Further ones for the sample datasets, whose images have 128 by 128 pixels."""

_SAMPLE_FLAGS = {"classification": " --model small_cnn --input_size 32,32 --num_epochs 15"}
"""Flags of train.py for the sample datasets."""


_IMAGES_SEEN = {"detection": 6000, "segmentation": 6000, "regression": 4000}
"""Images that a model sees in a training: an epoch of few images has few steps."""

_MASK_PIXELS = 100_000
"""Pixels of the input of segmentation."""


def new_project(directory: Path, task: str, data: Path | None) -> str:
    """Create a project; return the next steps.

    Args:
        directory: new or empty folder.
        task: one of ``TASKS`` of ``kerakit.update``.
        data: dataset; None: a sample dataset is written into the project.

    Raises:
        UserError: the folder is not empty, or the data does not fit the task.
    """
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UserError(f"{directory} exists and is not empty. Choose another folder.")
    edits = {} if data is None else _check_data(task, data)
    defaults = {
        **_DEFAULTS.get(task, {}),
        **(_SAMPLE_DEFAULTS.get(task, {}) if data is None else {}),
    }
    edits = {("config.py", name): repr(value) for name, value in defaults.items()} | edits
    exists = directory.exists()
    try:
        create_project(directory, task)
        if data is None:
            with naming(directory / "data"):
                place = write_ready_data(task, directory / "data").relative_to(directory)
            names = "".join(f' / "{name}"' for name in place.parts)
            edits["config.py", "DATA_DIR"] = f"Path(__file__).parent{names}"
        for (file, name), value in edits.items():
            _set_constant(directory / file, name, value)
    except BaseException:  # also Ctrl-C: the folder was empty, and the same command can be repeated
        with contextlib.suppress(OSError):
            for path in directory.iterdir():
                remove(path)
            if not exists:
                directory.rmdir()
        raise
    return _next_steps(directory, task, is_sample=data is None)


def _check_data(task: str, data: Path) -> dict[tuple[str, str], str]:
    """Check that a dataset fits a task, and print its format.

    Returns:
        Values of constants of the project, by file and name.
    """
    data = as_place(data)
    reader_class = {
        "classification": readers.DataReader,
        "multilabel": readers.MultiLabelReader,
        "regression": readers.RegressionReader,
        "segmentation": readers.MaskReader,
        "keypoints": readers.KeypointReader,
        "detection": readers.ObjectReader,
        "multitask": readers.TableReader,
    }[task]
    try:
        reader = reader_class(data)
    except UserError as error:
        raise UserError(f"{error}{_suggest_task(task, data)}") from None
    found = readers.recognize(data, task)
    print(f"format: {found}; {len(reader):,} images, {_describe_labels(reader.class_names)}")
    if note := _suggest_task(task, data):
        print(f"note:{note}")
    url = as_url(data)
    place = f"Path({str(data.resolve())!r})" if url is None else repr(url)
    edits = {("config.py", "DATA_DIR"): place}
    if task in _IMAGES_SEEN:
        epochs = min(max(_IMAGES_SEEN[task] // len(reader), 10), 200)
        edits["config.py", "NUM_EPOCHS_DEFAULT"] = str(epochs)
        # With few images, a detector finds its first objects after many epochs, and metrics vary.
        edits["callbacks.py", "PATIENCE"] = str(max(10, epochs // 2))
    if task == "segmentation":
        edits["config.py", "INPUT_SIZE_DEFAULT"] = str(choose_input_size(reader, _MASK_PIXELS))
    if isinstance(reader, readers.TableReader):
        names: dict[Any, str] = {
            one.column: one.__name__ for one in (Classification, MultiLabel, Regression)
        }
        names[Segmentation.column] = Segmentation.__name__
        outputs = ", ".join(f'"{name}": {names[kind]}' for name, kind in reader.columns.items())
        edits["task.py", "OUTPUTS"] = f"{{{outputs}}}"
        used = sorted({*map(names.__getitem__, reader.columns.values()), "MultiTask", "Task"})
        edits["task.py", "from kerakit.tasks"] = f"import {', '.join(used)}"
    return edits


def _suggest_task(task: str, data: Path) -> str:
    """Return a sentence that names the tasks of annotations which classification does not use."""
    if task != "classification":
        return ""
    try:
        found = readers.recognize(data)
    except UserError:
        return ""
    if found.name in ("classes", "table"):
        return ""
    tasks = "segmentation" if found.name == "masks" else "detection, segmentation or keypoints"
    return f" The dataset has annotations ({found}), for which --task is {tasks}."


def _describe_labels(names: Any) -> str:
    if isinstance(names, dict):
        return f"outputs {list_names(list(names))}"
    count = "1 label" if len(names) == 1 else f"{len(names)} labels"
    return f"{count} ({list_names([printable(name) for name in names])})"


def _set_constant(path: Path, name: str, value: str) -> None:
    """Set the value of a constant of a project's file, or the names of an import."""
    source = path.read_text(encoding="utf-8")
    if name.startswith("from "):
        source = re.sub(
            rf"(?m)^{re.escape(name)} .*$", lambda _: f"{name} {value}", source, count=1
        )
    else:
        source = re.sub(
            rf"(?m)^({name}(: [^=\n]+)?) = .*$",
            lambda found: f"{found[1]} = {value}",
            source,
            count=1,
        )
    write_text(path, source)


def _next_steps(directory: Path, task: str, is_sample: bool) -> str:
    flags = _SAMPLE_FLAGS.get(task, "") if is_sample else ""
    return (
        f"Created {directory}. Next:\n"
        f"  cd {shlex.quote(str(directory))}\n"
        f"  python train.py --save_to progress/test{flags}\n"
        f"  python deploy.py --read_from progress/test --save_to deploy/test"
    )
