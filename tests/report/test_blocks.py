"""A page of any content: what users named is text, and nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kerakit.report import page as report_page
from kerakit.report.confusion import confusion_sections
from kerakit.report.formatting import format_label, format_value
from kerakit.report.page import (
    MAX_OPEN_ROWS,
    Badge,
    Bar,
    Block,
    Code,
    Command,
    Gallery,
    Heading,
    ImageBlock,
    Labeled,
    Note,
    Paragraph,
    Sample,
    Section,
    SideBySide,
    Table,
    Tile,
    Tiles,
    environment_section,
    make_block,
    render,
)
from pages import Page

HOSTILE = [
    "<script>alert(1)</script>",
    "\" onload='x' & &amp;",
    "]]></style><img src='http://example.com/x.png'/>",
    "{{ page }}{% raw %}",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "\N{T-SHIRT}\N{ZERO WIDTH JOINER}",
    "C:\\photos\\a_b",
    "$x_1$",
]


def page(*blocks: Block, heading: str = "heading", more: Sequence[Section] = ()) -> Page:
    content = [Section(heading, blocks), *more]
    read = Page(render(report_page.Page("title", [], content)))
    read.expect_no_requests()
    return read


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_out_as_text(name: str) -> None:
    sample = Sample(np.zeros((8, 8, 3), np.uint8), name, [name], name)
    blocks: list[Block] = [
        Paragraph(name, name),
        Paragraph(name, Badge(name, "good")),
        Note(name),
        Heading(name),
        Command(name),
        Tiles([Tile(name, name, name)]),
        Table([name], [[name], [Code(name, name)], [Labeled(name, name)]]),
        make_block({name: [{name: name}]}),
        SideBySide([(name, Note(name))]),
        ImageBlock(Image.new("RGB", (8, 8)), name),
        Gallery([sample]),
    ]
    read = page(*blocks, heading=name)
    assert read.headings == [name]
    # format_label turns "_" into " ".
    assert read.text.count(name) >= 22
    matrices = {name: np.array([[3, 1], [0, 2]]), "other": np.eye(2, dtype=np.int64)}
    read = page(more=confusion_sections(matrices, [name, "pear"]))
    assert read.text.count(name) >= 6
    # Long names are shortened in charts.
    charts = " ".join("".join(chart.itertext()) for chart in read.charts())
    assert charts.count(name[:10]) == 4


@given(st.text(st.characters(codec=None, exclude_characters="\r")))
def test_any_text_is_kept_but_for_what_xml_cannot_hold(text: str) -> None:
    read = page(Note(text))
    found = read.root.find(".//p")
    assert found is not None
    kept = "".join(found.itertext())
    assert len(kept) >= len(text)
    possible = [c for c in text if c.isprintable() and not "\ud800" <= c <= "\udfff"]
    assert [c for c in kept if c.isprintable() and c != "\ufffd"] == [
        c for c in possible if c not in "\ufffd\ufffe\uffff"
    ]


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: (
        st.lists(inside, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.just("metrics"), inside, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=50)
@given(Json)
def test_any_json_value_is_shown(value: Any) -> None:
    page(make_block(value))


def test_keys_decide_about_formats() -> None:
    records = [
        {"attempt": "first", "metrics": {"accuracy": 0.5, "ece": 0.01}, "passed": True},
        {"attempt": "second", "drop": -0.021, "latency_ms": 1.234, "size_bytes": None},
    ]
    (found,) = page(make_block(records)).tables()
    assert found == [
        ["attempt", "accuracy", "ECE", "passed", "drop (pp)", "latency (ms)", "size (KiB)"],
        ["first", "50.00 %", "0.010", "yes", "", "", ""],
        ["second", "", "", "", "-2.10", "1.23", "\N{EN DASH}"],
    ]


@pytest.mark.parametrize(
    ("key", "value", "label", "text"),
    [
        ("worst_class_recall", 1.0, "worst-class recall", "100.00 %"),
        ("drop", -1e-9, "drop (pp)", "0.00"),
        ("size_bytes", 2**20, "size (KiB)", "1,024"),
        ("on_tpu", 12345, "on Edge TPU", "12,345"),
        ("seconds", 0.125, "seconds", "0.125"),
        ("health", [], "health", "none"),
        ("loss", ["a", "b"], "loss", "a, b"),
    ],
)
def test_labels_and_values(key: str, value: Any, label: str, text: str) -> None:
    assert format_label(key) == label
    assert make_block(value, key) == text


def test_long_tables_are_folded() -> None:
    for rows, folded in ((MAX_OPEN_ROWS, 0), (MAX_OPEN_ROWS + 1, 1)):
        read = page(Table(["a", "b"], [[str(i), Bar(i / rows)] for i in range(rows)], ["a"]))
        assert len(list(read.root.iter("details"))) == folded
        assert len(read.tables()[0]) == rows + 1
        assert [cell.get("class") for cell in read.root.iter("th")] == ["n", None]


def test_large_images_are_shrunk_and_small_ones_stay_lossless() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)
    samples = [Sample(noise, "a", [], ""), Sample(noise[:20, :30], "b", [], "")]
    large, small = page(Gallery(samples)).images()
    assert (large.format, large.size) == ("JPEG", (128, 192))
    assert small.format == "PNG"
    assert (np.asarray(small) == noise[:20, :30]).all()


def test_environment() -> None:
    report = {"machine": "m", "cpu": None, "cores": 2, "versions": {"ai-edge_litert": "2.1"}}
    said = page(more=[environment_section(report)]).section("Environment")
    assert said == "Environment machine m CPU \N{EN DASH} cores 2 ai-edge_litert 2.1"


# ------------------------------------------------------------------------------------ confusion


def test_confused_pairs_and_classes_of_one_model() -> None:
    matrix = np.array([[1, 2, 0], [0, 1, 0], [1, 0, 0]])
    pairs, classes = page(more=confusion_sections({"Keras": matrix}, ["a", "b", "c"])).tables()
    assert pairs[1:] == [["a", "b", "2", "66.7 %"], ["c", "a", "1", "100.0 %"]]
    assert classes[0] == ["class", "images", "precision", "recall", "F1"]
    assert classes[1] == ["a", "3", "50.0 %", "33.3 %", "40.0 %"]


def test_a_class_without_images_has_no_metrics() -> None:
    matrix = np.array([[3, 1], [0, 0]])
    _, classes = page(more=confusion_sections({"Keras": matrix}, ["a", "b"])).tables()
    assert classes[2] == ["b", "0", "", "", ""]
    *_, classes = page(
        more=confusion_sections({"Keras": matrix, "int8": matrix}, ["a", "b"])
    ).tables()
    assert classes[2] == ["b", "0", "", ""]


def test_models_are_compared() -> None:
    matrices = {"Keras": np.array([[9, 1], [0, 90]]), "int8": np.diag([10, 90])}
    read = page(more=confusion_sections(matrices, ["a", "b"]))
    assert read.tables()[-1][1] == ["a", "10", "90.0 %", "100.0 %"]
    said = read.section("Confusion matrix")
    assert "Keras: Accuracy 99.00 % on 100 images" in said
    assert "int8: Accuracy 100.00 %" in said
    assert "correct" in read.section("Most confused pairs")
    assert len(read.charts()) == 2


def test_formats_of_values_of_json() -> None:
    assert format_value({"a": ["\u00e9"]}) == '{"a": ["\u00e9"]}'
    assert format_value(None) == "\N{EN DASH}"
