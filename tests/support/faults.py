"""File operations that fail, and limits on the size of files."""

from __future__ import annotations

import builtins
import contextlib
import io
import os
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

OPERATIONS = (
    *("open", "read", "write", "preadv", "pwritev", "stat", "lstat", "fstat", "scandir", "mkdir"),
    *("makedirs", "listdir", "unlink", "rmdir", "utime", "close", "replace"),
    *("io.open", "builtins.open", "shutil.disk_usage"),
)
"""Functions of ``os`` and of other modules."""


@contextlib.contextmanager
def failing(operation: str, folder: Path, code: int) -> Iterator[None]:
    """Let an operation raise the system's error ``code`` for paths and files in ``folder``."""
    home, _, name = operation.rpartition(".")
    module: Any = {"": os, "io": io, "builtins": builtins, "shutil": shutil}[home]
    function = getattr(module, name)
    setattr(module, name, _fail_in(folder, code, function))
    try:
        yield
    finally:
        setattr(module, name, function)


def _fail_in(folder: Path, code: int, function: Callable[..., Any]) -> Callable[..., Any]:
    def operation(target: Any = None, *args: Any, **options: Any) -> Any:
        path = target
        if isinstance(target, int):
            try:
                path = os.readlink(f"/proc/self/fd/{target}")
            except OSError:
                path = ""
        if str(path).startswith(str(folder)):
            raise OSError(code, os.strerror(code))
        return function(target, *args, **options)

    return operation


@contextlib.contextmanager
def file_size_limit(size: int) -> Iterator[None]:
    """Let writes beyond ``size`` bytes of a file fail in this process, as ``ulimit -f`` does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))  # Python ignores SIGXFSZ
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
