"""Files of a run that cannot be written: training continues, and each epoch says so."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import keras

from kerakit.errors import JobError, KerakitError, first_line
from kerakit.files import DISK_FULL, atomic_write, check_disk_space, disk_full_code
from kerakit.run import Run, RunLostError
from kerakit.weights import estimate_weights_size


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


_FILE_ERRORS = (
    *DISK_FULL,
    *(errno.EIO, errno.ESTALE, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR),
)


class FileErrorGuard:
    """Turns file errors of a callback of Keras or of the project's owner into warnings.

    After the first one, so is any other error of the callback, which follows from it. Errors before
    the first epoch of a training are raised: nothing is lost yet, and the path may be wrong.

    Args:
        callback: its hooks are replaced.
    """

    def __init__(self, callback: Any) -> None:
        self._callback = callback
        self._output = Output(f"{type(callback).__name__} in callbacks.py")
        self._has_begun = self._has_warned = False
        hooks = [name for name in dir(keras.callbacks.Callback) if name.startswith("on_")]
        for name in ("set_model", *hooks):
            hook = getattr(callback, name)
            # Keras does not call the hooks of batches that a callback does not override.
            if "batch" not in name or not getattr(hook, "_is_default", False):
                setattr(callback, name, self._guarded(name, hook))

    def _guarded(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(hook)
        def call(*args: Any, **kwargs: Any) -> Any:
            if name == "on_epoch_begin":
                self._has_begun, self._has_warned = True, False
            try:
                if name == "on_epoch_end":
                    _check_space(self._callback)
                with _restored_summary_writer():
                    return hook(*args, **kwargs)
            except Exception as error:
                is_file = is_file_error_of_others(error)
                if not self._has_begun or not (is_file or self._output.failure):
                    raise
                if is_file and not self._has_warned:  # once per epoch
                    self._has_warned = True
                    self._output.fail(error)

        return call


def tolerate_file_errors(callbacks: Iterable[Any]) -> None:
    """Let a training continue while callbacks other than Kerakit's cannot write their files."""
    for callback in callbacks:
        if not type(callback).__module__.startswith("kerakit."):
            FileErrorGuard(callback)


@contextlib.contextmanager
def _restored_summary_writer() -> Iterator[None]:
    """Restore TensorFlow's default summary writer after an error.

    One whose flush fails remains the default, and gets the metrics of each batch.
    """
    module = sys.modules.get("tensorflow.python.ops.summary_ops_v2")
    state = getattr(module, "_summary_state", None)
    writer = getattr(state, "writer", None)
    try:
        yield
    except Exception:
        if state is not None:
            state.writer = writer
        raise


def _check_space(callback: Any) -> None:
    """Raise OSError if a checkpoint of Keras does not fit on the disk: HDF5 may crash by it."""
    if isinstance(callback, keras.callbacks.ModelCheckpoint):
        folder = Path(callback.filepath).parent
        if folder.is_dir():
            try:
                check_disk_space(folder, 3 * estimate_weights_size(callback.model))  # of AdamW
            except JobError:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder)) from None


def is_file_error_of_others(error: BaseException) -> bool:
    """Whether an error of code that is not Kerakit's is that of a file system."""
    if isinstance(error, OSError):
        return True
    # TensorFlow has error classes of its own.
    is_of_tensorflow = type(error).__module__.startswith("tensorflow.")
    message = str(error).lower()
    return is_of_tensorflow and any(os.strerror(one).lower() in message for one in _FILE_ERRORS)


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
