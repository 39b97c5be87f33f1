"""Locks: one process at a time writes to a folder.

The kernel holds the lock, so that a crash does not leave it behind; a file in the folder holds it
for the kernel, and names the process. On NFS it is valid for all hosts.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from kerakit.descriptors import NO_BLOCK, NO_FOLLOW, open_file, read_at, write_at
from kerakit.errors import UserError, printable
from kerakit.files import make_dir

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

FILE = ".kerakit.lock"
"""Name of the file of a lock; it is removed when the lock is released."""

_MAX_BYTES = 2**12
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclass(frozen=True)
class Holder:
    """The process that holds a lock, as it wrote itself down.

    Attributes:
        pid: process id; 0 if unknown.
        host: name of its machine.
        since: local time at which it took the lock.
    """

    pid: int = 0
    host: str = ""
    since: str = ""

    def __str__(self) -> str:
        """Return, such as, "process 4711 on gpu1, since 2026-01-01 12:00:00"."""
        if not self.pid:
            return "another process"
        return printable(f"process {self.pid} on {self.host}, since {self.since}")

    def is_dead(self) -> bool:
        """Whether it ran on this machine and has ended: a child of it holds the lock."""
        if not self.pid or self.host != socket.gethostname():
            return False
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # it belongs to another user
        return False


@dataclass
class _Lock:
    handle: int
    owner: int
    """Process id: a forked child inherits the registry, but must not remove the file."""
    created: list[Path]
    """The folder and its parents, as far as they were created for the lock."""


class _NotSupportedError(Exception):
    """A file system, or operating system, without locks."""


_held: dict[Path, _Lock] = {}
"""The locks of this process, by the real path of their folder."""

_warned: set[int] = set()
"""File systems without locks that were named."""


def lock_folder(folder: Path, patience: float = 0) -> int:
    """Lock a folder until ``unlock_folder`` or the end of this process, by whatever cause.

    The folder is created if it does not exist, and removed with the lock if it is empty then; its
    parents likewise, at the end of the process. On a file system without locks, a warning is
    printed once. A process may lock a folder twice; its first ``unlock_folder`` releases it.

    Args:
        folder: the folder.
        patience: seconds to wait for another process that holds it.

    Returns:
        The file descriptor. A child process that inherits it holds the lock until it ends, too.

    Raises:
        UserError: another process holds the lock; the message names it.
    """
    created = [one for one in (folder, *folder.parents) if not one.exists()]
    path = folder / FILE
    while True:
        make_dir(folder)  # who had it before may have removed it
        key = folder.resolve()
        held = _held.get(key)
        if held is not None:
            if _is_file_of(held.handle, path):
                return held.handle
            _held.pop(key)  # the folder was removed since
            os.close(held.handle)
        try:
            handle = _open(path)
        except FileNotFoundError:
            continue  # removed meanwhile
        try:
            _lock(handle, folder, patience)
        except BaseException:
            os.close(handle)
            raise
        # The holder before may have removed the file after it was opened here.
        if _is_file_of(handle, path):
            break
        os.close(handle)
    me = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "since": datetime.now().astimezone().isoformat(" ", "seconds"),
    }
    with contextlib.suppress(OSError):  # a full disk: the lock is held, but names nobody
        os.ftruncate(handle, 0)
        write_at(handle, [json.dumps(me).encode()], 0)
    _held[key] = _Lock(handle, os.getpid(), [one.absolute() for one in created])
    return handle


def unlock_folder(folder: Path) -> None:
    """Release a lock of this process, if it has one."""
    key = folder.resolve()
    if key in _held:
        _release(key)


def is_locked_here(folder: Path) -> bool:
    """Whether this process holds the lock of ``folder``, and the folder is still the same one."""
    held = _held.get(folder.resolve())
    return held is not None and _is_file_of(held.handle, folder / FILE)


def is_lost(folder: Path) -> bool:
    """Whether this process has locked ``folder``, and it was removed or replaced since."""
    held = _held.get(folder.resolve())
    return held is not None and not _is_file_of(held.handle, folder / FILE)


def release_all() -> None:
    """Release all locks of this process, as its end does."""
    for key, held in list(_held.items()):
        _release(key)
        with contextlib.suppress(OSError):  # not empty
            for folder in held.created[1:]:
                folder.rmdir()


atexit.register(release_all)


@contextlib.contextmanager
def locked(folder: Path, patience: float = 0) -> Iterator[int]:
    """Hold the lock of a folder for a block, or longer where this process has it already."""
    is_ours = is_locked_here(folder)
    handle = lock_folder(folder, patience)
    try:
        yield handle
    finally:
        if not is_ours:
            unlock_folder(folder)


def check_unlocked(folder: Path) -> None:
    """Raise UserError if another process holds the lock of ``folder``. Writes nothing."""
    holder = find_holder(folder)
    if holder is not None:
        raise _locked(folder, holder)


def find_holder(folder: Path) -> Holder | None:
    """Return the other process that holds the lock of ``folder``, if any. Writes nothing."""
    if folder.resolve() in _held:
        return None
    try:
        handle = open_file(folder / FILE, os.O_RDWR | NO_FOLLOW | NO_BLOCK)
    except OSError:
        return None  # no lock, or no permission, which the first write will name
    try:
        _flock(handle)
    except BlockingIOError:
        return _read_holder(handle)
    except _NotSupportedError:
        pass
    finally:
        os.close(handle)
    return None


def _locked(folder: Path, holder: Holder) -> UserError:
    return UserError(
        f"another process is writing to {folder}: {holder}. Wait until it has ended, or choose "
        "another folder."
    )


def _release(key: Path) -> None:
    held = _held.pop(key)
    path = key / FILE
    with contextlib.suppress(OSError):
        if held.owner == os.getpid() and _is_file_of(held.handle, path):
            # While the lock is held: whoever opened the file meanwhile finds that it is gone.
            path.unlink()
            if held.created:
                key.rmdir()  # only if it is empty
    os.close(held.handle)
    if fcntl is None:  # Windows removes no open file
        with contextlib.suppress(OSError):
            path.unlink()


def _open(path: Path) -> int:
    """Create or open the file of a lock. Raises UserError for what is not a file."""
    try:
        handle = open_file(path, os.O_RDWR | os.O_CREAT | NO_FOLLOW | NO_BLOCK)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
    else:
        if stat.S_ISREG(os.fstat(handle).st_mode):
            return handle
        os.close(handle)
    raise UserError(f"{path} is not a file. Kerakit writes a lock of that name: remove it.")


def _lock(handle: int, folder: Path, patience: float) -> None:
    try:
        _try_lock(handle, folder, patience)
    except _NotSupportedError:
        device = os.fstat(handle).st_dev
        if device not in _warned:
            _warned.add(device)
            print(
                f"WARNING: the file system of {folder} has no locks: nothing prevents a second "
                "process from writing to the same folder.",
                file=sys.stderr,
            )


def _try_lock(handle: int, folder: Path, patience: float) -> None:
    limit = time.monotonic() + patience
    while True:
        try:
            _flock(handle)
        except BlockingIOError:
            holder = _read_holder(handle)
        else:
            return
        if time.monotonic() >= limit:
            raise _locked(folder, holder)
        time.sleep(0.05)


def _flock(handle: int) -> None:
    """Lock an open file. Raises BlockingIOError if another process holds the lock."""
    if fcntl is None:
        raise _NotSupportedError
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise _NotSupportedError from None
        raise


def _read_holder(handle: int) -> Holder:
    """Return the process in a lock's file, whose text anyone may have written."""
    values: Any = None
    with contextlib.suppress(OSError, ValueError, RecursionError):
        values = json.loads(read_at(handle, _MAX_BYTES, 0))
    if not isinstance(values, dict):
        return Holder()
    pid, host, since = map(values.get, ("pid", "host", "since"))
    if type(pid) is not int or not 0 < pid < 2**31:
        return Holder()
    return Holder(pid, str(host)[:100], str(since)[:40])


def _is_file_of(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at ``path``."""
    try:
        one, other = os.fstat(handle), os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)
