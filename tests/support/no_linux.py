"""Takes what Linux alone has away from Kerakit and its projects, and runs scripts.

Usage: python no_linux.py SCRIPT ARGUMENTS then SCRIPT ARGUMENTS ... Other packages keep it: they
have versions of their own for macOS and Windows. Child processes of the script are not changed.
"""

from __future__ import annotations

import builtins
import os
import runpy
import signal
import sys
from types import FrameType, ModuleType
from typing import Any

MISSING_MODULES = {"fcntl", "resource", "termios", "pwd", "grp", "pty"}
MISSING = {
    "os": {
        *("sched_getaffinity", "posix_fadvise", "posix_fallocate", "fork", "register_at_fork"),
        *("pread", "preadv", "pwrite", "pwritev", "readv", "writev", "killpg", "getpgid", "setsid"),
        *("O_NOFOLLOW", "O_NONBLOCK", "O_DIRECTORY", "O_CLOEXEC", "O_PATH", "O_TMPFILE"),
        *("sysconf", "statvfs", "uname", "getuid", "geteuid", "getgid", "link", "mkfifo"),
        *("memfd_create", "pipe2", "sync", "fchmod", "fchown", "set_blocking", "copy_file_range"),
    },
    "signal": {"SIGHUP", "SIGUSR1", "SIGUSR2", "SIGKILL", "SIGALRM", "setitimer", "SIGQUIT"},
}
"""Names that Windows lacks; macOS lacks some of them."""

FOLDERS = ("/proc", "/sys")


def is_ours(frame: FrameType | None) -> bool:
    """Whether code of Kerakit or of the project runs in a frame."""
    if frame is None:
        return False
    name = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] == "kerakit" or frame.f_code.co_filename.startswith(os.getcwd())


class _Module(ModuleType):
    def __getattribute__(self, name: str) -> Any:
        get = ModuleType.__getattribute__
        if name in MISSING[get(self, "__name__")] and is_ours(sys._getframe(1)):
            raise AttributeError(f"Windows has no {get(self, '__name__')}.{name}")
        return get(self, name)


def refuse(event: str, values: tuple[Any, ...]) -> None:
    """Audit hook: folders cannot be opened, and /proc and /sys do not exist."""
    if event != "open" or not isinstance(values[0], str):
        return
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith("pathlib"):
        frame = frame.f_back
    if not is_ours(frame):
        return
    if values[0].startswith(FOLDERS):
        raise FileNotFoundError(2, "Windows has no such folder", values[0])
    if os.path.isdir(values[0]):
        raise PermissionError(13, "Windows opens no folder", values[0])


def take_away() -> None:
    """Change this process."""
    imported = builtins.__import__

    def import_module(name: str, *args: Any, **options: Any) -> Any:
        if name in MISSING_MODULES and is_ours(sys._getframe(1)):
            raise ImportError(f"Windows has no module {name}")
        return imported(name, *args, **options)

    builtins.__import__ = import_module
    for module in (os, signal):
        module.__class__ = _Module
    sys.addaudithook(refuse)


def main(words: list[str]) -> None:
    """Run scripts of the current folder, or the command kerakit, one after the other."""
    take_away()
    sys.path[0] = os.getcwd()
    while words:
        end = words.index("then") if "then" in words else len(words)
        sys.argv, words = words[:end], words[end + 1 :]
        try:
            if sys.argv[0] == "kerakit":
                runpy.run_module("kerakit", run_name="__main__")
            else:
                runpy.run_path(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            if stop.code:
                raise


if __name__ == "__main__":
    main(sys.argv[1:])
