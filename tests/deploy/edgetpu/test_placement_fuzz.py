"""``kerakit placement`` on damaged files: a forecast, or words; never a trace, never without end.

A child process runs the command, so that a signal is found too.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from converted import PAIR_NAMES, read_pair
from mutations import mutate

COMMAND = """
import contextlib, io, resource, sys
from kerakit import cli
resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))
for path in sys.argv[1:]:
    code, out = 0, io.StringIO()
    sys.argv = ["kerakit", "placement", path]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
    text = out.getvalue()
    assert all(char.isprintable() for char in text.replace("\\n", "")), path
    assert len(text) < 100_000, path
    print(code, "Traceback" in text, text.startswith("error: "), path, flush=True)
"""


@pytest.mark.parametrize("count", [150, pytest.param(1_500, marks=pytest.mark.slow)])
def test_damaged_files_end_in_words(count: int, tmp_path: Path) -> None:
    contents = [read_pair(f"{name}{end}") for name in PAIR_NAMES for end in ("", "_edgetpu")]
    paths = [tmp_path / f"{seed}.tflite" for seed in range(count)]
    for seed, path in enumerate(paths):
        path.write_bytes(mutate(contents[seed % len(contents)], seed))
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, paths)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    results = [line.split() for line in done.stdout.splitlines()]
    assert len(results) == count
    for code, trace, is_error, path_name in results:
        assert trace == "False", path_name
        assert code in ("0", "1", "2"), path_name
        assert (code == "2") == (is_error == "True"), path_name
    assert {code for code, *_ in results} == {"0", "1", "2"}


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A pipe that nobody writes to would hold the command; a device would fill the memory."""
    os.mkfifo(tmp_path / "pipe.tflite")
    large = tmp_path / "large.tflite"
    with large.open("wb") as file:
        file.truncate(2**31 + 1)
    for path in (tmp_path / "pipe.tflite", large, Path("/dev/zero")):
        done = subprocess.run(
            [sys.executable, "-m", "kerakit", "placement", str(path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2
        assert "is not a TensorFlow Lite model" in done.stderr
