"""Markdown pages from templates."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kerakit.report.formatting import clean_text

# Within words, underscores have no meaning.
_SPECIAL = re.compile(r"([\\`*\[\]#|~$@]|(?<!\w)_|_(?!\w))")


def to_line(text: object) -> str:
    r"""Return untrusted text as one line, without control characters.

    >>> to_line("a\nb  c")
    'a b c'
    """
    return " ".join(clean_text(str(text)).split())


def escape_markdown(text: object) -> str:
    r"""Return untrusted text as one line of Markdown that shows it as it is.

    >>> print(escape_markdown("a|b\n<i> [x]"))
    a\|b &lt;i&gt; \[x\]
    """
    line = to_line(text)
    for char, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(char, entity)
    return _SPECIAL.sub(r"\\\1", line)


def render_text(template: str, **values: Any) -> str:
    """Return a template of Markdown with values; its filter ``md`` escapes untrusted text."""
    return _ENVIRONMENT.get_template(template).render(values)


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=False,  # noqa: S701 - Markdown: untrusted values go through the filter
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_ENVIRONMENT.filters["md"] = escape_markdown
