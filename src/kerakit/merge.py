"""Three-way merge of the files of a project.

``git merge-file`` merges lines and marks a conflict wherever edits of both sides touch. Python
files are prepared and, where lines conflict, merged by tokens: statements that the owner added at
module level and constants whose value the owner changed do not depend on the lines around them,
and a template that was only reformatted has the same tokens. Each result is checked: one that
lacks an edit, or is no longer Python, is discarded for the one of plain git.
"""

from __future__ import annotations

import ast
import io
import itertools
import re
import subprocess
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from pathlib import Path

from kerakit.errors import UserError

_SIZE = 61
"""Length of git's marks before the result is checked, so that no text of a project is one."""

_CONFLICT = re.compile(
    r"^<{61} [^\n]*\n(?P<ours>.*?)^\|{61} [^\n]*\n(?P<base>.*?)"
    r"^={61}\n(?P<theirs>.*?)^>{61} [^\n]*\n",
    re.MULTILINE | re.DOTALL,
)

_NOT_PYTHON = (SyntaxError, ValueError, RecursionError, tokenize.TokenError)
"""Errors of parsing: ValueError is that of a zero byte."""


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
    for merged in _attempts(ours, base, theirs):
        if _keeps_edits(merged, ours, base, theirs):
            break
    else:
        merged = _mark(ours, base, theirs)
    is_clean = _CONFLICT.search(merged) is None
    return _CONFLICT.sub(lambda found: _mark(*found.groups(), size=7), merged), is_clean


def has_conflicts(text: str) -> bool:
    """Whether a text has marks of ``merge_texts``."""
    return re.search(r"^<{7} project$", text, re.MULTILINE) is not None


def _attempts(ours: str, base: str, theirs: str) -> Iterator[str]:
    """Yield merged texts, the best first, with marks of _SIZE."""
    texts = carry_edits(ours, base, theirs)
    merged = _merge_lines(*texts)
    if _CONFLICT.search(merged) and (by_tokens := _merge_tokens(*texts)) is not None:
        yield by_tokens
    yield merged
    yield _merge_lines(ours, base, theirs, join=False)


def _keeps_edits(merged: str, ours: str, base: str, theirs: str) -> bool:
    """Whether a merged text has what the owner added, outside of the template's side of conflicts.

    Where all texts are Python, the result must be Python too, with the definitions that each side
    added in the scopes where they were.
    """
    kept = _words(_CONFLICT.sub(lambda found: found["ours"], merged))
    added = _words(ours) - _words(base)
    moved = _words(theirs)
    moved.subtract(_words(base))
    if any(kept[word] < min(count, count + moved[word]) for word, count in added.items()):
        return False
    if _CONFLICT.search(merged):
        return True
    try:
        mine, old, new = (_names(ast.parse(text)) for text in (ours, base, theirs))
    except _NOT_PYTHON:
        return True
    try:
        tree = ast.parse(merged)
        compile(tree, "merged", "exec", dont_inherit=True)  # finds errors that parsing does not
    except _NOT_PYTHON:
        return False
    return (mine | new) - old <= _names(tree)


def _words(text: str) -> Counter[str]:
    return Counter(re.findall(r"\w+", text))


def _names(tree: ast.AST, scope: str = "") -> set[str]:
    """Return the names of functions, classes and variables, each with those around it."""
    found: set[str] = set()
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found |= {f"{scope}{node.name}", *_names(node, f"{scope}{node.name}.")}
        else:
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(f"{scope}{node.id}")
            found |= _names(node, scope)
    return found


def _mark(ours: str, base: str, theirs: str, *, size: int = _SIZE) -> str:
    """Return a conflict as git marks it."""
    texts = [
        text if not text or text.endswith("\n") else f"{text}\n" for text in (ours, base, theirs)
    ]
    marks = [f"{'<' * size} project", f"{'|' * size} base", "=" * size, f"{'>' * size} template"]
    return "".join(f"{mark}\n{text}" for mark, text in zip(marks, [*texts, ""], strict=True))


def _merge_lines(ours: str, base: str, theirs: str, *, join: bool = True) -> str:
    """Merge lines with ``git merge-file``.

    With ``join``, lines that the owner added at an edge of a part that the template rewrote are
    kept beside the new part, where git alone would mark a conflict.
    """
    texts = {"project": ours, "base": base, "template": theirs}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in texts]
        for path, text in zip(paths, texts.values(), strict=True):
            path.write_text(text, encoding="utf-8", newline="")
        labels = [word for name in texts for word in ("-L", name)]
        options = ["-p", "--diff3", f"--marker-size={_SIZE}"]
        command = ["git", "merge-file", *options, *labels, *map(str, paths)]
        try:
            done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        except FileNotFoundError:
            raise UserError("kerakit update needs git on the PATH. Install git.") from None
    if not 0 <= done.returncode < 128:  # the number of conflicts, unless git failed: no text
        return _mark(ours, base, theirs)
    merged = done.stdout.decode()
    return _CONFLICT.sub(_join_additions, merged) if join else merged


def _join_additions(conflict: re.Match[str]) -> str:
    """Resolve a conflict where the owner only added lines before or after the base."""
    ours, base, theirs = conflict["ours"], conflict["base"], conflict["theirs"]
    if not base and theirs in ours:
        return ours
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
    except _NOT_PYTHON:
        return None
    # An addition to an expression that the template changed is a conflict: 1 to 1 * 2, 1 to 3.
    merged = _merge_lines(*keys, join=False)
    merged = _CONFLICT.sub(
        lambda found: found.group() if found["base"] else found["theirs"] + found["ours"], merged
    )
    if _CONFLICT.search(merged):
        return None
    return _join_tokens(merged.splitlines(), sides[2], sides[0])


