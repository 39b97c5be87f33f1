"""Identity of the code that makes pixels and targets, for the keys of caches."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import secrets
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any

import kerakit
from kerakit.data.decode import DECODER_VERSION

_DECODERS = ("cv2", "simplejpeg", "PIL")
_LIBRARIES = (*_DECODERS, "numpy", "albumentations")
"""Import names of the libraries whose version may change pixels.

Only of those that are imported before the first batch: a key must not depend on what was done.
"""


_FILE_NAME = re.compile(rb"""["']([^"'\s{}]{1,200}\.[A-Za-z]\w{0,9})["']""")
"""A string in source code that may be the name of a data file."""

_MAX_NAMED_BYTES = 2**24
"""Larger data files count by size and time of modification."""

_GENERATED = re.compile(r"__autograph_generated_file")


def decoder_identity() -> str:
    """Return 16 hexadecimal digits of the code that decodes images and resizes them."""
    return _short((kerakit.__version__, DECODER_VERSION, _versions(_DECODERS)))


def code_identity(parts: Iterable[object], pipeline: Any = None) -> bytes:
    """Return 32 bytes that identify the code behind samples.

    These are the versions of Kerakit and of the libraries, the source files of all modules that are
    imported from ``sys.path`` and not installed, the data files that these name, such as
    ``"lookup.json"``, in their folder, its subfolders, or the current one, and the augmentation.
    ``__main__`` counts only if one of ``parts`` is defined there: an edit of the optimizer in
    train.py changes nothing.

    Args:
        parts: functions and objects whose classes may be defined by the owner of the project.
        pipeline: an ``albumentations.Compose``.
    """
    identity = hashlib.sha256(repr((kerakit.__version__, DECODER_VERSION)).encode())
    identity.update(repr(_versions(_LIBRARIES)).encode())
    if pipeline is not None:
        identity.update(_serialize(pipeline))
    homes = {home for part in parts for home in _home_modules(part)}
    entries = frozenset(map(os.path.abspath, sys.path))
    for name, module in sorted(sys.modules.items()):
        if name == "__main__" and name not in homes:
            continue
        path = _source_path(module, entries)
        if path is not None:
            source = _read(path)
            identity.update(name.encode() + b"\0" + source)
            for file in _named_files(source, path.parent):
                identity.update(str(file).encode("utf-8", "surrogateescape") + _read_data(file))
        elif name == "__main__":
            # Code of a notebook has no file: what it makes is not reused.
            identity.update(secrets.token_bytes(16))
    return identity.digest()


def _short(value: object) -> str:
    return hashlib.blake2b(repr(value).encode(), digest_size=8).hexdigest()


def _versions(names: Iterable[str]) -> list[tuple[str, str]]:
    """Return the versions of the modules that are imported."""
    found = ((name, getattr(sys.modules.get(name), "__version__", "")) for name in names)
    return [(name, str(version)) for name, version in found]


def _serialize(pipeline: Any) -> bytes:
    """Return the classes and parameters of a pipeline; of unknown objects, their ``repr``."""
    try:
        return json.dumps(pipeline.to_dict(), sort_keys=True, default=repr).encode()
    except Exception:  # transforms of the owner may lack what this needs; their modules count
        return repr(pipeline).encode()


def _home_modules(part: object) -> Iterator[str]:
    """Yield the names of the modules that define a function, or the classes of an object."""
    while isinstance(part, partial):
        part = part.func
    owners = (part,) if inspect.isroutine(part) else type(part).__mro__
    for owner in owners:
        yield getattr(owner, "__module__", None) or ""


def _source_path(module: ModuleType | None, entries: frozenset[str]) -> Path | None:
    """Return the file of a module; None if it is installed, or has no file.

    Args:
        module: an imported module.
        entries: the absolute paths of ``sys.path``.
    """
    file = getattr(module, "__file__", None)
    if not isinstance(file, str):
        return None
    return _own_file(file if os.path.isabs(file) else os.path.abspath(file), entries)


@cache
def _own_file(file: str, entries: frozenset[str]) -> Path | None:
    """Return the file of a module, unless it is installed or generated."""
    # A cache, because thousands of modules of TensorFlow are imported.
    folder, name = os.path.split(os.path.normpath(file))
    # Generated modules, such as those of TensorFlow's AutoGraph, are not on the import path.
    is_own = _is_own(folder, entries) and not _GENERATED.match(name)
    return Path(folder, name) if is_own else None


@cache
def _is_own(folder: str, entries: frozenset[str]) -> bool:
    """Whether modules of a folder are imported from ``entries`` and not installed."""
    parents = {folder}
    while folder != (folder := os.path.dirname(folder)):
        parents.add(folder)
    return not entries.isdisjoint(parents) and _installed_dirs().isdisjoint(parents)


@cache
def _installed_dirs() -> frozenset[str]:
    """Return the folders of the standard library, of installed packages, and of Kerakit."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {Path(sysconfig.get_path(name)) for name in names}
    folders.update(map(Path, [*site.getsitepackages(), site.getusersitepackages()]))
    folders.add(Path(kerakit.__file__).parent)
    return frozenset(str(folder) for path in folders for folder in (path, path.resolve()))


def _named_files(source: bytes, folder: Path) -> list[Path]:
    """Return the data files that source code names by a string, sorted.

    Tables of images, such as check.csv, are left to the keys of the images themselves.
    """
    found: set[Path] = set()
    names = {os.fsdecode(name) for name in _FILE_NAME.findall(source)}
    folders = [folder, Path.cwd()]
    if names:
        folders += [Path(one.path) for one in os.scandir(folder) if one.is_dir()]
    for name in names:
        found.update(path for path in (one / name for one in folders) if path.is_file())
    return sorted(one for one in found if one.suffix not in (".py", ".csv", ".parquet"))


def _read_data(path: Path) -> bytes:
    facts = path.stat()
    if facts.st_size > _MAX_NAMED_BYTES:
        return repr((facts.st_size, facts.st_mtime_ns)).encode()
    return _read(path)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return secrets.token_bytes(16)  # what cannot be compared is not reused
