"""Extension of the API reference: a docstring's ``>>>`` example becomes its section "Examples"."""

import re
from typing import Any

import griffe


class Examples(griffe.Extension):
    """Without a heading, Markdown would read ``>>>`` as a quotation."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Put a heading before the first example of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = add_heading(obj.docstring.value)


def add_heading(docstring: str) -> str:
    """Return a docstring with a heading before its first example; the example is indented."""
    found = re.search(r"^>>> ", docstring, re.MULTILINE)
    if found is None:
        return docstring
    example = "\n".join(f"    {line}" for line in docstring[found.start() :].splitlines())
    return f"{docstring[: found.start()]}Examples:\n{example}"
