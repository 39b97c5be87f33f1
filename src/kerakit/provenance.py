"""Record of a run: versions, machine, and the state of the project's code."""

from __future__ import annotations

import hashlib
import platform
import re
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

from kerakit import __version__
from kerakit.errors import JobError
from kerakit.extras import BACKENDS
from kerakit.machine import available_cores, cpu_name, package_version
from kerakit.programs import run_program

_GIT_TIMEOUT_S = 10


def describe_versions() -> dict[str, str | None]:
    """Return the versions of Python, Kerakit, Keras, NumPy and the backend, and its name.

    >>> describe_versions()["kerakit"] == __version__
    True
    """
    keras = sys.modules.get("keras")
    backend = keras.backend.backend() if keras is not None else None
    versions: dict[str, str | None] = {
        "python": platform.python_version(),
        "kerakit": __version__,
        **{name: package_version(name) for name in ("keras", "numpy")},
        "backend": backend,
    }
    if backend in BACKENDS:  # as imported: the package may be tensorflow-cpu
        versions[backend] = getattr(sys.modules.get(backend), "__version__", None)
    return versions


@cache
def describe_code(project: Path) -> dict[str, Any]:
    """Return the state of a project's code when this process first asked for it.

    Args:
        project: its folder.

    Returns:
        ``sha256`` of the Python files of the project and of models/; ``commit``, that of its git
        repository, and ``clean``, whether no file in the project differs from it; None without git.
    """
    digest = hashlib.sha256()
    for pattern in ("*.py", "models/*.py"):
        for path in sorted(project.glob(pattern)):
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
            digest.update(f"{path.relative_to(project).as_posix()} {content}\n".encode())
    commit = _git(project, "rev-parse", "HEAD")
    changes = None if commit is None else _git(project, "status", "--porcelain", "--", ".")
    is_commit = commit is not None and re.fullmatch("[0-9a-f]{40,64}", commit)
    return {
        "sha256": digest.hexdigest(),
        "commit": commit if is_commit else None,
        "clean": changes == "" if is_commit and changes is not None else None,
    }


def _git(project: Path, *words: str) -> str | None:
    """Return the output of a git command that changes nothing; None if it failed."""
    program = shutil.which("git")
    if program is None:
        return None
    # Without a program that the repository's own settings name, and without writing its index.
    options = ("--no-optional-locks", "-c", "core.fsmonitor=false", "-C", str(project))
    try:
        code, output = run_program([program, *options, *words], _GIT_TIMEOUT_S, "git")
    except JobError:
        return None
    return output.strip() if code == 0 else None


def describe_machine_briefly() -> dict[str, Any]:
    """Return system, processor and number of cores."""
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": available_cores(),
    }


def describe(project: Path | None, flags: list[str]) -> dict[str, Any]:
    """Return the record of a run in config.json.

    Args:
        project: folder of the project; None outside of projects.
        flags: its flags, with the defaults.
    """
    return {
        "versions": describe_versions(),
        "machine": describe_machine_briefly(),
        "code": describe_code(project) if project else None,
        "flags": flags,
    }
