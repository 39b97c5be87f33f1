"""A report page as a parser of XML reads it, with nothing of the code that wrote it."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path
from xml.etree import ElementTree

from PIL import Image

_LOADING = {
    *("script", "link", "base", "a", "form", "iframe", "frame", "object", "embed"),
    *("video", "audio", "source", "use"),
}


class Page:
    """A page; reading it fails unless it is well-formed."""

    def __init__(self, source: Path | str) -> None:
        self.source = source.read_text(encoding="utf-8") if isinstance(source, Path) else source
        doctype, _, rest = self.source.partition("\n")
        assert doctype == "<!DOCTYPE html>"
        self.root = ElementTree.fromstring(rest)  # noqa: S314 - the tests' own page

    @property
    def text(self) -> str:
        body = self.root.find("body")
        assert body is not None
        return _text(body)

    @property
    def headings(self) -> list[str]:
        return ["".join(element.itertext()) for element in self.root.iter("h2")]

    def section(self, heading: str) -> str:
        """Return all text of a section."""
        for section in self.root.iter("section"):
            if (title := section.find("h2")) is not None and "".join(title.itertext()) == heading:
                return _text(section)
        raise AssertionError(f"{heading!r} is not among {self.headings}")

    def tables(self) -> list[list[list[str]]]:
        """Return the text of each cell of each row of each table."""
        return [
            [[_text(cell) for cell in row] for row in table.iter("tr")]
            for table in self.root.iter("table")
        ]

    def charts(self) -> list[ElementTree.Element]:
        return list(self.root.iter("svg"))

    def captions(self) -> list[str]:
        """Return the text below each image of the galleries."""
        return [
            _text(caption) for caption in self.root.iterfind(".//*[@class='gallery']//figcaption")
        ]

    def images(self) -> list[Image.Image]:
        """Return every image, decoded."""
        images: list[Image.Image] = []
        for element in self.root.iter("img"):
            kind, _, data = element.attrib["src"].partition(";base64,")
            image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
            image.load()
            assert kind == f"data:image/{(image.format or '').lower()}"
            assert image.size == (int(element.attrib["width"]), int(element.attrib["height"]))
            images.append(image)
        return images

    def expect_no_requests(self) -> None:
        policy = [m.attrib["content"] for m in self.root.iter("meta") if "http-equiv" in m.attrib]
        assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
        for element in self.root.iter():
            assert element.tag.lower() not in _LOADING
            for name, value in element.attrib.items():
                assert not name.startswith("on")
                assert name not in ("srcset", "action", "xmlns")
                if name in ("src", "href"):
                    assert value.startswith("data:image/")
                elif name not in ("alt", "title", "aria-label"):
                    assert not re.search(r"url\(|//", value)
            if element.tag == "style":
                assert "url(" not in (element.text or "")
                assert "@import" not in (element.text or "")


def _text(element: ElementTree.Element) -> str:
    return " ".join(" ".join(element.itertext()).split())
