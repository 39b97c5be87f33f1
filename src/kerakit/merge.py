"""Three-way merge of the files of a project.

``git merge-file`` merges lines and marks a conflict wherever edits of both sides touch. Python
files are prepared and, where lines conflict, merged by tokens: statements that the owner added at
module level and constants whose value the owner changed do not depend on the lines around them,
and a template that was only reformatted has the same tokens.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import tempfile
import tokenize
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path

from kerakit.errors import UserError

_CONFLICT = re.compile(
    r"^<{7} [^\n]*\n(?P<ours>.*?)^\|{7} [^\n]*\n(?P<base>.*?)^={7}\n(?P<theirs>.*?)^>{7} [^\n]*\n",
    re.MULTILINE | re.DOTALL,
)


def merge_texts(ours: str, base: str, theirs: str) -> tuple[str, bool]:
    r"""Merge two texts with a common base.

    Args:
        ours: the owner's text.
        base: the template that it came from.
        theirs: the new template.

    Returns:
        The merged text, and whether it has no conflicts; conflicts are marked as git marks them.

    >>> merge_texts("f(1, 2, 3)", "f(1, 2)", "f( 1,  2, )")
    ('f( 1,  2, 3, )\n', True)
    """
    if base in (ours, theirs):
        return (theirs if ours == base else ours), True
    texts = carry_edits(ours, base, theirs)
    merged, is_clean = _merge_lines(*texts)
    if not is_clean and (by_tokens := _merge_tokens(*texts)) is not None:
        return by_tokens, True
    return merged, is_clean


def _merge_lines(ours: str, base: str, theirs: str) -> tuple[str, bool]:
    """Merge lines with ``git merge-file``.

    Lines that the owner added at an edge of a part that the template rewrote are kept beside the
    new part, where git alone would mark a conflict.
    """
    texts = {"project": ours, "base": base, "template": theirs}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8")
        labels = [word for name in texts for word in ("-L", name)]
        command = ["git", "merge-file", "-p", "--diff3", *labels, *map(str, paths)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        except FileNotFoundError:
            raise UserError("kerakit update needs git on the PATH. Install git.") from None
    merged = _CONFLICT.sub(_join_additions, done.stdout.decode())
    return merged, _CONFLICT.search(merged) is None


def _join_additions(conflict: re.Match[str]) -> str:
    """Resolve a conflict where the owner only added lines before or after the base."""
    ours, base, theirs = conflict["ours"], conflict["base"], conflict["theirs"]
    if ours.startswith(base):
        return theirs + ours[len(base) :]
    if ours.endswith(base):
        return ours[: len(ours) - len(base)] + theirs
    return conflict.group()


# ------------------------------------------------------------------------------------------ tokens


def _merge_tokens(ours: str, base: str, theirs: str) -> str | None:
    """Merge Python by tokens, in the layout of ``theirs``; None where they conflict, too."""
    try:
        sides = [_split_tokens(text) for text in (ours, base, theirs)]
        keys = ["".join(f"{key}\n" for key, _ in side) for side in sides]
        merged, is_clean = _merge_lines(*keys)
        if not is_clean:
            return None
        text = _join_tokens(merged.splitlines(), sides[2], sides[0])
        ast.parse(text)
    except (SyntaxError, tokenize.TokenError):
        return None
    return text


def _split_tokens(text: str) -> list[tuple[str, str]]:
    """Return for each token a key, on one line, and its source with the layout before it.

    Layout is whitespace, line breaks within brackets, blank lines, and trailing commas.
    """
    lines = text.splitlines(keepends=True)
    skipped = (tokenize.NL, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    significant = [token for token in tokens if token.type not in skipped]
    result, row, column = [], 1, 0
    for token, following in zip_longest(significant, significant[1:]):
        if token.string == "," and following is not None and following.string in (")", "]", "}"):
            continue
        source = _slice(lines, (row, column), token.end)
        row, column = token.end
        result.append((f"{token.type} {token.string!r}", source))
    return result


def _slice(lines: list[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    rows = lines[start[0] - 1 : end[0]]
    if not rows:
        return ""
    if end[0] - start[0] + 1 == len(rows):
        rows[-1] = rows[-1][: end[1]]
    rows[0] = rows[0][start[1] :]
    return "".join(rows)


def _join_tokens(
    keys: list[str], theirs: list[tuple[str, str]], ours: list[tuple[str, str]]
) -> str:
    """Return the source of merged keys: from ``theirs`` where they have it, else from ``ours``."""
    parts = [""] * len(keys)
    for side in (ours, theirs):
        matcher = SequenceMatcher(None, keys, [key for key, _ in side], autojunk=False)
        for block in matcher.get_matching_blocks():
            for offset in range(block.size):
                parts[block.a + offset] = side[block.b + offset][1]
    return "".join(parts)


# -------------------------------------------------------------------------------------- statements


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
        if mine.is_definition(key) and key not in old.statements and key not in new.statements:
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

    def is_definition(self, key: str) -> bool:
        """Whether a statement is known by a name: an edited expression is not an addition."""
        kinds = (ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
        return isinstance(self.statements[key], kinds) or self.is_import(key)

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
    if isinstance(node, ast.ImportFrom):
        return f"from {node.module}"
    return ast.unparse(node)
