"""Charts as SVG for pages and as PNG for run folders."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from PIL import Image

from kerakit import report
from kerakit.report import charts
from kerakit.report.accuracy_latency import (
    Dot,
    FormatPoint,
    place_labels,
    plot_accuracy_latency,
)
from kerakit.report.svg import to_svg

ROWS = [
    {"epoch": epoch, "loss": 1 / epoch, "val_loss": 1.1 / epoch, "accuracy": 1 - 1 / epoch}
    for epoch in range(1, 6)
]
POINT = FormatPoint("int8", 1.0, 0.9, 2048, True)


def svg(figure: Figure) -> ElementTree.Element:
    return ElementTree.fromstring(to_svg(figure, "a < b"))  # noqa: S314 - our own


def texts(figure: Figure) -> list[str]:
    return ["".join(element.itertext()) for element in svg(figure).iter("text")]


def every_chart() -> list[Figure]:
    return [
        charts.plot_curves(ROWS, [(2, "best")]),
        charts.plot_confusion_matrix(np.array([[3, 1], [0, 2]]), ["a", "b"]),
        plot_accuracy_latency([POINT], "accuracy", (0.89, "gate"), 0.04),
        charts.plot_trials([(0, 0.5, {"x": 1})], ["x"], "accuracy", True),
    ]


def test_svg_refers_to_nothing_and_repeats_no_identifier() -> None:
    for figure in every_chart():
        root = svg(figure)
        assert root.attrib["aria-label"] == "a < b"
        assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "text", "image"}
        for element in root.iter():
            assert not {"id", "clip-path", "class"} & set(element.attrib)
            assert "url(" not in element.get("style", "")
            assert element.get("href", "data:image/png").startswith("data:image/png")


def test_equal_figures_give_equal_files(tmp_path: Path) -> None:
    for one, other in zip(every_chart(), every_chart(), strict=True):
        assert to_svg(one, "") == to_svg(other, "")
        charts.save_png(one, tmp_path / "one.png")
        charts.save_png(other, tmp_path / "other.png")
        assert (tmp_path / "one.png").read_bytes() == (tmp_path / "other.png").read_bytes()


def test_colors_are_variables_of_the_page() -> None:
    css = (Path(report.__file__).parent / "templates" / "palette.css").read_text()
    light = css[: css.index("@media")]
    for name, color in charts.COLORS.items():
        assert f"--{name}: {color};" in light
    fixed = {"#ffffff"}  # numbers in dark cells of a confusion matrix
    for figure in every_chart():
        assert set(re.findall("#[0-9a-f]{6}", to_svg(figure, ""))) <= fixed


def test_png_is_complete_and_settings_are_restored(tmp_path: Path) -> None:
    before = dict(mpl.rcParams)
    for figure in every_chart():
        charts.save_png(figure, tmp_path / "chart.png")
        with Image.open(tmp_path / "chart.png") as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels[0, 0] == 255
        assert len(np.unique(pixels)) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]
    assert dict(mpl.rcParams) == before


# --------------------------------------------------------------------------------------- curves


def lines(figure: Figure) -> list[Any]:
    found = [line for axes in figure.axes for line in axes.lines]
    return [line for line in found if np.size(line.get_xdata()) > 2]


def test_each_metric_has_a_chart_and_nan_a_gap() -> None:
    rows = [
        {"epoch": e, "loss": y, "val_loss": 1.0, "a": 1.0} for e, y in enumerate((1, math.nan, 2))
    ]
    figure = charts.plot_curves(rows)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["loss", "a"]
    assert [line.get_label() for line in lines(figure)] == ["training", "validation", "training"]
    assert np.isnan(lines(figure)[0].get_ydata()).tolist() == [False, True, False]


def test_marks_are_labeled_on_lines_of_their_own() -> None:
    figure = charts.plot_curves(ROWS, [(3, "finetune"), (3, "best"), (1, "head")])
    heights = {
        text.get_text(): text.xyann[1]
        for text in figure.axes[0].texts
        if isinstance(text, Annotation)
    }
    assert set(heights) == {"finetune", "best", "head"}
    assert heights["finetune"] != heights["best"]


def test_a_single_epoch_is_plotted() -> None:
    assert "epoch" in texts(charts.plot_curves([{"epoch": 1, "loss": 0.5}]))


# ------------------------------------------------------------------------------ confusion matrix


@pytest.mark.parametrize(
    ("classes", "numbers", "names"),
    [
        (1, True, True),
        (30, True, True),
        (31, False, True),
        (100, False, True),
        (1000, False, False),
    ],
)
def test_many_classes_have_no_numbers_and_very_many_no_names(
    classes: int, numbers: bool, names: bool
) -> None:
    matrix = np.eye(classes, dtype=np.int64) * 777
    figure = charts.plot_confusion_matrix(matrix, [f"class {i}" for i in range(classes)])
    found = texts(figure)
    assert ("777" in found) is numbers
    assert ("class 0" in found) is names
    assert len(to_svg(figure, "")) < 200_000


def test_cells_have_the_fraction_of_their_row_as_opacity() -> None:
    figure = charts.plot_confusion_matrix(np.array([[3, 1], [0, 2]]), ["a", "b"], normalize=True)
    (image,) = figure.axes[0].images
    pixels = np.asarray(image.get_array())
    assert pixels[..., 3].tolist() == [[int(255 * 0.8), int(255 * 0.4)], [0, 255]]
    assert (pixels[0, 0, :3] == pixels[1, 1, :3]).all()
    assert (pixels[0, 0, :3] != pixels[0, 1, :3]).any()
    assert {"75%", "25%", "100%"} <= set(texts(figure))
    assert "0%" not in texts(figure)


def test_names_are_text_whatever_they_contain() -> None:
    names = ["$x_1$", "a\x00b", "\N{T-SHIRT}", "x" * 50]
    found = texts(charts.plot_confusion_matrix(np.eye(4, dtype=np.int64), names))
    assert {"$x_1$", "a\ufffdb", "\N{T-SHIRT}"} <= set(found)
    assert max(map(len, found)) < 30


# --------------------------------------------------------------------------- accuracy and latency


names = st.sampled_from(["h5", "int8", "float32", "dynamic_range", "saved_model", "int16x8"])
dots = st.builds(Dot, st.floats(60, 860), st.floats(46, 330), st.floats(5, 16))


@given(st.lists(st.tuples(names, dots), min_size=1, max_size=11), st.floats(50, 320))
def test_no_label_covers_a_dot_or_another_label(points: list[tuple[str, Dot]], gate: float) -> None:
    area, line = (56.0, 32.0, 886.0, 340.0), (56.0, gate, 886.0, gate + 4)
    labels, placed = zip(*points, strict=True)
    sizes = [(7.5 * len(label), 14.0) for label in labels]
    boxes = place_labels(sizes, placed, area, [line])
    for box, size in zip(boxes, sizes, strict=True):
        assert (box[2] - box[0], box[3] - box[1]) == pytest.approx(size)
        assert min(box[0] - area[0], box[1] - area[1], area[2] - box[2], area[3] - box[3]) >= 0
    circles = [(d.x - d.radius, d.y - d.radius, d.x + d.radius, d.y + d.radius) for d in placed]
    for one, other in [
        *itertools.combinations(boxes, 2),
        *itertools.product(boxes, [*circles, line]),
    ]:
        assert one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(st.floats(1e-3, 1e4), st.floats(0, 1), st.integers(0, 2**31)),
        min_size=1,
        max_size=11,
    ),
    st.floats(-1, 1),
)
def test_every_dot_is_inside_the_axes(values: list[tuple[float, float, int]], gate: float) -> None:
    points = [FormatPoint(str(i), x, y, size, True) for i, (x, y, size) in enumerate(values)]
    figure = plot_accuracy_latency(points, "accuracy", (gate, "gate"), 0.04)
    (axes,) = figure.axes
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    for _, x, y, _ in ((0, *value) for value in values):
        assert left < x < right
        assert low <= y <= high
    assert low <= gate <= high


def test_formats_that_failed_are_red() -> None:
    points = [POINT, FormatPoint("h5", 3.0, 0.8, 4096, False)]
    figure = plot_accuracy_latency(points, "accuracy", (0.89, "the gate"), 0.04)
    markers = {
        float(np.ravel(line.get_xdata())[0]): line.get_color()
        for line in figure.axes[0].lines
        if line.get_marker() == "o"
    }
    assert markers == {1.0: charts.COLORS["accent"], 3.0: charts.COLORS["bad"]}
    assert {"int8", "h5", "the gate", "accuracy", "latency (ms)"} <= set(texts(figure))


# ----------------------------------------------------------------------------------------- trials


@pytest.mark.parametrize(("higher", "best"), [(True, [0.5, 0.7, 0.7]), (False, [0.5, 0.5, 0.2])])
def test_trials_over_numbers_choices_and_wide_ranges(higher: bool, best: list[float]) -> None:
    trials: list[tuple[int, float, dict[str, Any]]] = [
        (0, 0.5, {"rate": 1e-4, "model": "a"}),
        (1, 0.7, {"rate": 1e-2, "model": "b"}),
        (3, 0.2, {"rate": 1e-3}),
    ]
    figure = charts.plot_trials(trials, ["rate", "model", "unused"], "val_accuracy", higher)
    first, rate, _, _ = figure.axes
    assert first.lines[0].get_ydata().tolist() == best  # type: ignore[union-attr]
    assert rate.get_xscale() == "log"
    found = texts(figure)
    assert {"trial", "val_accuracy", "rate", "model", "unused", "a", "b"} <= set(found)
    assert not [text for text in found if "mathdefault" in text]
