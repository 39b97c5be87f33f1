"""The command ``kerakit``: new projects, data checks, predictions, forecasts, updates."""

from __future__ import annotations

import functools
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import Field, ValidationError, validate_call
from tyro.extras import SubcommandApp

from kerakit import __version__, script
from kerakit.errors import JobError, UserError, printable
from kerakit.flags import REGISTRY, Flag, arrange_words, invalid_flags, suggest
from kerakit.update import TaskName

app = SubcommandApp()
_flags: dict[str, list[Flag]] = {}


def _command(function: Callable[..., None]) -> Callable[..., None]:
    """Register a command whose flags are the parameters of ``function``."""
    parameters = inspect.signature(function, eval_str=True).parameters.values()
    _flags[function.__name__] = [
        Flag(one.name, one.annotation, one.default is inspect.Parameter.empty) for one in parameters
    ]
    validated = validate_call(function)

    @functools.wraps(function)
    def command(**values: Any) -> None:
        try:
            validated(**values)
        except ValidationError as error:
            raise invalid_flags(error) from None

    app.command(command)
    return function


@_command
def new(
    directory: tyro.conf.Positional[Path],
    task: TaskName = "classification",
    data: Path | None = None,
) -> None:
    """Create a project that is ready to run.

    Args:
        directory: Project folder: empty, or not existing yet.
        task: Kind of labels. It decides about task.py and reader.py of the project.
        data: Dataset of your own. classification: image folder with one subfolder per class,
            optionally inside train/, validation/ and test/; or a table (.csv, .parquet) with the
            columns path and label. Others: a table, or annotations (COCO, YOLO, Pascal VOC,
            LabelMe, KITTI, masks). The format is recognized. Default: a sample dataset.
    """
    from kerakit.new_project import new_project

    print(new_project(directory, task, data))


@_command
def update(directory: tyro.conf.Positional[Path] = Path(), dry_run: bool = False) -> None:
    """Merge the template of the installed version into a project; your edits are kept.

    Conflicts are marked as by git merge. Exit code 1: there are conflicts.

    Args:
        directory: Project folder.
        dry_run: Show the differences without changing files.
    """
    from kerakit.update import update_project

    if conflicts := update_project(directory, dry_run):
        raise JobError(
            f"{len(conflicts)} file(s) with conflicts: {', '.join(conflicts)}. Resolve them "
            "between the <<<<<<< and >>>>>>> markers."
        )


@_command
def check(
    data: tyro.conf.Positional[Path | None] = None,
    labels: Path | None = None,
    save_to: Path = Path("check.csv"),
    train_ratio: Annotated[float, Field(gt=0, lt=1)] = 0.8,
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
) -> None:
    """Check a dataset: unreadable images, duplicates, leaks between splits; or its labels.

    Writes the findings to check.csv; your edits of an earlier list are kept. A project reads the
    check.csv in its own folder. No image is changed.

    Args:
        data: Image folder or table, as for kerakit new; with --labels: default that of the run.
        labels: Run folder inside its project: check the labels of its images by the features of
            its backbone, instead of the files.
        save_to: CSV file for the findings, with an editable column "exclude" (yes or no).
        train_ratio: Fraction of training images: TRAIN_RATIO_DEFAULT of the project.
        seed: Seed of the split: --seed of train.py.
    """
    from kerakit.console import progress
    from kerakit.data.check import (
        check_images,
        open_dataset,
        print_findings,
    )
    from kerakit.data.exclusions import check_list
    from kerakit.data.findings import write_findings
    from kerakit.machine import available_cores

    check_list(save_to)
    if labels is not None:
        raise SystemExit(_check_labels_in_project(labels, data, save_to))
    if data is None:
        raise UserError("expected DATA, a dataset to check, or --labels with a run folder.")
    reader = open_dataset(data, train_ratio, seed)
    with progress("checking", len(reader)) as advance:
        findings = check_images(reader, available_cores(), advance)
    print_findings(reader, findings)
    print(write_findings(save_to, findings))


