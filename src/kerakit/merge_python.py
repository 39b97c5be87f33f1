"""Preparation of a three-way merge of Python files: edits of whole statements move by name.

A line-based merge marks a conflict wherever edits of both sides touch. Statements that the owner
added at module level (functions, classes, imports, entries of a dictionary) and constants whose
value the owner changed do not depend on the lines around them, so they are moved into the new text
first.
"""

from __future__ import annotations

import ast


def carry_edits(ours: str, base: str, theirs: str) -> tuple[str, str, str]:
    """Move added statements and changed constants from ``ours`` into ``theirs``.

    Args:
        ours: the owner's text.
        base: the template that it came from.
        theirs: the new template.

    Returns:
        ``ours`` without these edits, ``base``, and ``theirs`` with them; all unchanged where one of
        them is not Python.

    >>> ours, base, theirs = carry_edits("A = 2", "A = 1", "A = 1  # new")
    >>> ours == base, theirs.strip()
    (True, 'A = 2  # new')
    """
    try:
        mine, old, new = _Module(ours), _Module(base), _Module(theirs)
    except SyntaxError:
        return ours, base, theirs
    for key in mine.statements.keys() & old.statements.keys() & new.statements.keys():
        value = mine.value(key)
        if value and value != old.value(key) and old.tree(key) == new.tree(key):
            new.replace_value(key, value)
            mine.replace_value(key, old.value(key))
    keys = list(mine.statements)
    for index, key in enumerate(keys):
        if key not in old.statements and key not in new.statements:
            following = next((k for k in keys[index + 1 :] if k in new.statements), None)
            new.insert(mine.source(key), before=following, is_import=mine.is_import(key))
            mine.remove(key)
    # Removed statements leave blank lines behind.
    rest = mine.text()
    return base if _lines(rest) == _lines(base) else rest, base, new.text()


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


class _Module:
    """The module-level statements of a text, by what they define."""

    def __init__(self, text: str) -> None:
        self._lines = text.splitlines(keepends=True)
        if self._lines and not self._lines[-1].endswith("\n"):
            self._lines[-1] += "\n"
        self.statements = {_key(node): node for node in ast.parse(text).body}
        # Edits by line, so that the line numbers of the statements stay valid.
        self._inserted: dict[int, list[str]] = {}
        self._replaced: dict[int, str] = {}
        self._removed: set[int] = set()

    def is_import(self, key: str) -> bool:
        return isinstance(self.statements[key], (ast.Import, ast.ImportFrom))

    def source(self, key: str) -> str:
        return "".join(self._lines[i] for i in self._range(key))

    def _range(self, key: str) -> range:
        node = self.statements[key]
        first = min([node.lineno, *(d.lineno for d in getattr(node, "decorator_list", []))])
        return range(first - 1, node.end_lineno or node.lineno)

    def value(self, key: str) -> str:
        """Return the source of a constant's value; "" for other statements."""
        node = self.statements[key]
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or node.value is None:
            return ""
        return ast.get_source_segment("".join(self._lines), node.value) or ""

    def tree(self, key: str) -> str:
        """Return a constant's value without its layout."""
        return ast.dump(ast.parse(self.value(key).strip() or "None", mode="eval"))

    def replace_value(self, key: str, value: str) -> None:
        node = self.statements[key]
        assert isinstance(node, (ast.Assign, ast.AnnAssign))  # noqa: S101 - for the type checker
        assert node.value is not None  # noqa: S101
        lines = self._range(key)
        # Columns of ast are bytes of UTF-8.
        head = self._lines[node.value.lineno - 1].encode()[: node.value.col_offset].decode()
        last = (node.value.end_lineno or 1) - 1
        tail = self._lines[last].encode()[node.value.end_col_offset or 0 :].decode()
        start = "".join(self._lines[lines.start : node.value.lineno - 1])
        rest = "".join(self._lines[last + 1 : lines.stop])
        self._removed.update(lines)
        self._replaced[lines.start] = f"{start}{head}{value}{tail}{rest}"

    def remove(self, key: str) -> None:
        self._removed.update(self._range(key))

    def insert(self, source: str, before: str | None, is_import: bool) -> None:
        """Insert a statement before another, or after the last import or statement."""
        if is_import:
            keys = [key for key in self.statements if self.is_import(key)]
            line = self._range(keys[-1]).stop if keys else 0
            self._inserted.setdefault(line, []).append(source)
        elif before is None:
            self._inserted.setdefault(len(self._lines), []).append(f"\n\n{source}")
        else:
            self._inserted.setdefault(self._range(before).start, []).append(f"{source}\n\n")

    def text(self) -> str:
        parts: list[str] = []
        for index, line in enumerate([*self._lines, ""]):
            parts += self._inserted.get(index, [])
            parts.append(self._replaced.get(index, ""))
            if index not in self._removed:
                parts.append(line)
        return "".join(parts)


def _key(node: ast.stmt) -> str:
    """Return the name that a statement defines; without one, the statement itself."""
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return node.name
    if isinstance(node, ast.Assign):
        return " = ".join(map(ast.unparse, node.targets))
    if isinstance(node, ast.AnnAssign):
        return ast.unparse(node.target)
    return ast.unparse(node)
