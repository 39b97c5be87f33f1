"""Files of a run that cannot be written: training continues, and each epoch says so."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterable, Iterator
from typing import Any

from kerakit.errors import JobError, KerakitError, first_line
from kerakit.files import DISK_FULL, atomic_write, disk_full_code
from kerakit.run import Run, RunLostError


class Output:
    """A file of a run whose failed writes do not end the training.

    Args:
        name: its name in messages.

    Attributes:
        failure: what could not be written, and why; empty after a write that succeeded.

    >>> Output("history.csv").failure
    ''
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.failure = ""

    @contextlib.contextmanager
    def writing(self, name: str = "") -> Iterator[None]:
        """Turn a file error in the block into a warning.

        Args:
            name: what is written, for messages; default: the name of the output.
        """
        try:
            yield
        except Exception as error:
            if not is_file_error(error):
                raise
            self.fail(error, name)
        else:
            if self.failure:
                print(f"{name or self.name} is written again", flush=True)
            self.failure = ""

    def fail(self, error: BaseException, name: str = "") -> None:
        """Record and print a failed write."""
        self.failure = f"{name or self.name}: {describe(error)}"
        self.warn()

    def warn(self) -> None:
        """Print the failure."""
        print(f"WARNING: not written: {self.failure}. Training continues.", file=sys.stderr)


class Records:
    """Files without which nothing reads a run, held in memory in case that they are removed.

    Args:
        run: the run folder.
    """

    def __init__(self, run: Run) -> None:
        paths = (run.config, run.split)
        self._content = {path: path.read_bytes() for path in paths if path.is_file()}
        self.outputs = [Output("config.json, split.csv")]

    def restore(self) -> None:
        """Write those again that were removed."""
        with self.outputs[0].writing():
            for path, content in self._content.items():
                if not path.exists():
                    with atomic_write(path) as temporary:
                        temporary.write_bytes(content)
                    print(f"WARNING: {path} was removed; it is written again.", file=sys.stderr)


def is_file_error(error: BaseException) -> bool:
    """Whether an error is that of a file system; native code has errors of its own for it."""
    is_lost = isinstance(error, RunLostError)
    kinds = (OSError, KerakitError, MemoryError)
    return not is_lost and (isinstance(error, kinds) or disk_full_code(error) is not None)


def describe(error: BaseException) -> str:
    """Return cause and path of a file error, without a period.

    >>> describe(PermissionError(13, "Permission denied", "ckpt"))
    'Permission denied (ckpt)'
    """
    code = disk_full_code(error)
    cause = DISK_FULL[code][0] if code is not None else getattr(error, "strerror", None)
    path = getattr(error, "filename", None)
    return (f"{cause} ({path})" if path else cause) if cause else first_line(error).rstrip(".")


class _Stream:
    """A text stream that drops what a full disk does not take."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with _dropping():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with _dropping():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def _dropping() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (*DISK_FULL, errno.EIO):
            raise


@contextlib.contextmanager
def tolerant_streams() -> Iterator[None]:
    """Let a training continue while its log cannot be written: a full disk, a closed terminal."""
    with (
        contextlib.redirect_stdout(_Stream(sys.stdout)),
        contextlib.redirect_stderr(_Stream(sys.stderr)),
    ):
        yield


def check_written(callbacks: Iterable[Any], is_saved: bool, others: Iterable[Output] = ()) -> None:
    """Raise JobError at the end of a training, if the last writes of its files failed.

    Args:
        callbacks: callbacks of ``fit``; those with ``outputs`` are checked.
        is_saved: whether a saved state exists, so that a resume writes the files.
        others: further outputs.
    """
    outputs = [one for each in callbacks for one in getattr(each, "outputs", ())]
    failed = [one.failure for one in (*outputs, *others) if one.failure]
    if failed:
        advice = (
            "Fix the cause, then repeat your command with --resume, which writes them."
            if is_saved
            else "Fix the cause, then train again."
        )
        raise JobError(
            f"the training has ended, but files are missing: {'; '.join(failed)}. {advice}"
        )
