"""A page of any content: what users named is text, and nothing is loaded."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import answers, charts, machine
from kerakit.report.page import document, escaped, gallery, join, section, shown, table, tag
from pages import Page

HOSTILE = [
    "<script>alert(1)</script>",
    "\" onload='x' & &amp;",
    "]]></style><img src='http://example.com/x.png'/>",
    "\u202eright to left \u05e9\u05dc\u05d5\u05dd",
    "\N{T-SHIRT} \N{ZERO WIDTH JOINER}",
    "C:\\photos\\a b",
]


def page(*parts: object) -> Page:
    read = Page(document("title", *parts))
    read.expect_it_loads_nothing()
    return read


@pytest.mark.parametrize("name", HOSTILE)
def test_names_come_out_as_text(name: str) -> None:
    matrix = np.array([[3, 1], [0, 2]])
    pixels = np.zeros((8, 8, 3), np.uint8)
    parts = [
        section(
            name,
            table([name], [[name]]),
            shown({name: [{name: name}]}),
            gallery([(pixels, name, [name], name)]),
        ),
        answers.drawn(("title", matrix, False), names=[name, "pear"]),
        answers.pairs(matrix, [name, "pear"]),
        charts.scatter([charts.Dot(name, 1, 0.5, 1, True, name)], "x", "y", (0.4, name), 0.1),
    ]
    read = page(*parts)
    assert read.headings == [name]
    assert read.text.count(name) >= 7
    assert read.text.count(name[:10]) >= 9  # in the matrix long names are cut


@given(st.text(st.characters(codec=None, exclude_characters="\r")))
def test_any_text_is_kept_but_for_what_html_cannot_hold(text: str) -> None:
    read = Page(document("title", tag("p", text, title=text)))
    found = read.root.find(".//p")
    assert found is not None
    kept = "".join(found.itertext())
    assert len(kept) >= len(text)
    possible = [c for c in text if c.isprintable() and not "\ud800" <= c <= "\udfff"]
    assert [c for c in kept if c.isprintable() and c != "\ufffd"] == [
        c for c in possible if c not in "\ufffd\ufffe\uffff"
    ]


def test_html_is_escaped_once() -> None:
    assert escaped(tag("b", "a & b")) == "<b>a &amp; b</b>"
    assert join("a<", None, tag("br"), 1.5) == "a&lt;<br />1.5"


Json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inside: (
        st.lists(inside, max_size=3) | st.dictionaries(st.text(max_size=5), inside, max_size=3)
    ),
    max_leaves=8,
)


@given(Json)
def test_whatever_a_report_holds_is_shown(value: Any) -> None:
    Page(document("title", shown(value)))


def test_values_are_told_by_their_names() -> None:
    rungs = [
        {"tried": "as it is", "accuracy": 0.5, "bytes": 2048, "maps": True},
        {"tried": "other", "accuracy": None, "latency_ms": 1.234},
    ]
    (found,) = page(shown(rungs)).tables()
    assert found == [
        ["tried", "accuracy", "bytes", "maps", "latency ms"],
        ["as it is", "50.00%", "2 KiB", "yes", ""],
        ["other", "\N{EN DASH}", "", "", "1.23 ms"],
    ]
    assert shown([]) == "none"
    assert shown(["a", "b"]) == "a, b"


def test_pictures_are_kept_small_and_small_ones_bit_by_bit() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 400, 3), dtype=np.uint8)
    large, small = page(gallery([(noise, "a", [], ""), (noise[:20, :30], "b", [], "")])).images()
    assert (large.format, large.size) == ("JPEG", (128, 192))
    assert small.format == "PNG"
    assert (np.asarray(small) == noise[:20, :30]).all()


# ---------------------------------------------------------------------------------------------------------------------- charts

names = st.sampled_from(["h5", "int8", "float32", "dynamic_range", "saved_model", "int16x8"])
dots = st.tuples(st.floats(60, 880), st.floats(40, 310), st.floats(5, 16))


@given(st.lists(st.tuples(names, dots), min_size=1, max_size=11))
def test_no_name_covers_a_dot_or_another_name(
    points: list[tuple[str, tuple[float, float, float]]],
) -> None:
    floor = (56.0, 200.0, 886.0, 204.0)
    area = (56.0, 32.0, 886.0, 316.0)
    words, places = zip(*points, strict=True)
    boxes = charts.place_names(words, places, area, [floor])
    for box in boxes:
        assert min(box[0] - area[0], box[1] - area[1], area[2] - box[2], area[3] - box[3]) >= 0
    circles = [(x - r, y - r, x + r, y + r) for x, y, r in places]
    for one, other in [
        *itertools.combinations(boxes, 2),
        *itertools.product(boxes, [*circles, floor]),
    ]:
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@given(
    st.lists(
        st.tuples(st.floats(1e-3, 1e4), st.floats(0, 1), st.integers(0, 2**31)),
        min_size=1,
        max_size=11,
    ),
    st.floats(-1, 1),
)
def test_every_dot_lies_in_the_picture(
    values: list[tuple[float, float, int]], floor: float
) -> None:
    made = [charts.Dot(str(i), x, y, size, True, "") for i, (x, y, size) in enumerate(values)]
    read = page(charts.scatter(made, "ms", "accuracy", (floor, "gate"), 0.04))
    circles = [element.attrib for element in read.root.iter("circle")]
    assert len(circles) == len(values)
    for circle in circles:
        assert 0 <= float(circle["cx"]) <= 900
        assert 0 <= float(circle["cy"]) <= 360


def test_curves_have_gaps_where_a_value_is_no_number() -> None:
    line = charts.Curve("training", [(1, 0.5), (2, math.nan), (3, 0.4), (4, 0.3)])
    chart = charts.curves("loss", [line], [(3, charts.BEST)])
    assert chart is not None
    path = next(page(chart).root.iter("path")).attrib["d"]
    assert [path.count(c) for c in "ML"] == [2, 1]
    assert charts.curves("loss", [charts.Curve("training", [(1, math.nan)])], []) is None
    assert charts.curves("loss", [charts.Curve("training", [(1, 0.5)])], []) is not None


# --------------------------------------------------------------------------------------------------------------------- answers


def test_confusion() -> None:
    matrix = answers.confusion(np.array([0, 0, 0, 1, 2]), np.array([0, 1, 1, 1, 0]), 3)
    assert matrix.tolist() == [[1, 2, 0], [0, 1, 0], [1, 0, 0]]
    assert answers.most_confused(matrix, 5) == [(0, 1, 2), (2, 0, 1)]
    assert answers.most_confused(matrix, 1) == [(0, 1, 2)]
    (found,) = page(answers.pairs(matrix, ["a", "b", "c"])).tables()
    assert found[1:] == [["a", "b", "2", "66.7%"], ["c", "a", "1", "100.0%"]]
    assert "No image" in answers.pairs(np.eye(2, dtype=np.int64), ["a", "b"])


@pytest.mark.parametrize(
    ("classes", "numbers", "drawn"),
    [(30, True, True), (31, False, True), (100, False, True), (1000, False, False)],
)
def test_how_much_of_a_matrix_is_drawn(classes: int, numbers: bool, drawn: bool) -> None:
    matrix = np.eye(classes, dtype=np.int64) * 777
    read = page(
        answers.drawn(("Keras", matrix, False), names=[f"class {i}" for i in range(classes)])
    )
    assert ("777" in read.text) is numbers
    assert (next(read.root.iter("svg"), None) is not None) is drawn
    assert drawn or "1,000 classes are too many" in read.text


def test_the_interval_of_a_share() -> None:
    """Wilson's own formula, against values of R's prop.test(correct = FALSE)."""
    assert answers.interval(0.5, 10) == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert answers.interval(1, 10) == pytest.approx((0.7225, 1.0), abs=1e-4)
    assert answers.interval(0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)


def test_the_machine_is_named() -> None:
    facts = machine.describe_machine(["numpy"])
    assert facts["versions"] == {
        "tensorflow": facts["versions"]["tensorflow"],
        "numpy": np.__version__,
    }
    assert facts["cores"] >= 1
    assert facts["cpu"] is None or facts["cpu"].strip() == facts["cpu"] != ""
