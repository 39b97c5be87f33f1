"""The examples (``>>>``) in the docstrings of the engine."""

from __future__ import annotations

import ast
import doctest
import importlib
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import kerakit

PACKAGE = Path(kerakit.__file__).parent
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def modules_with_examples() -> Iterator[str]:
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if PACKAGE / "project" not in path.parents and re.search(r"^ *>>> ", text, re.MULTILINE):
            yield ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)


def examples(module: ModuleType) -> Iterator[doctest.DocTest]:
    """Yield the examples of a module's docstrings, those below its constants included."""
    yield from doctest.DocTestFinder(exclude_empty=True).find(module)
    path = Path(str(module.__file__))
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for node, after in itertools.pairwise(body):
        if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
            continue
        if isinstance(node, ast.Assign | ast.AnnAssign):
            name = ast.unparse(node.targets[0] if isinstance(node, ast.Assign) else node.target)
            yield doctest.DocTestParser().get_doctest(
                str(after.value.value), dict(vars(module)), name, str(path), after.lineno - 1
            )


@pytest.mark.parametrize("name", [*modules_with_examples()])
def test_examples(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each runs in an empty folder; what it changes in ``sys`` is put back."""
    module = importlib.import_module(name.removesuffix(".__init__"))
    runner = doctest.DocTestRunner(optionflags=OPTIONS)
    monkeypatch.chdir(tmp_path)
    attempted = failed = 0
    for test in examples(module):
        monkeypatch.setattr(sys, "argv", [*sys.argv])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        result = runner.run(test, clear_globs=False)
        attempted, failed = attempted + result.attempted, failed + result.failed
    assert attempted, "the module has >>> in its text, but no example in a docstring"
    assert not failed, capsys.readouterr().out
