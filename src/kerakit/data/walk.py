"""Images below a folder: decided by file extension, or by content; links and system folders."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from kerakit.data.decode import IMAGE_EXTENSIONS, detect_extension
from kerakit.descriptors import NO_BLOCK, open_file
from kerakit.errors import UserError, list_names

_SYSTEM_NAMES = frozenset(
    {
        *("__macosx", "__pycache__", "icon\r"),  # macOS, Python
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin"),  # Windows
        *("system volume information", "lost+found", "found.000"),  # file systems
        *("@eadir", "#recycle", "@recycle", "#snapshot", "@recently-snapshot", "@tmp"),  # NAS
    }
)
"""Names, in lower case, of files and folders that systems put beside those of a user."""

_SYSTEM_ROOTS = ("/proc", "/sys", "/dev")

_ANNOTATION_EXTENSIONS = frozenset({".txt", ".xml", ".json", ".csv", ".npy"})
"""Files that datasets have by the thousand, one per image: these are not opened."""

_SIGNATURE_SIZE = 32


@dataclass
class WalkReport:
    """Files and folders that are not used, and links, with paths relative to ``base``.

    Attributes:
        base: data folder.
        others: files that are not images of a supported format.
        unreadable: folders that cannot be read, with the reason.
        outside: links to folders and files outside ``base``; they are followed.
        unfollowed: links to system folders, or to a folder that contains the link.

    >>> report = WalkReport(Path("photos"), unreadable=["cat/old (Permission denied)"])
    >>> report.warnings()
    ['unreadable folders, whose images are omitted: 1 (cat/old (Permission denied)).']
    """

    base: Path
    others: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    unfollowed: list[str] = field(default_factory=list)

    def warnings(self) -> list[str]:
        """Return one line per kind, with the number of paths and examples."""
        kinds = {
            "unreadable folders, whose images are omitted": self.unreadable,
            "links that are not followed (to system folders, or to a folder that contains them)": (
                self.unfollowed
            ),
            f"links that leave {self.base}": self.outside,
            "files that are not images of a supported format, ignored": self.others,
        }
        return [f"{kind}: {len(of):,} ({list_names(of)})." for kind, of in kinds.items() if of]


def list_images(folder: Path, report: WalkReport | None = None) -> list[str]:
    """Return the relative paths of the images below ``folder``, sorted.

    Hidden and system folders are skipped. Links are followed, except those into ``/proc``,
    ``/sys`` and ``/dev``, and those that lead back; each folder is listed once.

    Args:
        folder: an existing folder.
        report: receives what is not used. Its ``base`` contains ``folder``.
    """
    report = report or WalkReport(folder)
    base, root = os.path.realpath(report.base), os.path.realpath(folder)
    if folder.is_symlink() and not _is_below(root, base):
        report.outside.append(os.path.relpath(folder, report.base))
    found: list[str] = []
    visited = {root}
    stack = [("", root)]
    while stack:
        prefix, real = stack.pop()
        parent = folder / prefix
        relative = os.path.join(os.path.relpath(parent, report.base), "").removeprefix("./")
        try:
            entries = _scan(parent)
        except OSError as error:
            report.unreadable.append(f"{relative.rstrip('/') or '.'} ({error.strerror})")
            continue
        for entry in entries:
            target = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if _is_dir(entry):
                child = target or f"{real.rstrip('/')}/{entry.name}"
                if _is_trap(child, target, real):
                    report.unfollowed.append(relative + entry.name)
                # A folder below this one is listed under its own path.
                elif child not in visited and not (target and _is_below(target, root)):
                    visited.add(child)
                    stack.append((f"{prefix}{entry.name}/", child))
                    if target and not _is_below(target, base):
                        report.outside.append(relative + entry.name)
            elif target.startswith(("/proc/", "/sys/")):
                report.unfollowed.append(relative + entry.name)
            elif _is_image(entry):
                found.append(prefix + entry.name)
                if target and not _is_below(target, base):
                    report.outside.append(relative + entry.name)
            else:
                report.others.append(relative + entry.name)
    return sorted(found)


def list_folders(folder: Path, report: WalkReport | None = None) -> list[str]:
    """Return the names of the folders in ``folder``, sorted, as ``list_images`` follows them.

    Raises:
        UserError: a folder that cannot be read, or of the system.
    """
    report = report or WalkReport(folder)
    real = os.path.realpath(folder)
    if is_system_folder(real):
        raise UserError(f"{folder} is a folder of the system. Expected a folder of images.")
    try:
        entries = [entry for entry in _scan(folder) if _is_dir(entry)]
    except OSError as error:
        raise UserError(f"cannot read the folder {folder}: {error.strerror}.") from None
    names = []
    for entry in entries:
        target = os.path.realpath(entry.path) if entry.is_symlink() else ""
        if _is_trap(target or entry.path, target, real):
            report.unfollowed.append(os.path.relpath(entry.path, report.base))
        else:
            names.append(entry.name)
    return names


def list_loose_images(folder: Path) -> list[str]:
    """Return the names of the images in ``folder`` itself, sorted."""
    return [entry.name for entry in _scan(folder) if not _is_dir(entry) and _is_image(entry)]


def is_hidden(name: str) -> bool:
    """Whether a file or folder is hidden, or made by an archiver, a system or a NAS."""
    return name.startswith(".") or name.lower() in _SYSTEM_NAMES


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder that belong to the user, sorted by name."""
    with os.scandir(folder) as scan:
        return sorted(
            (entry for entry in scan if not is_hidden(entry.name)), key=lambda entry: entry.name
        )


def _is_dir(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one; False for links that lead nowhere."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_trap(child: str, target: str, parent: str) -> bool:
    """Whether a folder is of the system, or a link to a folder that contains the link."""
    return is_system_folder(child) or bool(target and _is_below(parent, target))


def is_system_folder(real: str) -> bool:
    """Whether a resolved path is in ``/proc``, ``/sys`` or ``/dev``, except ``/dev/shm``."""
    return any(_is_below(real, root) for root in _SYSTEM_ROOTS) and not _is_below(real, "/dev/shm")  # noqa: S108


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def _is_image(entry: os.DirEntry[str]) -> bool:
    extension = os.path.splitext(entry.name)[1].lower()
    if extension in IMAGE_EXTENSIONS:
        return True
    if extension in _ANNOTATION_EXTENSIONS:
        return False
    try:
        # O_NONBLOCK: opening a named pipe would wait for a writer forever.
        handle = open_file(entry.path, os.O_RDONLY | NO_BLOCK)
        with open(handle, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                return False
            start = file.read(_SIGNATURE_SIZE)
    except OSError:
        return False
    found = detect_extension(start)
    # A text may begin with "BM", but has no zeros.
    return bool(found) and (found != ".bmp" or start[6:10] == bytes(4))
