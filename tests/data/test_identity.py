"""What changes the identity of the code behind samples."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from kerakit.data.identity import code_identity

SOURCE = """
import json, pathlib
HERE = pathlib.Path(__file__).parent
TABLE = json.loads((HERE / "brightness.json").read_text())
CURVE = (HERE / "assets" / 'curve.npy')
LABELS = HERE / "labels.csv"
"""


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("brightness.json", True),
        ("assets/curve.npy", True),
        ("other.json", False),  # no module names it
        ("labels.csv", False),  # a table of images, which count one by one
    ],
)
def test_data_files_that_the_owners_modules_name(
    name: str, counts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "brightness.json").write_text("[1]")
    (tmp_path / name).write_text("[1]")
    (tmp_path / "owners_pixels.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("owners_pixels")
    try:
        before = code_identity([])
        assert code_identity([]) == before
        (tmp_path / name).write_text("[2]")
        assert (code_identity([]) != before) == counts
    finally:
        sys.modules.pop("owners_pixels")
