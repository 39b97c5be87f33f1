"""Creating a project from the template, and merging a newer template into it.

A project keeps the template that it came from in ``.kerakit/template`` and its version in
``.kerakit/version``: the base of a three-way merge with the project's files and the new template.
"""

from __future__ import annotations

import difflib
import re
import reprlib
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from kerakit import __version__
from kerakit.errors import UserError
from kerakit.files import make_dir, move_into_place, remove, write_text
from kerakit.merge import has_conflicts, merge_texts

TEMPLATE = Path(__file__).with_name("project")
"""The template of this version: a project of classification."""

_VARIANTS = Path(__file__).with_name("project_tasks")
"""Files of the projects of other tasks, by the name of the task, that differ from the template."""

TaskName = Literal[
    "classification",
    "multilabel",
    "regression",
    "segmentation",
    "keypoints",
    "detection",
    "multitask",
]
"""Type of the task of a new project."""

TASKS: tuple[str, ...] = get_args(TaskName)
"""Tasks of new projects."""

_PAST_TEMPLATES = Path(__file__).with_name("templates")
"""Templates of versions whose projects keep no copy of their own, as zip files."""

_RENAMED = {"gitignore": ".gitignore"}
"""Files that would act on this package under their name in a project."""

_STATE = Path(".kerakit")

_VERSION = r"\d{1,9}(\.\d{1,9})+\S{0,99}"

_RESTORE = "Restore it from git or a backup."

_BY_HAND = {
    "0.1.0": {
        "config.py": "every file in models/ is a --model by its name: drop the imports of models "
        "and the entries of MODELS. --schedule is --strategy, --skip_bad is --skip_unreadable",
        "phases.py": "the phases are in train.py: move your edits there and delete this file",
        "restore.py": "deploy.py, evaluate.py and predict.py open runs themselves: move your edits "
        "there and delete this file",
    }
}
"""Manual steps for files that could not be merged, by the version that they came from."""


def create_project(directory: Path, task: str = TASKS[0]) -> None:
    """Write the template of a task into an empty or new folder, and record its version."""
    make_dir(directory)
    files = task_template(task)
    for name, text in files.items():
        _write(directory / name, text)
    _record(directory, files)
    write_text(directory / _STATE / "task", f"{task}\n")


def task_template(task: str) -> dict[str, str]:
    """Return the text of each file of the template of a task by its path in a project."""
    variant = read_template(_VARIANTS / task) if task != TASKS[0] else {}
    return {**read_template(), **variant}


def _read_task(directory: Path) -> str:
    """Return the task of a project; projects of earlier versions are of classification."""
    path = directory / _STATE / "task"
    task = path.read_text(errors="replace").strip() if path.is_file() else TASKS[0]
    if task not in TASKS:
        raise UserError(f"{path}: unknown task {task!r}; expected one of {', '.join(TASKS)}.")
    return task


def read_template(folder: Path = TEMPLATE) -> dict[str, str]:
    """Return the text of each template file by its path in a project.

    Raises:
        UserError: a project's copy is damaged.
    """
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        _RENAMED.get(name, name): _read_text(path)
        for name, path in names.items()
        if "__pycache__" not in name and path.suffix != ".pyc"
    }


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path} is damaged: not UTF-8. {_RESTORE}") from None


@dataclass(frozen=True)
class Change:
    """The change of one file by an update.

    Attributes:
        name: path of the file in the project.
        action: "add", "update", "merge", "conflict", "remove", or "keep" where the project's file
            is kept although the template changed.
        before: its text, None where there is none.
        after: its new text, None where it is removed.
        note: the reason, for "keep".
    """

    name: str
    action: str
    before: str | None
    after: str | None
    note: str = ""


def update_project(directory: Path, dry_run: bool = False) -> list[str]:
    """Merge this version's template into a project and print what changed.

    Args:
        directory: the project.
        dry_run: print the differences and change nothing.

    Returns:
        The names of the files with conflicts.

    Raises:
        UserError: the folder is not a project, its version is newer, its copy of the template is
            missing, it has conflicts from an earlier update, or git is missing.
    """
    version, base = _read_base(directory)
    template = task_template(_read_task(directory))
    changes = list(_plan(directory, base, template))
    by_hand = _BY_HAND.get(version, {})
    for change in changes:
        note = f": {change.note}" if change.note else ""
        print(f"{change.action:<9} {change.name}{note}")
        if dry_run:
            print(_diff(change), end="")
        if change.action in ("conflict", "keep") and change.name in by_hand:
            print(f"          by hand: {by_hand[change.name]}")
    conflicts = [change.name for change in changes if change.action == "conflict"]
    if dry_run:
        print(f"dry run: {len(changes)} file(s) from version {version} to {__version__}")
        return []
    for change in changes:
        if change.after is None:
            remove(directory / change.name)
        elif change.after != change.before:
            _replace(directory / change.name, change.after)
    _record(directory, template)
    print(f"updated {directory} from version {version} to {__version__}: {len(changes)} file(s)")
    return conflicts


