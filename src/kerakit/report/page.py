"""A page of HTML in one file: it loads nothing, runs no script, and shows what users named as text.

The page is well-formed XML too, so that any parser reads it.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""What the browser is told to hold the page to: no script, and nothing from anywhere else."""

THUMBNAIL = 192
"""Longer side of a picture in a gallery, in pixels."""

PIXELATED_BELOW = 64
"""Pictures whose longer side has fewer pixels are kept bit by bit, and enlarged without blurring."""

ROWS_OPEN = 40
"""A table of more rows is folded until it is clicked on."""

_STYLE = Path(__file__).with_name("page.css")
_VOID = ("meta", "img", "br")
_NOT_TEXT = dict.fromkeys(
    (*range(9), 11, 12, *range(14, 32), *range(127, 160), 0xFFFE, 0xFFFF),
    "\N{REPLACEMENT CHARACTER}",
)
_SHARES = ("accuracy", "agreement", "same_class", "drop", "share", "precision", "recall", "f1")


class Html(str):
    """HTML. Any other text is escaped where it is put into HTML."""

    __slots__ = ()


def escaped(value: object) -> Html:
    """Return ``value`` as HTML: as it is if it is HTML already, nothing for None, else its text, escaped.

    What HTML cannot hold, as control characters and names of files that are not UTF-8, becomes U+FFFD.
    """
    if isinstance(value, Html):
        return value
    if value is None:
        return Html()
    text = str(value).encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return Html(html.escape(text.translate(_NOT_TEXT)))


def join(*parts: object) -> Html:
    """Return the parts, escaped, one after the other."""
    return Html("".join(map(escaped, parts)))


