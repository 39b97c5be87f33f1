"""Charts as SVG elements of report pages, in the colors of the page."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from kerakit.report.charts import COLORS, styled
from kerakit.report.formatting import clean_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_KEPT = ("d", "x", "y", "width", "height", "transform", "style", "href")
_VARIABLES = {color: f"var(--{name})" for name, color in COLORS.items()}


def to_svg(figure: Figure, alt: str) -> str:
    """Return a figure as an SVG element for HTML, in the colors of the page, without references.

    Args:
        figure: a figure of this module.
        alt: its description for screen readers.
    """
    file = io.StringIO()
    with styled():
        figure.savefig(file, format="svg")
    root = ElementTree.fromstring(file.getvalue())  # noqa: S314 - matplotlib's own output
    width, height = (float(size) for size in root.attrib["viewBox"].split()[2:])
    _simplify(root)
    root.attrib = {
        "viewBox": f"0 0 {width:g} {height:g}",
        "role": "img",
        "aria-label": clean_text(alt),
        # It shrinks with the page until its text becomes too small to read.
        "style": f"max-width:{width:.0f}px;min-width:{0.8 * width:.0f}px",
    }
    return ElementTree.tostring(root, encoding="unicode")


def _simplify(root: ElementTree.Element) -> None:
    """Drop definitions, identifiers and namespaces, so that a page can hold many charts."""
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.attrib = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
    symbols = {f"#{path.attrib['id']}": path for path in root.iterfind(".//defs/path[@id]")}
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("defs", "metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        if element.tag == "use":
            _inline(element, symbols[element.attrib["href"]])
        element.attrib = {
            name: _simplify_value(name, value)
            for name, value in element.attrib.items()
            if name in _KEPT
        }
        if element.tag != "text":
            element.text = None
        element.tail = None


def _inline(use: ElementTree.Element, symbol: ElementTree.Element) -> None:
    """Turn a reference to a marker into the marker."""
    use.tag = "path"
    x, y = use.attrib.pop("x", "0"), use.attrib.pop("y", "0")
    style = use.attrib.get("style", symbol.attrib.get("style", ""))
    use.attrib = {"d": symbol.attrib["d"], "transform": f"translate({x} {y})", "style": style}


def _simplify_value(name: str, value: str) -> str:
    if name == "href":
        return value
    if name == "style":
        # The page's font.
        value = re.sub(r"font: ([^;']*?)(\d+(?:\.\d+)?px)[^;]*", _font_style, value)
        value = re.sub(r"font-family:[^;]*;?", "", value)
        return re.sub(r"#[0-9a-f]{6}", lambda found: _VARIABLES.get(found[0], found[0]), value)
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value)


def _font_style(found: re.Match[str]) -> str:
    weight = ";font-weight:bold" if re.search("bold|[67]00", found[1]) else ""
    return f"font-size:{found[2]}{weight}"
