"""What Linux alone has is not needed; and Kerakit without TensorFlow, up to the export."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kerakit import descriptors
from no_linux import MISSING, MISSING_MODULES
from projects import HIDE_TENSORFLOW, PROJECT, Project

NO_LINUX = Path(__file__).parent / "support" / "no_linux.py"


def test_the_default_path_needs_nothing_of_linux_alone(project: Project) -> None:
    """New project, training with a cache, evaluation, export, prediction, check."""
    tiny = ("--model", "tiny", "--input_size", "16,12", "--num_epochs", "1", "--cache", "disk")
    commands = [
        ["kerakit", "new", "../fresh", "--data", "../photos"],
        ["train.py", "--save_to", "progress/test", *tiny],
        ["evaluate.py", "--read_from", "progress/test"],
        ["deploy.py", "--read_from", "progress/test", "--save_to", "deploy/t", "--formats", "int8"],
        ["kerakit", "predict", "deploy/t", "../photos/pear/00.png"],
        ["kerakit", "check", "../photos"],
    ]
    words = [word for command in commands for word in (*command, "then")][:-1]
    done = subprocess.run(
        [sys.executable, NO_LINUX, *words],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "no locks: nothing prevents a second process" in done.stderr
    assert (project.path.parent / "fresh" / "train.py").is_file()
    assert (project.path / "deploy/t/model.tflite").is_file()
    assert "path,label,confidence\n../photos/pear/00.png," in done.stdout
    assert "written to check.csv" in done.stdout


def test_no_linux_takes_names_away_from_kerakit_alone() -> None:
    source = """
import no_linux, os, signal, sys
no_linux.take_away()
assert os.getpid and hasattr(os, "fork")
sys.modules.pop("kerakit.locks", None)
from kerakit import locks, signals, descriptors
assert locks.fcntl is None and len(signals.TERMINATION) == 1 and descriptors.NO_FOLLOW == 0
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(NO_LINUX.parent), *sys.path])}
    subprocess.run([sys.executable, "-c", source], env=environment, check=True)


GUARDED = {
    "descriptors.py": {"pread", "preadv", "pwritev"},
    "files.py": {"posix_fallocate"},
    "locks.py": {"fcntl"},
    "machine.py": {"resource", "sched_getaffinity", "sysconf"},
    "programs.py": {"killpg", "set_blocking", "SIGKILL"},
    "tflite/worker.py": {"resource"},
}
"""Names that Windows or macOS lack, and the modules that do without them there."""


def test_what_linux_alone_has_is_used_where_its_absence_is_handled() -> None:
    package = PROJECT.parent
    used: dict[str, set[str]] = {}
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [node.attr] if node.attr in MISSING.get(node.value.id, ()) else []
            elif isinstance(node, ast.Import | ast.ImportFrom):
                modules = {one.name for one in node.names} | {getattr(node, "module", None)}
                names = [name for name in MISSING_MODULES if name in modules]
            if names:
                used.setdefault(path.relative_to(package).as_posix(), set()).update(names)
    assert used == GUARDED


def test_reading_and_writing_at_offsets_without_pread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight threads share one open file: none reads at the position of another."""
    for name in ("pread", "preadv", "pwritev"):
        monkeypatch.delattr(os, name)
    handle = descriptors.open_file(tmp_path / "a", os.O_RDWR | os.O_CREAT)
    assert descriptors.write_at(handle, [b"0123", memoryview(b"4567")], 0) == 8
    assert descriptors.write_at(handle, [b"ab"], 8) == 2
    found = []

    def read() -> None:
        for offset in range(10):
            into = bytearray(1), bytearray(2)
            count = descriptors.read_into(handle, [memoryview(one) for one in into], offset)
            found.append((offset, count, into[0] + into[1]))

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.close(handle)
    content = b"01234567ab"
    for offset, count, into in found:
        expected = content[offset : offset + 3]
        assert count == len(expected)
        assert into == expected.ljust(3, b"\0")


@pytest.fixture
def without_tensorflow(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine on which `pip install kerakit` installed no extra."""
    (tmp_path / "sitecustomize.py").write_text(HIDE_TENSORFLOW)
    paths = [str(tmp_path), *sys.path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.pop("KERAS_BACKEND", None)
    return environment


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-m", "kerakit", "new", "../fresh", "--data", "PHOTOS"], 0, "Created ../fresh"),
        (["-m", "kerakit", "check", "PHOTOS"], 0, "60 images in 2 classes"),
        (["train.py", "--help"], 0, "--num_epochs"),
        (["train.py", "--save_to", "progress/t"], 2, "pip install "),
        (["deploy.py", "--read_from", "progress/test", "--save_to", "d"], 2, "pip install "),
    ],
)
def test_commands_without_tensorflow(
    words: list[str],
    code: int,
    said: str,
    trained: Project,
    photos_once: Path,
    without_tensorflow: dict[str, str],
) -> None:
    done = subprocess.run(
        [sys.executable, *(word.replace("PHOTOS", str(photos_once)) for word in words)],
        cwd=trained.path,
        env=without_tensorflow,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert said in (done.stdout + done.stderr)
    assert "Traceback" not in done.stderr
