"""Tables with label columns: sets, numbers, masks, several outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from kerakit import UserError
from kerakit.data import MultiLabelReader, RegressionReader, TableReader, data_warnings
from kerakit.data.check import open_dataset, print_findings


def write(folder: Path, *rows: str) -> Path:
    path = folder / "labels.csv"
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def test_sets_of_labels(tmp_path: Path) -> None:
    rows = ["path,label,split", "a.jpg, dog ; cat,train", "b.jpg,dog;;dog,train", "c.jpg,,val"]
    reader = MultiLabelReader(write(tmp_path, *rows))
    assert reader.class_names == ("cat", "dog")
    targets = [reader.target(i) for i in range(3)]
    assert [target.tolist() for target in targets] == [[1, 1], [0, 1], [0, 0]]
    assert targets[0].dtype == np.float32
    assert reader.counts("train").tolist() == [1, 2]
    assert "images without labels, used as negative examples: 1." in data_warnings(reader)
    assert [fault.key for fault in reader.label_faults()] == ["c.jpg"]


def test_columns_of_zeros_and_ones(tmp_path: Path) -> None:
    reader = MultiLabelReader(write(tmp_path, "path,Cat,dog", "a.jpg,1,0", "b.jpg,0,1.0"))
    assert reader.class_names == ("Cat", "dog")
    assert [reader.target(i).tolist() for i in range(2)] == [[1, 0], [0, 1]]
    with pytest.raises(UserError, match="row 1: the column 'dog' has the value 2"):
        MultiLabelReader(write(tmp_path, "path,cat,dog", "a.jpg,1,2"))
    with pytest.raises(UserError, match=r"no column 'label', and no numbers in the column 'tags'"):
        MultiLabelReader(write(tmp_path, "path,cat,tags", "a.jpg,1,x;y"))


def test_lists_in_parquet_are_sets(tmp_path: Path) -> None:
    rows = [
        {"path": "a.jpg", "label": ["x", "y"], "image": b"\xff"},
        {"path": "b.jpg", "label": []},
    ]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "labels.parquet")
    reader = MultiLabelReader(tmp_path / "labels.parquet")
    assert [reader.target(i).tolist() for i in range(2)] == [[1, 1], [0, 0]]


def test_the_split_of_sets_is_drawn_by_the_rarest_label(tmp_path: Path) -> None:
    rows = [f"{i:03d}.jpg,{'common;rare' if i < 10 else 'common'}" for i in range(100)]
    reader = MultiLabelReader(write(tmp_path, "path,label", *rows))
    counts = [reader.counts(mode).tolist() for mode in ("train", "val", "test")]
    assert counts == [[80, 8], [10, 1], [10, 1]]


@given(
    sets=st.lists(st.sets(st.sampled_from(["a", "b", "ä c", "0"])), min_size=1).filter(
        lambda sets: any(sets)
    )
)
def test_any_sets(sets: list[set[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("sets")
    rows = [f"{i}.jpg,{';'.join(labels)}" for i, labels in enumerate(sets)]
    reader = MultiLabelReader(write(folder, "path,label", *rows))
    names = np.array(reader.class_names)
    assert [set(names[reader.target(i) > 0]) for i in range(len(reader))] == sets


def test_numbers(tmp_path: Path) -> None:
    rows = ["path,name,width,height", "a.jpg,x,1.5,2", "b.jpg,y, 1e3 ,-3"]
    reader = RegressionReader(write(tmp_path, *rows))
    assert reader.class_names == ("width", "height")
    assert reader.target(1).dtype == np.float32
    assert [reader.target(i).tolist() for i in range(2)] == [[1.5, 2], [1000, -3]]
    assert "columns that are not used: 1 (name)." in reader.warnings
    one = RegressionReader(tmp_path / "labels.csv", columns=["height"])
    assert one.target(1).tolist() == [-3]
    assert one.recipe()["fingerprint"] != reader.recipe()["fingerprint"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["path,label", "a.jpg,1", "b.jpg,many"], "row 2: the column 'label' has the value 'many'"),
        (["path,label", "a.jpg,1", "b.jpg,inf"], "row 2: the column 'label' has the value 'inf'"),
        (["path,label", "a.jpg,1", "b.jpg,1e39"], "row 2: the column 'label' has the value '1e39'"),
        (["path,label", "a.jpg,1", "b.jpg,"], "row 2: the column 'label' is empty"),
        (["path,label", "a.jpg,1", "a.jpg,2"], "two different values in 'label'"),
        (["path,name", "a.jpg,x"], "no column of numbers; its columns are name"),
        (["path", "a.jpg"], "no column of numbers"),
        (["label", "1"], "no column 'path'"),
    ],
)
def test_unusable_tables_of_numbers(tmp_path: Path, rows: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        RegressionReader(write(tmp_path, *rows))


def test_one_column_per_output(tmp_path: Path) -> None:
    rows = [
        "path,Kind,tags,age,mask,split",
        "a.jpg,cat,x;y,1.5,masks/a.png,train",
        "b.jpg,dog,,2.5,masks/b.png,val",
    ]
    (tmp_path / "masks").mkdir()
    for name in "ab":
        Image.fromarray(np.eye(4, dtype=np.uint8)).save(tmp_path / f"masks/{name}.png")
    reader = TableReader(write(tmp_path, *rows))
    assert reader.columns == {"Kind": "class", "tags": "set", "age": "number", "mask": "mask"}
    names = {"Kind": ("cat", "dog"), "tags": ("x", "y"), "age": ("age",), "mask": ("0", "1")}
    assert reader.class_names == names
    target = reader.target(1)
    assert target["Kind"] == 1
    assert target["Kind"].dtype == np.int32
    assert target["tags"].tolist() == [0, 0]
    assert target["age"].tolist() == [2.5]
    assert target["mask"] == {"mask": str(tmp_path / "masks/b.png")}
    selected = TableReader(tmp_path / "labels.csv", columns={"age": "class"})
    assert selected.class_names == {"age": ("1.5", "2.5")}


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"age": "number", "size": "number"}, "no column 'size'; its columns of labels are age"),
        ({"age": "float"}, "expected one of class, set, number, mask"),
    ],
)
def test_wrong_columns(tmp_path: Path, columns: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TableReader(write(tmp_path, "path,age", "a.jpg,1"), columns=columns)


@pytest.mark.parametrize("heading", ["label", "weight"])
def test_the_check_of_numbers_has_no_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], heading: str
) -> None:
    rows = [f"{i}.jpg,{i}.5" for i in range(50)]
    reader = open_dataset(write(tmp_path, f"path,{heading}", *rows))
    print_findings(reader, [])
    shown = capsys.readouterr().out
    assert "50 images, columns: 1" in shown
    assert heading in shown
    assert "class" not in shown
