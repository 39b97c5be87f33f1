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
        (
            {"path": "images/0000.jpg", "label": "cat"},
            "rows 1 and 6: the path 'images/0000.jpg' has two",
        ),
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


def images(folder: Path, count: int = 6) -> list[str]:
    (folder / "images").mkdir()
    paths = [f"images/{i}.png" for i in range(count)]
    for path in paths:
        (folder / path).touch()
    return paths


@pytest.mark.parametrize(
    ("header", "row", "encoding"),
    [
        ("path,label", "{path},{label}", "utf-8-sig"),
        ("path, label", "{path}, {label}", "utf-8"),
        (" Path ,LABEL", " {path} ,{label} ", "utf-8"),
        ("path;label", "{path};{label}", "utf-8"),
        ("path\tlabel", "{path}\t{label}", "utf-8"),
        ('"path", "label"', '"{path}", "{label}"', "utf-8"),
        ('"path","label","caption"', '"{path}","{label}","two, or\nthree"', "utf-8"),
        ("label,width,width,path", "{label},1,2,./{path}", "utf-8"),
        ("path,label", "./images/.//{name},{label}", "utf-8"),
        ("path,label", "images\\{name},{label}", "utf-8"),
        ("path,label", ".\\images\\{name},{label}", "utf-8"),
        ("path,label", "{root}/{path},{label}", "utf-8"),
        ("\n\npath,label", "{path},{label}", "utf-8"),
    ],
)
def test_tables_as_people_have_them(tmp_path: Path, header: str, row: str, encoding: str) -> None:
    paths = images(tmp_path)
    rows = [
        row.format(path=path, label=label, root=tmp_path, name=path.removeprefix("images/"))
        for path, label in zip(
            paths, ["cat", "café", "cat ", "cafe\u0301", "cat", "café"], strict=True
        )
    ]
    (tmp_path / "t.csv").write_text("\n".join([header, *rows]), encoding=encoding)
    reader = DataReader(tmp_path / "t.csv")
    assert reader.class_names == ("café", "cat")
    assert [reader.key(i) for i in range(6)] == paths
    assert reader.targets.tolist() == [1, 0] * 3


def test_names_of_files_may_have_spaces_and_backslashes(tmp_path: Path) -> None:
    names = [" a .png", "b\\1.png"]
    for name in names:
        (tmp_path / name).touch()
    rows = [{"path": name, "label": str(i)} for i, name in enumerate(names)]
    reader = DataReader(write(tmp_path, rows))
    assert [reader.key(i) for i in range(2)] == names


def test_an_image_listed_twice_is_one_and_two_labels_are_an_error(tmp_path: Path) -> None:
    rows = [
        {"path": f"{prefix}a/{i}.jpg", "label": i % 2} for prefix in ("", "./") for i in range(9)
    ]
    reader = DataReader(write(tmp_path, rows))
    assert len(reader) == 9
    assert "rows that list an image again, ignored: 9." in data_warnings(reader)
    for change in ({"label": 1}, {"split": "test"}, {"group": "2"}):
        first = {"path": "a/0.jpg", "label": 0, "split": "train", "group": "1"}
        second = {**first, "path": ".//a//0.jpg", **change}
        with pytest.raises(UserError, match=r"rows 1 and 3: the path 'a/0.jpg' has two different"):
            DataReader(write(tmp_path, [first, {**first, "path": "b", "label": 1}, second]))


def test_groups_and_splits_are_normalized(tmp_path: Path) -> None:
    rows = [
        {**row, "group": f"patient {i // 8}{' ' * (i % 2)}", "split": "Test-Set " if i < 80 else ""}
        for i, row in enumerate(many())
    ]
    reader = DataReader(write(tmp_path, rows))
    assert set(reader.indices("test")) == set(range(80))
    train = {i // 8 for i in reader.indices("train")}
    assert not train & {i // 8 for i in reader.indices("val")}


def test_measurements_as_labels_are_split_as_one_class(tmp_path: Path) -> None:
    rows = [{"path": f"{i}.jpg", "label": i / 7} for i in range(100)]
    reader = DataReader(write(tmp_path, rows))
    assert [len(reader.indices(mode)) for mode in ("train", "val", "test")] == [80, 10, 10]
    assert "20 classes" in data_warnings(reader)[0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path,label,label\na,b,c\n", "2 columns 'label'"),
        ("path,Path ,label\na,b,c\n", "2 columns 'path'"),
        ("path,label\na.jpg,größe\n".encode("latin-1"), "not UTF-8 text"),
        ("path,label\na.jpg,cat\n".encode("utf-16"), "not UTF-8 text"),
        (b"path,label\na\0.jpg,cat\nb.jpg,dog\n", "row 1: the path has a NUL"),
        (b"path,label\na.jpg,c\0t\nb.jpg,dog\n", "labels.txt"),
        ("path,label\nC:\\photos\\a.jpg,cat\nb.jpg,dog\n", "row 1: 'C:.*a path of Windows"),
        ("path,label\n" + "x" * 2**25 + ",cat\nb.jpg,dog\n", "cannot read the table"),
        ("x" * 2**25, "cannot read the table"),
        ('path,label\n"a.jpg,cat\nb.jpg,dog\n', "cannot read the table"),
    ],
)
def test_what_is_wrong_with_a_csv_is_said(tmp_path: Path, content: str | bytes, said: str) -> None:
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "t.csv").write_bytes(data)
    with pytest.raises(UserError, match=said) as error:
        DataReader(tmp_path / "t.csv")
    assert len(str(error.value)) < 1000


def test_text_in_parquet_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, [{"path": "caf\u00e9.jpg", "label": label} for label in "ab"], "parquet")
    path.write_bytes(path.read_bytes().replace("caf\u00e9".encode(), b"caf\xff\xff"))
    with pytest.raises(UserError, match="cannot read the table"):
        DataReader(path)


def test_a_small_parquet_file_does_not_fill_the_memory(tmp_path: Path) -> None:
    """Equal rows take no space in the file: more than the machine's memory can hold."""
    path = tmp_path / "t.parquet"
    text = pa.DictionaryArray.from_arrays(np.zeros(2**17, np.int32), ["x" * 2**20])
    parquet.write_table(pa.table({"path": text, "label": text}), path, store_schema=False)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"131,072 rows, which need about 256\.0 GiB of memory"):
        DataReader(path)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    column = pa.chunked_array([np.zeros(2**22, np.int8)] * (memory // 2**22 // 200))
    parquet.write_table(pa.table({"path": column, "label": column}), path)
    assert path.stat().st_size < 2**20
    with pytest.raises(UserError, match=r"rows, which need about .* GiB of memory"):
        DataReader(path)


@pytest.mark.parametrize("label", [["cat"], {"name": "cat"}, b"\xff"])
def test_other_types_of_columns_are_an_error(tmp_path: Path, label: object) -> None:
    with pytest.raises(UserError, match="cannot read the table"):
        DataReader(write(tmp_path, [{"path": "a.jpg", "label": label}] * 2, "parquet"))
