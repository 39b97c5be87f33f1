"""Untrusted text reaches the terminal without control characters."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digits import Exported
from graphs import Net
from kerakit.console import print_table
from kerakit.deploy.predict import load_exported
from kerakit.errors import printable, printable_lines

ESCAPE = "\x1b]0;title\x07\x1b[31m\x9b2J"
"""Sets the title of a terminal, its color, and clears it by an 8-bit sequence."""


@given(st.text(st.characters()))
def test_only_characters_that_cannot_be_printed_are_escaped(text: str) -> None:
    plain = "".join(filter(str.isprintable, text))
    assert printable(plain) == plain
    assert printable(text).isprintable()
    lines = printable_lines(text)
    assert lines.count("\n") == text.count("\n")
    assert lines.replace("\n", "").isprintable()


def test_cells_of_tables_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name"], [[f"café{ESCAPE}"]])
    out = capsys.readouterr().out
    assert "café" in out
    assert r"\x1b[31m" in out
    assert printable_lines(out) == out


def test_names_of_a_model_file_are_escaped(tmp_path: Path) -> None:
    """As errors, and in the forecast of a custom operator that the compiler does not know."""
    damaged, custom = Net(), Net()
    constant = damaged.tensor((7,), data=b"12", name=ESCAPE)
    damaged.op("ADD", [constant, constant], (7,))
    custom.op("CUSTOM", [custom.tensor((1, 4))], (1, 4), custom=ESCAPE)
    for net, code in ((damaged, 2), (custom, 1)):
        path = tmp_path / f"{ESCAPE}.tflite"
        path.write_bytes(net.content())
        done = subprocess.run(
            [sys.executable, "-m", "kerakit", "placement", str(path)],
            capture_output=True,
            check=False,
        )
        assert done.returncode == code
        text = (done.stdout + done.stderr).decode()
        assert r"\x1b[31m" in text
        assert printable_lines(text) == text


def test_labels_of_a_model_file_are_escaped(exported_digits: Exported, tmp_path: Path) -> None:
    shutil.copy(exported_digits.int8, tmp_path / "model.tflite")
    names = [f"{number}{ESCAPE}" for number in range(10)]
    (tmp_path / "labels.txt").write_text("\n".join(names), encoding="utf-8")
    model = load_exported(tmp_path / "model.tflite")
    image = np.zeros((1, 8, 8, 3), np.uint8)
    [record] = model.task.describe(model.task.decode(model.predict(image))[0], 1)
    assert record["label"] in map(printable, names)