def tag(name: str, /, *children: object, **attributes: object) -> Html:
    """Return an element. In names of attributes ``_`` stands for ``-``, and at the end for nothing; None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escaped(f"{value:.6g}" if isinstance(value, float) else value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Html(
        f"<{name}{given} />" if name in _VOID else f"<{name}{given}>{join(*children)}</{name}>"
    )


def document(title: str, *body: object) -> str:
    """Return a whole page."""
    head = join(
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=Html(POLICY)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", title),
        tag("style", Html(_STYLE.read_text(encoding="utf-8"))),
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body><main>{join(*body)}</main></body></html>\n'


# ----------------------------------------------------------------------------------------------------------------------- parts


def header(title: str, *under: object) -> Html:
    """Return the head of the page: its title, and lines under it."""
    return tag("header", tag("h1", title), *(tag("p", line) for line in under))


def section(heading: str, *parts: object) -> Html:
    """Return a part of the page under its heading."""
    return tag("section", tag("h2", heading), *parts)


def note(*parts: object) -> Html:
    """Return a paragraph in small print."""
    return tag("p", *parts, class_="note")


def command(text: str) -> Html:
    """Return a command to be copied."""
    return tag("pre", tag("code", text))


def badge(text: str, kind: str) -> Html:
    """Return a word that stands out; ``kind`` is "good", "bad" or "idle"."""
    return tag("span", text, class_=f"badge {kind}")


def tiles(*parts: tuple[str, object, object]) -> Html:
    """Return figures in large print: of each what it is, the figure, and a word about it."""
    made = (
        tag("div", tag("span", what), tag("b", figure), tag("small", word))
        for what, figure, word in parts
    )
    return tag("div", *made, class_="tiles")


def side_by_side(*parts: tuple[str, Html]) -> Html:
    """Return pictures beside each other where there is room, each with its title above."""
    made = (
        tag("figure", tag("figcaption", title), tag("div", picture, class_="wide"))
        for title, picture in parts
    )
    return tag("div", *made, class_="beside")


def table(
    headings: Sequence[object], rows: Sequence[Sequence[object]], numbers: Collection[object] = ()
) -> Html:
    """Return a table; the columns with the headings ``numbers`` are set to the right. One of many rows is folded."""
    sides = ["n" if heading in numbers else None for heading in headings]
    head = tag(
        "tr",
        *(
            tag("th", heading, class_=side, scope="col")
            for heading, side in zip(headings, sides, strict=True)
        ),
    )
    body = [
        tag("tr", *(tag("td", cell, class_=side) for cell, side in zip(row, sides, strict=True)))
        for row in rows
    ]
    whole = tag("div", tag("table", tag("thead", head), tag("tbody", *body)), class_="wide")
    return (
        whole
        if len(rows) <= ROWS_OPEN
        else tag("details", tag("summary", f"all {len(rows):,} rows"), whole)
    )


# --------------------------------------------------------------------------------------------------------- values of a report


def shown(value: Any, name: str = "") -> Html:
    """Return any value of a report: a list of dictionaries as a table, a dictionary as names and values, others in words.

    Args:
        value: what JSON holds.
        name: its key; its ending tells shares, bytes and milliseconds.
    """
    if isinstance(value, Mapping):
        return tag(
            "dl",
            *(
                tag("div", tag("dt", in_words(key)), tag("dd", shown(one, key)))
                for key, one in value.items()
            ),
        )
    if isinstance(value, (list, tuple)):
        if value and all(isinstance(one, Mapping) for one in value):
            return _records(value)
        return (
            join(*(join(", " if i else "", shown(one, name)) for i, one in enumerate(value)))
            if value
            else Html("none")
        )
    return tag("code", value) if name.endswith("sha256") else escaped(_value(value, name))


def made_with(report: Mapping[str, Any]) -> Html:
    """Return what ``machine.facts`` found out, as a section."""
    return section(
        "Made with",
        shown({**{key: report[key] for key in ("machine", "cpu", "cores")}, **report["versions"]}),
    )


def in_words(name: str) -> str:
    """Return the key of a report as words."""
    return str(name).replace("_", " ")


def _records(records: Sequence[Mapping[str, Any]]) -> Html:
    keys = list(dict.fromkeys(key for record in records for key in record))
    numbers = [
        in_words(key) for key in keys if all(_is_number(record.get(key, 0)) for record in records)
    ]
    rows = [
        [shown(record[key], key) if key in record else "" for key in keys] for record in records
    ]
    return table([in_words(key) for key in keys], rows, numbers)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _value(value: Any, name: str) -> str:
    if value is None:
        return "–"  # noqa: RUF001 - what tables have where nothing is
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, float)) and name.endswith("bytes"):
        return kibibytes(value)
    if isinstance(value, int):
        return f"{value:,}" if abs(value) > 9999 else str(value)
    if isinstance(value, float):
        return (
            f"{value:.2%}"
            if name.endswith(_SHARES)
            else f"{value:.2f} ms"
            if name.endswith("_ms")
            else f"{value:.4g}"
        )
    return str(value)


def when(created: str) -> str:
    """Return a time of a report, as ISO 8601 has it, in words."""
    return f"{datetime.fromisoformat(created).astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def kibibytes(size: float) -> str:
    """Return a number of bytes in KiB."""
    return f"{size / 1024:,.0f} KiB"


# -------------------------------------------------------------------------------------------------------------------- pictures


def picture(image: Image.Image, alt: str) -> Html:
    """Return an image, part of the page: JPEG, or PNG where it is small."""
    small = max(image.size) < PIXELATED_BELOW
    bytes_ = io.BytesIO()
    image.convert("RGB").save(
        bytes_, "PNG" if small else "JPEG", **({} if small else {"quality": 82, "optimize": True})
    )
    source = f"data:image/{'png' if small else 'jpeg'};base64,{base64.b64encode(bytes_.getvalue()).decode()}"
    width, height = image.size
    return tag(
        "img", src=source, alt=alt, width=width, height=height, class_="small" if small else None
    )


def gallery(images: Sequence[tuple[Any, str, Sequence[object], str]]) -> Html:
    """Return images with what is said of each below it.

    Args:
        images: of each its pixels, (height, width, 3), values from 0 to 255; its class; lines below that; its name.
    """
    made = []
    for pixels, right, lines, name in images:
        image = Image.fromarray(np.asarray(pixels).astype(np.uint8))
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        said = tag(
            "figcaption", tag("b", right), *(tag("div", line) for line in lines), tag("small", name)
        )
        made.append(tag("figure", picture(image, name), said))
    return tag("div", *made, class_="gallery")


def answered(who: str, answer: str, confidence: float) -> Html:
    """Return a line of a gallery: who answered what, and how surely."""
    return join(f"{who}: ", tag("bdi", answer), f" {confidence:.0%}")
