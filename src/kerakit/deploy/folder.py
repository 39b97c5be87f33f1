"""The folder of an export: it has one writer, and changes from one whole export to another."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Self

from kerakit import __version__
from kerakit.deploy import bundle, frigate
from kerakit.deploy.formats.base import LABELS, TASK
from kerakit.deploy.formats.table import FORMATS
from kerakit.device.preprocessing import FILE as PREPROCESSING
from kerakit.errors import UserError
from kerakit.files import (
    OutputFolder,
    existing_files,
    move_into_place,
    read_json,
    remove,
    remove_temporary_files,
    sha256,
    size_bytes,
    sync_dir,
    sync_file,
    write_json,
)
from kerakit.locks import check_unlocked, is_locked_here, lock_folder, locked
from kerakit.signals import shielded

LOGS = ("model_edgetpu.log",)
"""Files that formats write beside their own."""

_TEMPORARY = ".kerakit-"
"""Prefix of the folder in which an export is made."""

_INCOMPLETE = "incomplete"
"""Status in report.json while files of an export are moved into place."""


class ExportFolder(OutputFolder):
    """Folder of exported files.

    An export is made in a folder within it, and moved into place at the end. While files are moved,
    report.json says so: whatever ends the process, ``complete`` moves the others.

    Args:
        path: the folder; it need not exist.
        compiled: the file of --edgetpu_compiled. Where edgetpu_compiler wrote it into this folder,
            as it does, the file and its log may be replaced.

    Attributes:
        report: path of report.json.
        page: path of report.html.
        card: path of README.md, the model card.

    >>> ExportFolder("deploy/test").report.as_posix()
    'deploy/test/report.json'
    """

    kind = "model export"

    def __init__(self, path: Path | str, compiled: Path | None = None) -> None:
        super().__init__(path)
        self._compiled = compiled
        self.report = self.path / "report.json"
        self.page = self.path / "report.html"
        self.card = self.path / "README.md"
        self._device = self.path / bundle.FOLDER

    def owned(self) -> list[Path]:
        """Return the paths of everything that an export may write."""
        names = [one.file for one in FORMATS.values()] + [*LOGS, LABELS, TASK, PREPROCESSING]
        names += [frigate.FOLDER, *(f"{bundle.FOLDER}/{name}" for name in bundle.FILES)]
        return [*(self.path / name for name in names), self.card, self.page, self.report]

    def recorded(self) -> list[Path]:
        """Return the paths that report.json of an earlier export lists, and the compiled file."""
        return [*self._recorded(), *self._given()]

    def _given(self) -> list[Path]:
        path = self.path / FORMATS["edgetpu"].file
        if self._compiled is None or not path.is_file() or not self._compiled.is_file():
            return []
        is_same = path.read_bytes() == self._compiled.read_bytes()  # itself, or a copy of it
        return [path, *(self.path / name for name in LOGS)] if is_same else []

    def _read_record(self) -> dict[str, Any]:
        """Return report.json, if it is one of ours."""
        try:
            report: dict[str, Any] = read_json(self.report, dict)
        except (OSError, UserError):
            return {}
        versions = report.get("versions")
        return report if isinstance(versions, dict) and "kerakit" in versions else {}

    def _recorded(self) -> list[Path]:
        report = self._read_record()
        files = report.get("files")
        if report and not isinstance(files, list):
            # An export of 0.1.0 lists its formats alone.
            fixed = (LABELS, self.page.name, self.report.name, bundle.FOLDER, *LOGS)
            files = [*fixed, *(one.get("file") for one in _exported(report))]
        return [self.path / name for name in files or () if isinstance(name, str)]

    # ------------------------------------------------------------------------------------- writing

    def check_new(self, overwrite: bool) -> None:
        """Raise UserError if exporting here would replace files without ``overwrite``."""
        if self._device.exists() and not self._device.is_dir():
            raise UserError(
                f"{self._device} is a file; --save_to expects a folder without such a file."
            )
        check_unlocked(self.path)
        self.complete()
        super().check_new(overwrite)

    def create(self, overwrite: bool = False) -> Self:
        """Create the folder and lock it until this process ends.

        Raises:
            UserError: it holds an export and ``overwrite`` is false, or files of others, or another
                process writes to it.
        """
        self.check_new(overwrite)
        lock_folder(self.path)
        self.check_new(overwrite)  # another process may have written meanwhile
        return self

    @contextlib.contextmanager
    def write(self) -> Iterator[Path]:
        """Lock the folder and yield a temporary folder on its disk; temporary files are removed."""
        self.check_new(overwrite=True)
        with locked(self.path):
            self.check_new(overwrite=True)
            for path in self.path.glob(f"{_TEMPORARY}*"):  # of killed processes
                remove(path)
            remove_temporary_files([self.report])
            temporary = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=self.path))
            try:
                yield temporary
            finally:
                if self._unfinished() != temporary:
                    remove(temporary)

    def take_over(self, finished: Path) -> None:
        """Move a finished export here, the report last; remove the files of an earlier one.

        Ctrl-C waits until it is done.

        Args:
            finished: a folder on the same disk.
        """
        with shielded():
            new = self.list_files(finished)
            made = finished / bundle.FOLDER
            if made.is_dir() and self._device.is_dir():
                _copy_files_of_user(self._device, made)
            for path in existing_files(finished):
                if not path.is_symlink():
                    with path.open("rb") as file:
                        sync_file(file.fileno())
            record = {
                "status": _INCOMPLETE,
                "from": finished.name,
                "versions": {"kerakit": __version__},
                "files": sorted({*self.list_files(self.path), *new}),
                "new": new,
            }
            write_json(self.report, record)
            self._move(finished, new)

    @contextlib.contextmanager
    def adding(self, path: Path) -> Iterator[None]:
        """Lock the folder while a file is added to a finished export; report.json lists it.

        Args:
            path: one of ``owned``; it may exist.
        """
        self.complete()
        with locked(self.path):
            record = self._read_record()
            if record and path not in self._recorded():
                # Before the file: one that is not listed would be taken for the user's.
                names = [
                    one.relative_to(self.path).as_posix()
                    for one in self._recorded()
                    if one.is_relative_to(self.path)
                ]
                record["files"] = sorted({*names, path.name})
                write_json(self.report, record)
            yield
            for one in _exported(record):
                if one.get("file") == path.name:
                    one |= {"sha256": sha256(path), "size_bytes": size_bytes(path)}
                    write_json(self.report, record)

    def complete(self) -> None:
        """Complete an export that was killed while its files were moved into place.

        Raises:
            UserError: that is impossible, so that files of two exports are here.
        """
        if self._read_record().get("status") != _INCOMPLETE or is_locked_here(self.path):
            return
        finished = None
        with contextlib.suppress(OSError), locked(self.path):
            record, finished = self._read_record(), self._unfinished()
            if finished is not None:
                with shielded():
                    self._move(finished, [name for name in record["new"] if isinstance(name, str)])
        if self._read_record().get("status") == _INCOMPLETE and finished is not None:
            raise UserError(
                f"{self.path} is incomplete: deploy.py was ended while it moved its files into "
                "place, and they cannot be moved now. Allow writing to the folder, or export again."
            )

    def _unfinished(self) -> Path | None:
        """Return the folder from which files are being moved here."""
        record = self._read_record()
        name = record.get("from")
        if record.get("status") != _INCOMPLETE or not isinstance(record.get("new"), list):
            return None
        if not isinstance(name, str) or not re.fullmatch(rf"{re.escape(_TEMPORARY)}\w+", name):
            return None
        path = self.path / name
        return path if path.is_dir() and not path.is_symlink() else None

    def _move(self, finished: Path, new: list[str]) -> None:
        """Move the files of an export here, some of which may have been moved before."""
        made = finished / bundle.FOLDER
        is_bundled = _holds(bundle.FOLDER, new)
        if made.is_dir():
            # As a whole: a program on a device reads a bundle without its report.
            with contextlib.suppress(FileNotFoundError):
                self._device.replace(finished / ".old")
            made.replace(self._device)
        for path in self.owned():
            relative = path.relative_to(self.path)
            if path.parent == self._device and is_bundled:
                continue
            if (finished / relative).exists():
                move_into_place(finished / relative, path)
            elif not _holds(relative.as_posix(), new) and path != self.report:
                remove(path)
        sync_dir(self.path)
        # It stays if it holds files of the user.
        with contextlib.suppress(OSError):
            self._device.rmdir()
        if finished.parent == self.path:
            remove(finished)

    def list_files(self, folder: Path) -> list[str]:
        """Return the relative paths of all files of an export in ``folder``, which is like this."""
        paths = [folder / path.relative_to(self.path) for path in self.owned()]
        return sorted(
            file.relative_to(folder).as_posix() for path in paths for file in existing_files(path)
        )

    # ------------------------------------------------------------------------------------- reading

    def exported_files(self) -> list[str]:
        """Return the relative paths of the files of the export here, [] without one.

        Raises:
            UserError: it is incomplete, or a file of it is missing.
        """
        self.complete()
        record = self._read_record()
        self._check_whole(record)
        files = record.get("files")
        listed = files if isinstance(files, list) else []
        names = sorted({name for name in listed if isinstance(name, str) and self.owns(name)})
        for name in names:
            path = self.path / name
            if not path.is_file() or not path.resolve().is_relative_to(self.path.resolve()):
                raise UserError(
                    f"{path}, a file of the export, is missing. Run deploy.py again with "
                    "--overwrite."
                )
        return names

    def owns(self, name: str) -> bool:
        """Whether an export may write a file, by its relative path."""
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts:
            return False
        owned = {one.relative_to(self.path).as_posix() for one in self.owned()}
        return any(str(part) in owned for part in (path, *path.parents))

    def _check_whole(self, record: Mapping[str, Any]) -> None:
        if record.get("status") == _INCOMPLETE:
            raise UserError(
                f"{self.path} is incomplete: its files are of two exports. Run deploy.py again "
                "with --overwrite."
            )

    def check_file(self, file: Path) -> None:
        """Raise UserError unless a file here is the one that report.json lists, if there is one.

        Labels belong to a model: a model of one export with the labels of another would predict
        other classes.
        """
        self.complete()
        record = self._read_record()
        self._check_whole(record)
        for one in _exported(record):
            if one.get("file") == file.name and one.get("sha256") != sha256(file):
                raise UserError(
                    f"{file} is not the file of {self.report}: its SHA-256 differs. Run deploy.py "
                    "again with --overwrite, or copy a model of your own to another folder, with a "
                    f"{LABELS}."
                )


def _exported(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of exported formats in report.json, which may be damaged."""
    formats = record.get("formats")
    entries = formats if isinstance(formats, list) else []
    return [one for one in entries if isinstance(one, dict) and one.get("status") == "exported"]


def _holds(path: str, files: list[str]) -> bool:
    """Whether ``path`` is one of ``files``, or a folder with some of them."""
    return any(file == path or file.startswith(f"{path}/") for file in files)


def _copy_files_of_user(old: Path, new: Path) -> None:
    """Copy what an export does not write from one bundle to another; links stay links."""
    for path in old.iterdir():
        if path.name in bundle.FILES or path.name == "__pycache__":
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)
