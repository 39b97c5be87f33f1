"""Saved states of a training: folders of arrays and values, each whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from kerakit.errors import UserError
from kerakit.files import check_disk_space, make_dir, read_json, sync_dir, sync_file

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_STATES = 2
"""Number of saved states: the newest, and the one before, should the newest be damaged."""

_NAME = r"\d{8}"
_TEMPORARY = r"\.[0-9a-f]{8}\.tmp"
_RESERVED = r"\.[0-9a-f]{8}\.reserved"
_ARRAYS, _VALUES, _MANIFEST = "arrays.npz", "values.json", "manifest.json"


@dataclass(frozen=True)
class SavedState:
    """A state that was read.

    Attributes:
        path: its folder.
        values: JSON values.
        arrays: arrays by name.
    """

    path: Path
    values: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


class StateFolder:
    """Saved states in one folder, numbered; the newest MAX_STATES remain.

    A state is a folder with arrays.npz (no objects), values.json and manifest.json, which has the
    SHA-256 of both. It is written beside the others, synced, and renamed.

    Args:
        path: the folder; it need not exist.

    >>> StateFolder(Path("progress/test/state")).find()
    []
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self) -> list[Path]:
        """Return the folders of the states, newest first."""
        return sorted(self._folders(_NAME), reverse=True)

    def save(self, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Path:
        """Write a state; return its folder.

        Raises:
            OSError: writing failed; the earlier states remain.
            JobError: the disk is full.
            ValueError: NaN in ``values``, or an array of objects.
        """
        import numpy as np

        make_dir(self.path)
        self._clear_temporary()
        check_disk_space(self.path, sum(array.nbytes for array in arrays.values()) + 2**16)
        states = self.find()
        number = int(states[0].name) + 1 if states else 1
        temporary = self.path / f".{secrets.token_hex(4)}.tmp"
        try:
            temporary.mkdir()
            content = json.dumps(values, allow_nan=False).encode()
            digests = {
                _ARRAYS: _write(
                    temporary / _ARRAYS, lambda file: np.savez(file, allow_pickle=False, **arrays)
                ),
                _VALUES: _write(temporary / _VALUES, lambda file: file.write(content)),
            }
            manifest = json.dumps(digests, indent=2).encode()
            _write(temporary / _MANIFEST, lambda file: file.write(manifest))
            sync_dir(temporary)
            final = self.path / f"{number:08d}"
            temporary.rename(final)
            sync_dir(self.path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        for old in self.find()[MAX_STATES:]:
            _remove(old)
        return final

    def load(self) -> SavedState | None:
        """Return the newest whole state; print damaged ones. None if there is none at all.

        Raises:
            UserError: all states are damaged.
        """
        states = self.find()
        for path in states:
            try:
                return _load(path)
            except (OSError, ValueError, KeyError, UserError) as error:
                print(f"WARNING: the saved state {path} is damaged: {error}", flush=True)
        if states:
            raise UserError(
                f"all saved states in {self.path} are damaged. Restore one from a backup, or start "
                "a new run from the best checkpoint: --from_ckpt."
            )
        return None

    def prune(self, count: int) -> None:
        """Remove all states but the newest ``count``."""
        for old in self.find()[count:]:
            _remove(old)
        self._clear_temporary()
        with contextlib.suppress(OSError):
            self.path.rmdir()

    def _folders(self, pattern: str) -> list[Path]:
        if self.path.is_symlink() or not self.path.is_dir():
            return []
        return [
            path
            for path in self.path.iterdir()
            if re.fullmatch(pattern, path.name) and path.is_dir() and not path.is_symlink()
        ]

    def _clear_temporary(self) -> None:
        """Remove what killed processes left."""
        for path in self._folders(_TEMPORARY):
            _remove(path)
        for path in self.path.glob(".*.reserved"):  # of check_disk_space
            if re.fullmatch(_RESERVED, path.name) and not path.is_dir():
                path.unlink(missing_ok=True)


class _Hashed:
    """A file that is written only, and hashes what it was given, not what the disk holds."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash = file, hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        self._file.write(data)
        return len(data)

    def read(self) -> bytes:  # NumPy recognizes a file by this method
        raise OSError("the file is written only")

    def flush(self) -> None:
        self._file.flush()

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


def _write(path: Path, write: Any) -> str:
    """Write and sync a file; return the SHA-256 of what was written."""
    with path.open("wb") as file:
        hashed = _Hashed(file)
        write(hashed)
        file.flush()
        sync_file(file.fileno())
    return hashed.hexdigest()


def _load(path: Path) -> SavedState:
    """Read a state. Raises ValueError and others if it is damaged."""
    import numpy as np

    digests = read_json(path / _MANIFEST, dict)
    for name in (_ARRAYS, _VALUES):
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise ValueError(f"{name} is missing")
        with file.open("rb") as content:
            if hashlib.file_digest(content, "sha256").hexdigest() != digests.get(name):
                raise ValueError(f"the SHA-256 of {name} differs")
    with np.load(path / _ARRAYS, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return SavedState(path, read_json(path / _VALUES, dict), arrays)


def _remove(path: Path) -> None:
    """Remove the folder of a state; its manifest first, without which it is damaged."""
    with contextlib.suppress(OSError):
        (path / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def encode(value: Any) -> Any:
    """Return ``value`` for JSON: numbers of NumPy become plain, NaN and infinity objects.

    Raises:
        TypeError: it is not made of numbers, text, None, lists and dictionaries.

    >>> encode({"best": float("inf")})
    {'best': {'float': 'inf'}}
    """
    if hasattr(value, "dtype") and hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, list | tuple):
        return [encode(each) for each in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {key: encode(each) for key, each in value.items()}
    raise TypeError(type(value).__name__)


def decode(value: Any) -> Any:
    """Return the value that ``encode`` was given, with lists for tuples.

    >>> decode({"best": {"float": "inf"}})
    {'best': inf}
    """
    if isinstance(value, list):
        return [decode(each) for each in value]
    if isinstance(value, dict):
        if value.keys() == {"float"} and isinstance(value["float"], str):
            return float(value["float"])
        return {key: decode(each) for key, each in value.items()}
    return value
