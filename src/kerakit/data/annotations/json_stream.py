"""Elements of large JSON files, one by one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import IO, Any

_CHUNK = 2**22
"""Characters that are read at once."""

_MAX_ELEMENT = 2**28
"""Most characters of one element of a list."""

_Scan = Callable[[str, int], tuple[Any, int]]
"""Function of the json module from a text and a start to a value and its end."""

_SPACE = re.compile(r"[ \t\r\n]*")


def read_elements(file: IO[str]) -> Iterator[tuple[str, Any]]:
    """Yield (key, element) of the lists images, annotations and categories of a JSON object.

    A file of 1 GB takes 10 MB of memory. Each list yields None first.

    Raises:
        ValueError: no JSON object.
    """
    stream = _Stream(file)
    if stream.peek() != "{":
        raise ValueError("it is empty" if not stream.peek() else "it is not a JSON object")
    stream.skip()
    while stream.peek() != "}":
        key = stream.value()
        if not isinstance(key, str) or stream.peek() != ":":
            raise stream.error()
        stream.skip()
        if stream.peek() == "[" and key in ("images", "annotations", "categories"):
            stream.skip()
            yield key, None
            while stream.peek() != "]":
                yield key, stream.value()
                if stream.peek() == ",":
                    stream.skip()
                elif stream.peek() != "]":
                    raise stream.error()
            stream.skip()
        else:
            stream.value()
        if stream.peek() == ",":
            stream.skip()
        elif stream.peek() != "}":
            raise stream.error()
    stream.skip()
    if stream.peek():
        raise stream.error()


class _Stream:
    """Values of a JSON file, one by one."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._scan: _Scan = vars(json.JSONDecoder())["scan_once"]
        self._text, self._at, self._ended = "", 0, False
        self._before = 0

    def peek(self) -> str:
        """Return the next character other than a space, "" at the end."""
        match = _SPACE.match(self._text, self._at)
        self._at = match.end() if match else self._at
        while self._at >= len(self._text) and not self._ended:
            self._read(_CHUNK)
            match = _SPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
        return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Skip one character."""
        self._at += 1

    def value(self) -> Any:
        """Return the next value."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = self._scan(self._text, self._at)
                if end < len(self._text) or self._ended:
                    self._at = end
                    return value
            except StopIteration as error:
                self._check(error.value)
            except json.JSONDecodeError as error:
                self._check(None if error.msg.startswith("Unterminated") else error.pos)
            if len(self._text) - self._at > _MAX_ELEMENT:
                raise self.error()
            self._read(size)
            size *= 2

    def error(self) -> ValueError:
        """Return the error of invalid JSON."""
        return ValueError(f"it is damaged after {self._before + self._at:,} characters")

    def _check(self, at: int | None) -> None:
        """Raise ValueError unless more text may make a value of this text."""
        if self._ended or (at is not None and at < len(self._text) - 100):
            raise self.error()

    def _read(self, size: int) -> None:
        more = self._file.read(size)
        self._ended = not more
        self._before += self._at
        self._text, self._at = self._text[self._at :] + more, 0