@_command
def pack(
    data: tyro.conf.Positional[Path],
    to: Path | None = None,
    max_side: Annotated[int, Field(ge=8, le=65535)] | None = None,
    quality: Annotated[int, Field(ge=1, le=100)] = 90,
    task: TaskName | None = None,
    skip_unreadable: bool = False,
    overwrite: bool = False,
    check: bool = False,
) -> None:
    """Pack a dataset into shards: tar files in WebDataset's layout, and one index.parquet.

    A command that was interrupted is repeated: it continues with the first missing shard. The
    dataset is not changed. Addresses need the package of their storage, such as s3fs.

    Args:
        data: Dataset, as for kerakit new; with --check, the shards.
        to: Folder of the shards, or an address such as s3://bucket/photos.
        max_side: Scale larger images down to this width or height in pixels, as JPEG.
        quality: Quality of these JPEG files.
        task: Kind of labels, where a dataset has several: segmentation prefers masks.
        skip_unreadable: Omit unreadable images, instead of an error that names them.
        overwrite: Replace the shards of another dataset in --to.
        check: Read all shards, and compare each image with its CRC-32 in the index.
    """
    from kerakit.data.shards.commands import check_packed, pack_dataset

    if check == (to is not None):
        raise UserError("expected --to or --check, and not both.")
    if to is None:
        print(check_packed(data))
    else:
        print(pack_dataset(data, to, task or "", max_side, quality, skip_unreadable, overwrite))


@_command
def predict(
    model: tyro.conf.Positional[Path],
    images: tyro.conf.Positional[tuple[Path, ...]],
    top: Annotated[int, Field(ge=1)] | None = None,
    as_json: bool = False,
    draw: Path | None = None,
) -> None:
    """Predict images and print one row (path, label, confidence) per label.

    Args:
        model: Run folder inside its project, export folder (its int8 model is used), .tflite
            file next to a labels.txt, or export on the Hugging Face Hub: hf:user/name.
        images: Images and image folders.
        top: Number of labels per image; default: one of a classifier, all of other tasks.
        as_json: Print JSON instead of CSV.
        draw: Folder for the images with their predictions, as PNG files.
    """
    from kerakit import deploy

    is_remote = deploy.is_hub_address(model)
    if not is_remote and (model / "config.json").is_file():
        raise SystemExit(_predict_in_project(model, images, top, as_json, draw))
    paths = deploy.find_images(images)
    exported = deploy.load_exported(deploy.fetch_export(model) if is_remote else model)
    if exported.assumption:
        print(f"note: {model}: {exported.assumption}.", file=sys.stderr)
    predictions = deploy.predict_images(
        exported.predict, exported.task, exported.read, paths, top, exported.placement, draw
    )
    if failed := deploy.write_predictions(predictions, as_json):
        raise UserError(f"{failed} of {len(paths)} images were not predicted; see above.")


@_command
def push(
    folder: tyro.conf.Positional[Path], to: tyro.conf.Positional[str], private: bool = False
) -> None:
    """Upload an export to the Hugging Face Hub, in one commit.

    The token is that of `hf auth login`, or HF_TOKEN. Files of the export alone are uploaded;
    device/golden.npz, report.html and demo.html contain held-out images.

    Args:
        folder: Export folder: the --save_to of deploy.py.
        to: Repository, such as hf:user/name; it is created if it is missing.
        private: Create the repository as a private one; default: that of the hub, public.
    """
    from kerakit import deploy

    url = deploy.push_export(deploy.ExportFolder(folder), to, private or None)
    print(f"Pushed {folder} to {url}")


@_command
def web(model: tyro.conf.Positional[Path]) -> None:
    """Write demo.html beside an exported model: a page that runs it in a browser, from disk.

    The page needs no server and no network: it holds the model, its runtime and held-out images, on
    which it checks itself.

    Args:
        model: Export folder (its int8 model, or else float32), or .tflite file next to a
            labels.txt.
    """
    from kerakit.deploy.web.command import add_demo

    page, assumption = add_demo(model)
    if assumption:
        print(f"note: {model}: {assumption}.", file=sys.stderr)
    print(f"{page}: open it in a browser ({page.stat().st_size / 2**20:.1f} MiB).")


