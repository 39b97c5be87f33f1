"""A report page as data: sections of blocks, rendered to one HTML file without scripts or requests.

The page is well-formed XML, and text from users is escaped by the templates.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image

from kerakit.report.formatting import clean_text, format_label, format_value
from kerakit.report.svg import to_svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THUMBNAIL_SIZE = 192
"""Longer side of an image in a gallery, in pixels."""

PIXELATED_SIZE = 64
"""Images with a longer side below this are stored lossless and enlarged without interpolation."""

MAX_OPEN_ROWS = 40
"""Longer tables are folded."""

# ------------------------------------------------------------------------------- parts of a line


@dataclass(frozen=True)
class Badge:
    """A highlighted word."""

    text: str
    kind: Literal["good", "bad", "idle"]


@dataclass(frozen=True)
class Code:
    """Text in a fixed-width font, with an optional tooltip."""

    text: str
    tooltip: str = ""


@dataclass(frozen=True)
class Labeled:
    """A bold label with a small line of text below it."""

    label: str
    text: str


@dataclass(frozen=True)
class Bar:
    """A horizontal bar; ``fraction`` is its length, from 0 to 1."""

    fraction: float


Inline = str | int | Badge | Code | Labeled | Bar

# ---------------------------------------------------------------------------------------- blocks


@dataclass(frozen=True)
class Paragraph:
    """A paragraph, with an optional label in front."""

    text: str
    label: str | Badge = ""


@dataclass(frozen=True)
class Note:
    """A paragraph in small print."""

    text: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Command:
    """A shell command to copy."""

    text: str


@dataclass(frozen=True)
class Tile:
    """A value in large print, with a label above and a note below."""

    label: str
    value: str | Badge
    note: str = ""


@dataclass(frozen=True)
class Tiles:
    """A row of tiles."""

    tiles: Sequence[Tile]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        headings: column headings.
        rows: one cell per heading.
        numeric: headings of right-aligned columns.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[Inline | Table | Values]]
    numeric: Collection[str] = ()

    @property
    def is_long(self) -> bool:
        """Whether the table is folded."""
        return len(self.rows) > MAX_OPEN_ROWS


@dataclass(frozen=True)
class Values:
    """A list of names with their values."""

    rows: Sequence[tuple[str, Inline | Table | Values]]


@dataclass(frozen=True)
class Chart:
    """A figure of ``kerakit.report.charts``; ``alt`` describes it for screen readers."""

    figure: Figure
    alt: str


@dataclass(frozen=True)
class ImageBlock:
    """An image; where the page is narrower than ``min_width`` pixels, the image scrolls."""

    image: Image.Image
    alt: str
    min_width: int = 0


@dataclass(frozen=True)
class SideBySide:
    """Blocks in columns where the page is wide enough, each with a title or ""."""

    columns: Sequence[tuple[str, Block]]


@dataclass(frozen=True)
class Sample:
    """An image of a dataset.

    Attributes:
        pixels: (height, width, 3), values from 0 to 255.
        label: its true label.
        predictions: lines of text.
        name: name of the image.
    """

    pixels: Any
    label: str
    predictions: Sequence[str]
    name: str


@dataclass(frozen=True)
class Gallery:
    """Thumbnails of samples."""

    samples: Sequence[Sample]


Block = (
    Paragraph
    | Note
    | Heading
    | Command
    | Tiles
    | Table
    | Values
    | Chart
    | ImageBlock
    | SideBySide
    | Gallery
    | Inline
)


@dataclass(frozen=True)
class Section:
    """Blocks under a heading."""

    heading: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A page: title, lines below the title, content."""

    title: str
    lines: Sequence[Paragraph]
    content: Sequence[Tiles | Section]


_TEMPLATES = Path(__file__).with_name("templates")

PALETTE = (_TEMPLATES / "palette.css").read_text(encoding="utf-8")
"""Colors of all pages as CSS variables, light and dark."""

# -------------------------------------------------------------------------------------- rendering


def render(page: Page) -> str:
    """Return ``page`` as HTML.

    >>> "<h2>a &lt; b</h2>" in render(Page("title", [], [Section("a < b", [])]))
    True
    """
    return _ENVIRONMENT.get_template("page.html.jinja").render(page=page) + "\n"


def _render_block(block: Block) -> object:
    """Return what the macro with the name of the block's class renders; text as it is."""
    macros = _ENVIRONMENT.get_template("blocks.html.jinja").module
    return block if isinstance(block, str | int) else getattr(macros, type(block).__name__)(block)


def _render_figure(chart: Chart) -> Markup:
    return Markup(to_svg(chart.figure, chart.alt))  # noqa: S704 - escaped by its XML writer


def _is_pixelated(image: Image.Image) -> bool:
    return max(image.size) < PIXELATED_SIZE


def _to_data_url(image: Image.Image) -> str:
    """Return an image as a data URL: PNG for small images, otherwise JPEG."""
    kind, content = "png" if _is_pixelated(image) else "jpeg", io.BytesIO()
    image.convert("RGB").save(content, kind, quality=82, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"


def _make_thumbnail(pixels: Any) -> Image.Image:
    image = Image.fromarray(np.asarray(pixels).astype(np.uint8))
    image.thumbnail((THUMBNAIL_SIZE, THUMBNAIL_SIZE))
    return image


def _finalize(value: object) -> object:
    return value if isinstance(value, Markup) else clean_text(str(value))


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(_TEMPLATES),
    autoescape=True,
    finalize=_finalize,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.filters |= {
    "html": _render_block,
    "svg": _render_figure,
    "data_url": _to_data_url,
    "thumbnail": _make_thumbnail,
}
_ENVIRONMENT.tests["pixelated"] = _is_pixelated

# ------------------------------------------------------------------------------ values of reports


def make_block(value: Any, key: str = "") -> Code | Table | Values | str:
    """Return any JSON value as a block: a list of objects as a table, an object as values.

    >>> make_block([{"attempt": "percentile", "accuracy": 0.5}]).rows
    [['percentile', '50.00 %']]
    """
    if isinstance(value, Mapping):
        items = _flatten(value).items()
        return Values([(format_label(name), make_block(one, name)) for name, one in items])
    if isinstance(value, list | tuple):
        if not value:
            return "none"
        if all(isinstance(one, Mapping) for one in value):
            return _make_table([_flatten(one) for one in value])
        return ", ".join(format_value(one, key) for one in value)
    return Code(str(value)) if key.endswith("sha256") and value else format_value(value, key)


def _flatten(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its metrics in place of the object that holds them."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= value if key == "metrics" and isinstance(value, Mapping) else {key: value}
    return flat


def _make_table(records: Sequence[Mapping[str, Any]]) -> Table:
    keys = list(dict.fromkeys(key for record in records for key in record))
    rows = [
        [make_block(record[key], key) if key in record else "" for key in keys]
        for record in records
    ]
    numeric = [
        format_label(key)
        for key in keys
        if all(_is_number(record.get(key, 0)) for record in records)
    ]
    return Table([format_label(key) for key in keys], rows, numeric)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def environment_section(report: Mapping[str, Any]) -> Section:
    """Return the section about machine and versions from a report with ``describe_machine``."""
    keys = ("machine", "cpu", "cores")
    rows = [(format_label(key), format_value(report[key])) for key in keys]
    # Names of packages stay as they are.
    rows += [(package, str(version)) for package, version in report["versions"].items()]
    return Section("Environment", [Values(rows)])
