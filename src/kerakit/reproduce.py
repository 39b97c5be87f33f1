"""``kerakit reproduce``: train a run again from its own record, and compare."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kerakit.address import as_url
from kerakit.config import PROVENANCE, UNRECORDED
from kerakit.errors import JobError, UserError, list_names, printable
from kerakit.files import damaged, read_json
from kerakit.run import Run
from kerakit.weights import check_hdf5

_OWN_FLAGS = (*UNRECORDED, "data_dir")
"""Flags that a record does not have: they do not change the weights, or are passed here."""


def find_project(run: Path, required: tuple[str, ...]) -> Path:
    """Return the project of a run: the current folder, or one above the run.

    Args:
        run: the run folder.
        required: files that a project has.

    Raises:
        UserError: there is no such run, or no project.
    """
    if not run.is_dir():
        raise UserError(
            f"there is no folder {run}. Expected a run folder: the --save_to of train.py."
        )
    for project in (Path.cwd(), *run.resolve().parents):
        if all((project / name).is_file() for name in required):
            return project
    raise UserError(
        f"{run} is a run, but its project was not found: there is no {required[0]} in this folder "
        "or above the run."
    )


def reproduce(run_path: Path, save_to: Path, data_dir: Path | None = None) -> None:
    """Train a run again in a process of its own, and print what differs.

    Args:
        run_path: the run.
        save_to: a new run folder.
        data_dir: where the dataset is now; default: where it was.

    Raises:
        UserError: no record of the run, or a damaged one; no project.
        JobError: the training failed, or its result differs.
    """
    run = Run.open(run_path)
    run.best()
    command = [*_recorded_flags(run), f"--save_to={save_to}"]
    project = find_project(run.path, ("train.py", "config.py", "models/__init__.py"))
    recorded = str(read_json(run.config, dict).get("data_dir"))
    data = data_dir or (Path(recorded) if as_url(recorded) else project / recorded)
    Run(save_to).check_new(overwrite=False)
    data_flag = f"--data_dir={as_url(data) or data.absolute()}"
    code = _call([sys.executable, str(project / "train.py"), *command, data_flag], Run(save_to))
    if code:
        raise JobError(f"the training of {save_to} ended with exit code {code}; see above.")
    again = Run.open(save_to)
    differences = list(compare_results(run, again))
    if not differences:
        print(f"equal to the bit: history.csv and the best checkpoint of {run.path} and {save_to}")
        return
    for line in differences:
        print(f"differs: {line}")
    causes = list(compare_records(run, again))
    for line in causes:
        print(f"possible cause: {line}")
    known = "see the possible causes" if causes else "versions, code, data and machine are the same"
    raise JobError(f"{save_to} differs from {run.path}; {known}.")


def _call(command: list[str], run: Run) -> int:
    """Run a training; after a signal, end it, and remove its run: the command can be repeated."""
    process = subprocess.Popen(command)  # noqa: S603 - the user's own script, without a shell
    try:
        return process.wait()
    except BaseException:
        process.terminate()  # it may have received Ctrl-C, too
        process.wait()
        if run.is_ours():
            run.remove()
        raise


def _recorded_flags(run: Run) -> list[str]:
    """Return the flags of a run. Raises UserError for a record that anyone may have written."""
    record = read_json(run.config, dict).get(PROVENANCE)
    if record is None:
        raise UserError(
            f"{run.path} was trained by an earlier version of Kerakit, which did not record its "
            "flags. Train it again."
        )
    flags = record.get("flags") if isinstance(record, dict) else None
    if not isinstance(flags, list):
        raise damaged(run.config, f"{PROVENANCE}: expected a list of flags")
    for flag in flags:
        found = isinstance(flag, str) and re.match(r"--(?:no_)?([a-z][a-z_]*)(=|$)", flag)
        if not found or found[1] in _OWN_FLAGS or "\0" in flag:
            raise damaged(run.config, f"{PROVENANCE}: unexpected flag {flag!r}")
    return flags


def compare_results(one: Run, other: Run) -> Iterator[str]:
    """Yield what differs between history and best weights of two runs."""
    rows, other_rows = one.read_history(), other.read_history()
    if len(rows) != len(other_rows):
        yield f"history.csv: {len(rows)} and {len(other_rows)} epochs"
    for row, other_row in zip(rows, other_rows, strict=False):
        names = [name for name in row if row[name] != other_row.get(name)]
        if names:
            values = f"{row[names[0]]:.6g} and {other_row.get(names[0], float('nan')):.6g}"
            yield (
                f"history.csv: from epoch {row['epoch']:.0f} on {list_names(names)} "
                f"({names[0]}: {values})"
            )
            break
    best, other_best = one.list_checkpoints()[0], other.list_checkpoints()[0]
    if best.epoch != other_best.epoch:
        yield f"best checkpoint: of epoch {best.epoch} and {other_best.epoch}"
        return
    count, differing, largest = _compare_weights(one.best(), other.best())
    if differing:
        yield (
            f"weights of epoch {best.epoch}: {differing} of {count} arrays, by at most "
            f"{largest:.3g}"
        )


def _compare_weights(one: Path, other: Path) -> tuple[int, int, float]:
    """Return the number of arrays, of differing ones, and the largest difference."""
    import h5py
    import numpy as np

    def read(path: Path) -> dict[str, Any]:
        arrays = {}
        check_hdf5(path)
        with h5py.File(path, "r") as file:

            def add(name: str, item: Any) -> None:
                if isinstance(item, h5py.Dataset):
                    arrays[name] = np.asarray(item)

            file.visititems(add)
        return arrays

    arrays, others = read(one), read(other)
    differing, largest = 0, 0.0
    for name in arrays.keys() | others.keys():
        here, there = arrays.get(name), others.get(name)
        if here is None or there is None or here.shape != there.shape or here.dtype != there.dtype:
            differing, largest = differing + 1, float("inf")
        elif here.tobytes() != there.tobytes():
            differing += 1
            if here.dtype.kind == "f" and here.size:
                gap = np.abs(here.astype(np.float64) - there.astype(np.float64))
                largest = max(largest, float(np.nanmax(gap)))
    return len(arrays), differing, largest


def compare_records(one: Run, other: Run) -> Iterator[str]:
    """Yield what differs between the records of two runs: versions, code, data, machine."""
    values = [_flatten(_record(read_json(run.config, dict))) for run in (one, other)]
    for name in sorted(values[0].keys() | values[1].keys()):
        here, there = values[0].get(name), values[1].get(name)
        if here != there:
            yield printable(f"{name} was {here}, is {there}")


def _record(config: dict[str, Any]) -> dict[str, Any]:
    record, split = config.get(PROVENANCE), config.get("split")
    recipe = split.get("recipe") if isinstance(split, dict) else None
    recipe = recipe if isinstance(recipe, dict) else {}
    data = {name: recipe.get(name) for name in ("train_ratio", "seed", "fingerprint", "content")}
    return {**(record if isinstance(record, dict) else {}), "data": data}


def _flatten(value: Any, name: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and len(name) < 100:
        parts = [_flatten(each, f"{name} {key}".strip()) for key, each in value.items()]
        return {key: each for part in parts for key, each in part.items()}
    if isinstance(value, list):
        flags = [str(flag).partition("=") for flag in value]
        return {f"{name} {flag}".strip(): text for flag, _, text in flags}
    return {name: value}