def _read_base(directory: Path) -> tuple[str, dict[str, str]]:
    """Return the version that a project came from, and the template of that version."""
    state = directory / _STATE
    if (state / "version").is_file():
        version = (state / "version").read_text(errors="replace").strip()
        if not re.fullmatch(_VERSION, version):
            raise UserError(
                f"{state / 'version'} is damaged: {reprlib.repr(version)} is not a version. "
                f"{_RESTORE}"
            )
        if _numbers(version) > _numbers(__version__):
            raise UserError(
                f"{directory} needs Kerakit {version}; {__version__} is installed. Install that "
                "version or a newer one."
            )
        base = read_template(state / "template")
        if not base:
            raise UserError(
                f"{state / 'template'} is missing: it is the base of the merge. {_RESTORE}"
            )
        return version, base
    config = directory / "config.py"
    text = config.read_text(encoding="utf-8", errors="replace") if config.is_file() else ""
    if "class TrainConfig(kerakit.Config)" not in text:
        raise UserError(
            f"{directory} is not a project of Kerakit: it has no .kerakit/version, and no "
            "config.py of an earlier version. Pass the folder that kerakit new created."
        )
    with zipfile.ZipFile(_PAST_TEMPLATES / "0.1.0.zip") as archive:
        return "0.1.0", {name: archive.read(name).decode() for name in archive.namelist()}


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)[:3]]


def _plan(directory: Path, base: dict[str, str], template: dict[str, str]) -> Iterator[Change]:
    for name in sorted(base.keys() | template.keys()):
        path = directory / name
        old, new = base.get(name), template.get(name)
        try:
            ours = path.read_text(encoding="utf-8") if path.is_file() else None
        except UnicodeDecodeError:
            if old == new:
                continue
            raise UserError(f"{path} is not UTF-8. Save it as UTF-8, then update again.") from None
        if ours is not None and has_conflicts(ours):
            raise UserError(
                f"{path} has conflicts from an earlier update. Resolve them between the <<<<<<< "
                "and >>>>>>> markers, then update again."
            )
        if old == new or ours == new:
            continue
        if new is None:
            if ours == old:
                yield Change(name, "remove", ours, None)
            elif ours is not None:
                yield Change(name, "keep", ours, ours, "edited, and no longer part of the template")
        elif ours is None:
            if old is None:
                yield Change(name, "add", None, new)
            else:
                yield Change(name, "keep", None, None, "deleted in the project")
        elif old is None:
            yield Change(name, "keep", ours, ours, "the template has a new file of this name")
        elif ours == old:
            yield Change(name, "update", ours, new)
        else:
            merged, is_clean = merge_texts(ours, old, new)
            yield Change(name, "merge" if is_clean else "conflict", ours, merged)


def _diff(change: Change) -> str:
    before, after = (
        (text or "").splitlines(keepends=True) for text in (change.before, change.after)
    )
    name = change.name
    return "".join(difflib.unified_diff(before, after, f"project/{name}", f"updated/{name}"))


def _record(directory: Path, template: dict[str, str]) -> None:
    """Write the template and the version as the base of the next update."""
    state = directory / _STATE
    new = state / "template.new"
    remove(new)
    try:
        for name, text in template.items():
            _write(new / name, text)
    except BaseException:
        remove(new)
        raise
    # The old copy stays complete until the new one is.
    move_into_place(new, state / "template")
    write_text(state / "version", f"{__version__}\n")


def _write(path: Path, text: str) -> None:
    make_dir(path.parent)
    write_text(path, text)


def _replace(path: Path, text: str) -> None:
    """Write over a file of the owner, through a link, with its line ends and permissions."""
    path = path.resolve()
    exists = path.is_file()
    if exists and b"\r\n" in path.read_bytes():
        text = text.replace("\n", "\r\n")
    mode = path.stat().st_mode if exists else None
    _write(path, text)
    if mode is not None:
        path.chmod(mode)