def _split_tokens(text: str) -> list[tuple[str, str]]:
    """Return for each token a key, on one line, and its source with the layout before it.

    Layout is whitespace, line breaks within brackets, blank lines, and trailing commas.
    """
    line_starts = [0, *itertools.accumulate(map(len, _split_lines(text)))]
    skipped = (tokenize.NL, tokenize.ENDMARKER)
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    significant = [token for token in tokens if token.type not in skipped]
    result, position = [], 0
    for token, following in zip_longest(significant, significant[1:]):
        if token.string == "," and following is not None and following.string in (")", "]", "}"):
            continue
        row, column = token.end
        end = line_starts[row - 1] + column
        result.append((f"{token.type} {token.string!r}", text[position:end]))
        position = end
    return result


def _join_tokens(
    keys: list[str], theirs: list[tuple[str, str]], ours: list[tuple[str, str]]
) -> str | None:
    """Return the source of merged keys: from ``theirs`` where they have it, else from ``ours``.

    None where a key is not found in its order: the matcher finds the longest matches, not all.
    """
    parts: list[str | None] = [None] * len(keys)
    for side in (ours, theirs):
        matcher = SequenceMatcher(None, keys, [key for key, _ in side], autojunk=False)
        for block in matcher.get_matching_blocks():
            for offset in range(block.size):
                parts[block.a + offset] = side[block.b + offset][1]
    found = [part for part in parts if part is not None]
    return "".join(found) if len(found) == len(parts) else None


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
        mine, old, new = _Module(ours, base), _Module(base), _Module(theirs)
    except _NOT_PYTHON:
        return ours, base, theirs
    ambiguous = mine.ambiguous | old.ambiguous | new.ambiguous
    for key in (mine.statements.keys() & old.statements.keys() & new.statements.keys()) - ambiguous:
        value = mine.value(key)
        if value and value != old.value(key) and old.tree(key) == new.tree(key):
            new.replace_value(key, value)
            mine.replace_value(key, old.value(key))
    # Statements of an update that was interrupted.
    for key in (mine.statements.keys() & new.statements.keys()) - old.statements.keys() - ambiguous:
        if mine.source(key) == new.source(key):
            mine.remove(key)
    keys = list(mine.statements)
    known = old.statements.keys() | new.statements.keys()
    # A run of added statements moves as a whole or not at all: they may depend on each other.
    for is_known, run in itertools.groupby(keys, known.__contains__):
        added = list(run)
        if is_known or not all(mine.is_definition(key) and key not in ambiguous for key in added):
            continue
        rest = keys[keys.index(added[-1]) + 1 :]
        following = next((key for key in rest if key in new.statements), None)
        for key in added:
            new.insert(mine.source(key), before=following, is_import=mine.is_import(key))
            mine.remove(key)
    # Removed statements leave blank lines behind.
    rest_text = mine.text()
    return base if _lines(rest_text) == _lines(base) else rest_text, base, new.text()


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _split_lines(text: str) -> list[str]:
    """Return lines with their ends, as Python counts them: str.splitlines knows further ends."""
    return io.StringIO(text).readlines()


class _Module:
    """The module-level statements of a text, by what they define.

    Attributes:
        statements: the nodes by key.
        ambiguous: keys of statements that share a key or a line with another.
    """

    def __init__(self, text: str, base: str = "") -> None:
        # A comment of the template stays where it is: it is not that of an added statement.
        self._shared = {line.rstrip() for line in base.splitlines()}
        self._lines = _split_lines(text)
        if self._lines and not self._lines[-1].endswith("\n"):
            self._lines[-1] += "\n"
        nodes = ast.parse(text).body
        self.statements = {_key(node): node for node in nodes}
        counts = Counter(map(_key, nodes))
        self.ambiguous = {key for key, count in counts.items() if count > 1}
        for one, following in itertools.pairwise(nodes):
            if following.lineno == one.end_lineno:
                self.ambiguous |= {_key(one), _key(following)}
        # Edits by line, so that the line numbers of the statements stay valid.
        self._inserted: dict[int, list[str]] = {}
        self._replaced: dict[int, str] = {}
        self._removed: set[int] = set()

    def is_definition(self, key: str) -> bool:
        """Whether a statement is known by a name: an edited expression is not an addition."""
        kinds = (ast.Assign, ast.AnnAssign, ast.FunctionDef, ast.ClassDef)
        is_known = isinstance(self.statements[key], kinds) or self.is_import(key)
        return is_known and key != "from __future__"

    def is_import(self, key: str) -> bool:
        return isinstance(self.statements[key], (ast.Import, ast.ImportFrom))

    def source(self, key: str) -> str:
        return "".join(self._lines[i] for i in self._range_with_comment(key))

    def _range_with_comment(self, key: str) -> range:
        lines = self._range(key)
        start = lines.start
        while start > 1 and self._is_own_comment(self._lines[start - 1]):
            start -= 1
        return range(start, lines.stop)

    def _is_own_comment(self, line: str) -> bool:
        return line.startswith("#") and line.rstrip() not in self._shared

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
        return ast.dump(ast.parse(f"({self.value(key)}\n)", mode="eval"))

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
        self._removed.update(self._range_with_comment(key))

    def insert(self, source: str, before: str | None, is_import: bool) -> None:
        """Insert a statement before another, or at the end; an import after the import above."""
        line = self._range_with_comment(before).start if before else len(self._lines)
        if is_import:
            imports = [self._range(key).stop for key in self.statements if self.is_import(key)]
            above = [stop for stop in imports if stop <= line]
            line = max(above, default=line if before else 0)
        elif before is None:
            source = f"\n\n{source}"
        else:
            source = f"{source}\n\n"
        self._inserted.setdefault(line, []).append(source)

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
