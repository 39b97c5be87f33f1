"""Images listed in CSV and Parquet."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kerakit import UserError
from kerakit.data import DataReader, data_warnings

Rows = list[dict[str, Any]]


def write(folder: Path, rows: Rows, kind: str = "csv") -> Path:
    path = folder / f"labels.{kind}"
    if kind == "parquet":
        parquet.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def many(count: int = 400, **columns: Any) -> Rows:
    return [
        {"path": f"images/{i:04d}.jpg", "label": "cat" if i % 3 else "dog", **columns}
        for i in range(count)
    ]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_is_read_like_a_folder(tmp_path: Path, kind: str) -> None:
    reader = DataReader(write(tmp_path, many(), kind))
    assert reader.class_names == ("cat", "dog")
    assert len(reader) == 400
    for i in (0, 1, 399):
        assert reader.image_path(i) == tmp_path / f"images/{i:04d}.jpg"
        assert reader.class_names[reader.target(i)] == ("cat" if i % 3 else "dog")
    assert sum(len(reader.indices(mode)) for mode in ("train", "val", "test")) == 400


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_labels_that_are_numbers_stay_what_they_are(tmp_path: Path, kind: str) -> None:
    labels = ["007", "1", "1e3"] if kind == "csv" else [7, 1, 1000]
    rows = [
        {"path": f"{i}-{n}.jpg", "label": label} for i, label in enumerate(labels) for n in range(9)
    ]
    expected = ("007", "1", "1e3") if kind == "csv" else ("1", "1000", "7")
    assert DataReader(write(tmp_path, rows, kind)).class_names == expected


def test_a_group_stays_on_one_side(tmp_path: Path) -> None:
    rows = [{**row, "group": f"patient {i // 8}"} for i, row in enumerate(many())]
    reader = DataReader(write(tmp_path, rows))
    for start in range(0, 400, 8):
        sides = {
            m
            for m in ("train", "val", "test")
            if np.isin(np.arange(start, start + 8), reader.indices(m)).any()
        }
        assert len(sides) == 1
    assert all(len(reader.indices(mode)) for mode in ("train", "val", "test"))


def test_a_given_split_is_kept_and_the_rest_is_drawn(tmp_path: Path) -> None:
    names = {0: "train", 1: "Validation", 2: "test", 3: ""}
    rows = [{**row, "split": names[i % 4]} for i, row in enumerate(many())]
    reader = DataReader(write(tmp_path, rows))
    assert set(range(0, 400, 4)) <= set(reader.indices("train"))
    assert set(range(1, 400, 4)) <= set(reader.indices("val"))
    assert set(range(2, 400, 4)) <= set(reader.indices("test"))
    drawn = {i % 4 for mode in ("train", "val") for i in reader.indices(mode)}
    assert 3 in drawn


def test_absolute_paths_stay(tmp_path: Path) -> None:
    rows = [{"path": f"/elsewhere/{i}.jpg", "label": f"{i % 2}"} for i in range(20)]
    assert DataReader(write(tmp_path, rows)).image_path(3) == Path("/elsewhere/3.jpg")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"label": None}, "no column 'label'"),
        ({"path": None}, "no column 'path'"),
    ],
)
def test_a_missing_column_is_named(tmp_path: Path, change: dict[str, None], said: str) -> None:
    rows = [
        {name: value for name, value in row.items() if name not in change} | {"other": 1}
        for row in many(5)
    ]
    with pytest.raises(UserError, match=said):
        DataReader(write(tmp_path, rows))


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"path": "a.jpg", "label": ""}, "row 6: the column 'label' is empty"),
        ({"path": "a.jpg", "label": "NaN"}, "row 6: the column 'label' is empty"),
        ({"path": "", "label": "cat"}, "row 6: the column 'path' is empty"),
        ({"path": "../secret.jpg", "label": "cat"}, "row 6: the path '../secret.jpg'"),
        ({"path": "a/../../b.jpg", "label": "cat"}, "outside the table's folder"),
        ({"path": "images/0000.jpg", "label": "cat"}, "'images/0000.jpg' more than once"),
        ({"path": "a.jpg", "label": "c\nat"}, "labels.txt"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: dict[str, str], said: str) -> None:
    with pytest.raises(UserError) as error:
        DataReader(write(tmp_path, [*many(5), row], "parquet"))
    assert said in str(error.value)


def test_nan_in_a_column_of_numbers_is_an_empty_cell(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.jpg", "label": float(i % 2)} for i in range(5)] + [
        {"path": "x.jpg", "label": float("nan")}
    ]
    with pytest.raises(UserError, match="row 6: the column 'label' is empty"):
        DataReader(write(tmp_path, rows, "parquet"))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "cannot read"),
        ("t.csv", b"path,label\n", "has no rows"),
        ("t.csv", b"path,label\na.jpg\n", "cannot read"),
        ("t.csv", b"path,label\n\xff\xfe.jpg,cat\n", "cannot read"),
        ("t.csv", b"path,label,split\na.jpg,cat,tset\nb.jpg,dog,train\n", "unknown split 'tset'"),
        ("t.csv", b"path,label\na.jpg,cat\nb.jpg,cat\n", "has one class (cat)"),
        (
            "t.csv",
            b"path,label,group\na.jpg,cat,\nb.jpg,dog,x\n",
            "row 1: the column 'group' is empty",
        ),
        ("t.parquet", b"PAR1 not at all", "cannot read"),
        ("t.xlsx", b"PK", "not a table"),
    ],
)
def test_a_file_that_is_no_good_table_is_explained(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError) as error:
        DataReader(tmp_path / name)
    assert said in str(error.value)
    assert name in str(error.value)


def test_a_class_that_is_not_held_out_is_said(tmp_path: Path) -> None:
    rows = [
        {**row, "split": "val" if i < 50 and row["label"] == "cat" else "train"}
        for i, row in enumerate(many())
    ]
    (warning,) = data_warnings(DataReader(write(tmp_path, rows)))
    assert "'dog'" in warning
    assert "validation" in warning


def test_a_million_rows_stay_columns(tmp_path: Path) -> None:
    """No Python object a row is kept: what is held is less than 100 bytes a row, paths and all."""
    count = 1_000_000
    table = pa.table(
        {
            "path": pa.array([f"images/{i % 1000:03d}/{i:07d}.jpg" for i in range(count)]),
            "label": pa.array([f"class {i % 100}" for i in range(count)]),
        }
    )
    parquet.write_table(table, tmp_path / "t.parquet")
    reader = DataReader(tmp_path / "t.parquet")
    held = reader._keys.nbytes + reader.targets.nbytes + reader._splits.nbytes
    assert held < 100 * count
    assert len(reader.image_paths) == count
    assert reader.image_paths[count - 1] == tmp_path / "images/999/0999999.jpg"
    assert os.fspath(reader.image_paths[0]).endswith("images/000/0000000.jpg")