@_command
def reproduce(run: tyro.conf.Positional[Path], save_to: Path, data_dir: Path | None = None) -> None:
    """Train a run again with its recorded flags and the project's code, and compare.

    History and best weights are compared to the bit. Exit code 1: they differ; versions, code, data
    and machine that differ are printed as possible causes.

    Args:
        run: Run folder inside its project, or of the project in the current folder.
        save_to: New run folder.
        data_dir: Dataset; default: that of the run.
    """
    from kerakit.reproduce import reproduce

    reproduce(run, save_to, data_dir)


@_command
def placement(file: tyro.conf.Positional[Path], json: bool = False) -> None:
    """Forecast which operators of a TensorFlow Lite file map to the Edge TPU.

    Requires neither Google's compiler nor a device; the output format is that of edgetpu_compiler
    16. Exit code 1: the compiler would reject the file.

    Args:
        file: Uncompiled .tflite file, such as model.tflite of an export.
        json: Print JSON instead of the table, with the source of each verdict.
    """
    from kerakit.deploy.edgetpu.forecast import forecast_file, print_forecast

    forecast = forecast_file(file)
    print_forecast(forecast, file, json)
    if forecast.refused:
        raise SystemExit(1)


@_command
def doctor() -> None:
    """Print the environment for bug reports: versions, devices, memory, compilers, runtimes."""
    from kerakit.doctor import print_environment

    print_environment()


def _predict_in_project(
    run: Path, images: tuple[Path, ...], top: int | None, as_json: bool, draw: Path | None
) -> int:
    """Run the project's predict.py: its code, not a file of the run, defines the model."""
    flags = ["--as_json"] if as_json else []
    flags += [] if top is None else ["--top", str(top)]
    flags += [] if draw is None else ["--draw", str(draw)]
    return _call_script("predict.py", run, [*flags, "--", *map(str, images)])


def _check_labels_in_project(run: Path, data: Path | None, save_to: Path) -> int:
    """Run the project's evaluate.py with --check_labels."""
    data_flags = [] if data is None else ["--data_dir", str(data)]
    return _call_script("evaluate.py", run, ["--check_labels", str(save_to), *data_flags])


def _call_script(script: str, run: Path, flags: list[str]) -> int:
    from kerakit.reproduce import find_project

    project = find_project(run, (script, "config.py", "models/__init__.py"))
    if "--check_labels" in flags and "check_labels" not in (project / script).read_text("utf-8"):
        raise UserError(
            f"{project / script} has no --check_labels: it is from an earlier version. Run kerakit "
            "update in the project."
        )
    command = [sys.executable, str(project / script), "--read_from", str(run), *flags]
    return subprocess.call(command)  # noqa: S603 - the user's own script, without a shell


def main() -> None:
    """Run the command ``kerakit``."""
    if sys.argv[1:] == ["--version"]:
        print(f"kerakit {__version__}")
        return
    description = (
        f"Kerakit {__version__}: building blocks of Keras image projects. The arguments of a "
        "command: kerakit COMMAND --help"
    )
    script.call(functools.partial(_run, description))


def _run(description: str) -> None:
    command, *words = sys.argv[1:] or [""]
    if command not in ("-h", "--help") and not command.startswith("--tyro"):
        if command not in _flags:
            names = ", ".join(_flags)
            given = f"unknown command {printable(command)!r}" if command else "no command given."
            hint = suggest(command, _flags) if command else ""
            raise UserError(f"{given}{hint} Expected one of {names}. See kerakit --help.")
        words = arrange_words(words, _flags[command], f"kerakit {command}")
    app.cli(
        prog="kerakit",
        description=description,
        args=[command, *words],
        use_underscores=True,
        registry=REGISTRY,
    )
