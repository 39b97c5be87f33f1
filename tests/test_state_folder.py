"""Saved states: whole or absent, whatever fails, and whenever the process is killed."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kerakit.errors import UserError
from kerakit.state_folder import StateFolder, decode, encode


def state(number: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return values and arrays of a state, which differ between numbers."""
    numbers = np.random.default_rng(number).normal(size=(40, 7)).astype(np.float32)
    return {"epoch": number, "text": "x" * 100}, {"model/00000": numbers, "seed": np.uint32(number)}


def check(folder: StateFolder, *numbers: int) -> int:
    """Check that the newest whole state is one of ``numbers``; return which."""
    found = folder.load()
    assert found is not None
    number = int(found.values["epoch"])
    assert number in numbers
    values, expected = state(number)
    assert found.values == values
    assert found.arrays.keys() == expected.keys()
    for name, array in expected.items():
        assert found.arrays[name].tobytes() == array.tobytes()
    return number


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    """A folder with states 1 and 2."""
    folder = StateFolder(tmp_path / "state")
    for number in (1, 2):
        folder.save(*state(number))
    return folder


def test_the_two_newest_states_remain(folder: StateFolder) -> None:
    for number in range(3, 12):
        folder.save(*state(number))
        check(folder, number)
    assert [path.name for path in folder.find()] == ["00000011", "00000010"]
    assert len(list(folder.path.iterdir())) == 2


def test_nothing_is_an_absent_state(tmp_path: Path) -> None:
    assert StateFolder(tmp_path / "state").load() is None


OPERATIONS = ("mkdir", "open", "fsync", "rename", "close", "write")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES, errno.EROFS])
def test_every_operation_of_a_save_may_fail(
    folder: StateFolder, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each operation of a save fails once; the last whole state remains, the next save works."""
    number, failures = 2, 0
    for operation in range(40):
        calls = 0

        def count(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == operation + 1:  # noqa: B023
                    raise OSError(code, os.strerror(code), "a file")
                return function(*args, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "posix_fallocate", "mkdir", "rename", "open"):
                patch.setattr(os, name, count(getattr(os, name)))
            patch.setattr("pathlib.Path.open", count(Path.open))
            patch.setattr(
                "kerakit.state_folder._Hashed.write",
                count(__import__("kerakit.state_folder").state_folder._Hashed.write),
            )
            try:
                folder.save(*state(number + 1))
                is_saved = True
            except OSError:
                is_saved = False
        failures += not is_saved
        # A failure after the rename leaves the new state.
        number = check(folder, number, number + 1) if not is_saved else check(folder, number + 1)
        if calls < operation + 1:
            break
    assert failures > 10
    assert folder.save(*state(99)).is_dir()
    check(folder, 99)


@pytest.mark.parametrize("name", ["arrays.npz", "values.json", "manifest.json"])
def test_a_torn_file_is_passed_over(
    folder: StateFolder, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder.find()[0] / name
    content = path.read_bytes()
    for size in {0, 1, len(content) // 2, len(content) - 1}:
        path.write_bytes(content[:size])
        check(folder, 1)
        assert str(path.parent) in capsys.readouterr().out
    path.unlink()
    check(folder, 1)
    path.write_bytes(content)
    check(folder, 2)


@pytest.mark.parametrize("name", ["arrays.npz", "values.json", "manifest.json"])
def test_one_flipped_bit_is_detected(folder: StateFolder, name: str) -> None:
    path = folder.find()[0] / name
    content = path.read_bytes()
    for bit in np.random.default_rng(0).integers(0, 8 * len(content), 60).tolist():
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        assert check(folder, 1, 2) == 1 or name == "manifest.json"  # its white space may change


def test_damaged_states_are_an_error(folder: StateFolder) -> None:
    for path in folder.find():
        (path / "arrays.npz").write_bytes(b"")
    with pytest.raises(UserError, match="are damaged"):
        folder.load()


def test_pickled_objects_are_not_read(folder: StateFolder) -> None:
    """A state whose manifest is valid, with an object that runs code when unpickled."""
    import hashlib

    path = folder.find()[0]
    with (path / "arrays.npz").open("wb") as file:
        np.savez(file, objects=np.array([print], dtype=object))
    digests = json.loads((path / "manifest.json").read_text())
    digests["arrays.npz"] = hashlib.sha256((path / "arrays.npz").read_bytes()).hexdigest()
    (path / "manifest.json").write_text(json.dumps(digests))
    check(folder, 1)


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
from pathlib import Path
from test_state_folder import check, state
from kerakit.state_folder import StateFolder

folder = StateFolder(Path({folder!r}))
EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.truncate")
number, killed = 2, 0
for point in range(200):
    child = os.fork()
    if child == 0:
        left = point
        def kill(event, args):
            global left
            if event in EVENTS and str({folder!r}) in str(args[0]):
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), 9)
        sys.addaudithook(kill)
        folder.save(*state(number + 1))
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    number = check(folder, number, number + 1)
    killed += status != 0
    if status == 0:
        break
folder.save(*state(number + 1))
check(folder, number + 1)
assert len(list(folder.path.iterdir())) == 2, list(folder.path.iterdir())
print(killed)
"""
"""Saves that are killed at their first, second, ... change of the file system."""


def test_a_save_may_be_killed_anywhere(folder: StateFolder) -> None:
    script = KILLED.format(paths=[str(Path(__file__).parent)], folder=str(folder.path))
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) > 8


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda parts: (
        st.lists(parts) | st.dictionaries(st.text().filter(lambda key: key != "float"), parts)
    ),
    max_leaves=10,
)


@given(VALUES)
def test_values_survive_json(value: Any) -> None:
    text = json.dumps(encode(value), allow_nan=False)
    assert repr(decode(json.loads(text))) == repr(value)


@given(arrays(np.dtype("float32"), array_shapes(min_dims=0)))
def test_arrays_survive(tmp_path_factory: pytest.TempPathFactory, array: Any) -> None:
    folder = StateFolder(tmp_path_factory.mktemp("state"))
    folder.save({}, {"one": array})
    found = folder.load()
    assert found is not None
    assert found.arrays["one"].tobytes() == array.tobytes()
