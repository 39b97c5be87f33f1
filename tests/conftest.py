"""Fixtures of several tests: folders of small images, projects, a run, an exported model."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

from digits import Exported, export_digits, train
from fork_server import ForkServer
from projects import (
    TINY,
    Project,
    copy_project,
    new_project,
    template_modules,
    write_photos,
)

# TensorFlow reads it when it is first imported, in whichever test that is.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Started in the background by a shell, tests and the processes that they start ignore Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Files are synced for power cuts, which no test causes; on a busy disk it takes most of the time.
os.fsync = lambda fd: None  # noqa: ARG005 - its signature

# A busy machine does not violate a property.
settings.register_profile("kerakit", deadline=None)
settings.load_profile("kerakit")


LONGEST = (
    *("training/test_resume.py", "training/test_features.py", "training/test_feature_faults.py"),
    *("test_task_projects.py", "deploy/test_every_model.py", "training/test_search.py"),
    *("training/test_keras_callbacks.py", "test_main_job.py", "test_processes.py"),
    *("test_second_project.py", "test_bad_input.py", "test_startup.py", "models/test_build.py"),
    *("test_platforms.py", "training/test_label_errors.py"),
)
"""Files that take more than ten seconds; started last, one would run alone at the end."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    ranks = {Path(__file__).parent / name: rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))


def pytest_collection_finish() -> None:
    """Exempt what is imported by now from garbage collections; Keras starts one per training."""
    gc.freeze()


@pytest.fixture(scope="session")
def photos_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two classes of 30 images each. Read-only."""
    return write_photos(tmp_path_factory.mktemp("data") / "photos")


@pytest.fixture
def photos(photos_once: Path, tmp_path: Path) -> Path:
    """A folder with two classes of 30 images each."""
    return Path(shutil.copytree(photos_once, tmp_path / "photos"))


@pytest.fixture(scope="session")
def project_once(tmp_path_factory: pytest.TempPathFactory, photos_once: Path) -> Project:
    """A new project. Read-only: see ``project``."""
    return new_project(tmp_path_factory.mktemp("projects") / "project", photos_once)


@pytest.fixture
def project(project_once: Project, tmp_path: Path, photos: Path) -> Project:
    """A new project with ``photos`` as its data, and the model "tiny"."""
    project = copy_project(project_once.path, tmp_path / "project", photos)
    (project.path / "models" / "tiny.py").write_text(TINY)
    return project


@pytest.fixture(scope="session")
def trained_once(
    project_once: Project, tmp_path_factory: pytest.TempPathFactory, photos_once: Path
) -> Path:
    """A project with one short run in progress/test. Read-only: see ``trained``."""
    project = copy_project(
        project_once.path, tmp_path_factory.mktemp("trained") / "project", photos_once
    )
    result = project.train("--jitter", "--num_epochs", 4, "--batch_size", 4)
    assert result.code == 0, result.err
    return project.path


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Project:
    """A copy of a project with one short run in progress/test."""
    shutil.copytree(trained_once, tmp_path / "trained")
    return Project(tmp_path / "trained")


@pytest.fixture(scope="module")
def template() -> Iterator[Callable[[str], ModuleType]]:
    """Imports a module of the template by its name, in this process."""
    with template_modules() as load:
        yield load


@pytest.fixture(scope="session")
def exported_digits(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A classifier of digits, exported to int8. Read-only, or copy its folder."""
    return export_digits(train(), tmp_path_factory.mktemp("digits") / "deploy")


@pytest.fixture(scope="session")
def server() -> Iterator[ForkServer]:
    """A process that has imported TensorFlow, and forks one per script."""
    server = ForkServer()
    yield server
    server.close()


@pytest.fixture
def executable(tmp_path: Path) -> Callable[[str], Path]:
    """A factory of Python scripts that are executable files."""

    def make(source: str) -> Path:
        path = tmp_path / "program"
        path.write_text(f"#!{sys.executable}\n{source}", encoding="utf-8")
        path.chmod(0o755)
        return path

    return make
