"""The documentation against the code: flags, commands, report keys, formats, messages, API."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import docstring_parser
import pytest
from pydantic_core import PydanticUndefined

from kerakit import cli, errors, script
from kerakit.deploy import FORMAT_NAMES
from kerakit.signals import TERMINATION, Terminated
from projects import Project

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "kerakit"

SCRIPTS = {
    "TrainConfig": "train.py",
    "DeployConfig": "deploy.py",
    "EvaluateConfig": "evaluate.py",
    "PredictConfig": "predict.py",
}
COMMANDS = (
    *("new", "update", "check", "pack", "predict", "push", "web", "reproduce", "placement"),
    "doctor",
)
PACKAGES = {
    "kerakit": "kerakit.md",
    "kerakit.data": "data.md",
    "kerakit.tasks": "tasks.md",
    "kerakit.models": "models.md",
    "kerakit.training": "training.md",
    "kerakit.deploy": "deploy.md",
}


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def expect_rows(text: str, rows: list[str], where: str) -> None:
    missing = [row for row in rows if row not in text.splitlines()]
    assert not missing, f"{where} lacks these rows:\n" + "\n".join(missing)


def section(text: str, heading: str) -> str:
    """Return the text from ``## heading`` to the next heading of that level."""
    found = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found.group(1)


# ------------------------------------------------------------------------------ flags and commands


def values(metavar: str) -> str:
    """Return a flag's values, such as ``{None}|INT|{auto}`` in the help, for a table."""
    parts = [part for part in metavar.split("|") if part and part != "{None}"]
    choices = [part[1:-1].split(",") if part.startswith("{") else [part] for part in parts]
    return ", ".join(f"`{name}`" for part in choices for name in part if name != "None")


def default(field: Any) -> str:
    """Return a field's default for a table; empty where the description names it."""
    value = field.default
    if value is PydanticUndefined:
        return "required"
    if value is None:
        return ""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, Path):
        return "`DATA_DIR`"
    return f"`{','.join(map(str, value)) if isinstance(value, tuple) else value}`"


def flag_rows(config: Any, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the table of a script's flags, one row per field that ``--help`` lists."""
    with pytest.raises(SystemExit), mock.patch.dict(os.environ, {"COLUMNS": "400"}):
        config.parse(["--help"])
    help_text = capsys.readouterr().out
    metavars = dict(re.findall(r"^\W*--(\w+) ([A-Z{]\S*)", help_text, re.MULTILINE))
    rows = []
    for name, field in config.model_fields.items():
        if name == "kerakit" or "Suppress" in repr(field):
            continue
        flag = f"--{name}" if "Positional" not in repr(field) else name
        value = values(metavars.get(name, "")) if flag != name else "`PATH …`"
        rows.append(f"| `{flag}` | {value} | {field.description} | {default(field)} |")
    return rows


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_flag_is_documented(
    template: Callable[[str], ModuleType], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    rows = flag_rows(getattr(template("config"), name), capsys)
    expect_rows(section(page("reference/flags.md"), SCRIPTS[name]), rows, "reference/flags.md")


def command_rows(function: Callable[..., None]) -> list[str]:
    """Return the table of a command's arguments."""
    doc = docstring_parser.parse(inspect.getdoc(function) or "")
    described = {one.arg_name: " ".join((one.description or "").split()) for one in doc.params}
    rows = []
    for parameter in inspect.signature(function).parameters.values():
        is_positional = "Positional" in str(parameter.annotation)
        name = parameter.name if is_positional else f"--{parameter.name}"
        value = parameter.default
        shown = "required" if value is parameter.empty else f"`{value}`"
        shown = {"None": "", "False": "off"}.get(str(value), shown)
        rows.append(f"| `{name}` | {described[parameter.name]} | {shown} |")
    return rows


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_is_documented(name: str) -> None:
    text = section(page("reference/cli.md"), f"kerakit {name}")
    expect_rows(text, command_rows(getattr(cli, name)), "reference/cli.md")


def test_no_command_is_missing() -> None:
    functions = {
        name
        for name, one in vars(cli).items()
        if inspect.isfunction(one) and one.__module__ == cli.__name__ and not name.startswith("_")
    }
    assert functions - {"main"} == set(COMMANDS)


# ------------------------------------------------------------------------------------------- files


def keys(value: object) -> Iterator[str]:
    """Yield the keys of a JSON value, at any depth, without names of packages and data."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            if key != "versions":
                yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def expect_keys(found: set[str], heading: str) -> None:
    text = section(page("reference/report-keys.md"), heading)
    missing = sorted(key for key in found if f"`{key}`" not in text)
    assert not missing, f"{heading} in reference/report-keys.md lacks {missing}"


def test_each_key_of_a_run_is_documented(trained: Project) -> None:
    assert trained.call("evaluate.py", "--read_from", "progress/test").code == 0
    run = trained.path / "progress" / "test"
    for file, heading in (
        ("report.json", "report.json of a run"),
        ("evaluation.json", "evaluation.json"),
    ):
        expect_keys(set(keys(json.loads((run / file).read_text()))), heading)
    names = set(keys(json.loads((run / "ckpt" / "index.json").read_text())))
    names |= {"config.json", "history.csv", "ckpt/", "logs/", "report.html"}
    names |= {f"plots/{path.name}" for path in (run / "plots").iterdir()}
    text = page("reference/run-folder.md")
    assert not [name for name in names if f"`{name}`" not in text]


def test_each_key_of_an_export_is_documented(exported_digits: Any) -> None:
    from kerakit.deploy.quantization.fallbacks import Attempt, LayerNoise
    from kerakit.deploy.quantization.health import Finding

    report = json.loads((exported_digits.folder / "report.json").read_text())
    found = set(keys(report)) | {one.name for cls in (LayerNoise, Finding) for one in fields(cls)}
    gate = {"metrics": {}, "drop": 0.0, "passed": True, "agreement": 1.0}
    from kerakit.deploy.gate import Measurement

    found |= set(Attempt("", b"", Measurement(**gate), 0.0, 0, 0, ()).to_json())  # type: ignore[arg-type]
    expect_keys(found, "report.json of an export")
    text = page("reference/formats.md") + page("reference/run-folder.md")
    for path in exported_digits.folder.rglob("*"):
        if path.is_file():
            assert f"`{path.name}`" in text


def test_each_format_is_documented() -> None:
    from kerakit.deploy.formats.table import FORMATS

    text = page("reference/formats.md")
    for name in FORMAT_NAMES:
        assert re.search(rf"^\| `{name}` \|.*{re.escape(FORMATS[name].file)}", text, re.MULTILINE)


def test_each_exit_code_is_documented() -> None:
    codes = {errors.UserError.exit_code, errors.JobError.exit_code}
    codes |= {0, script.INTERRUPTED, script.PIPE_CLOSED, script.PREEMPTED}
    codes |= {Terminated(number).exit_code for number in TERMINATION}
    listed = set(map(int, re.findall(r"^\| `(\d+)` \|", page("reference/exit-codes.md"), re.M)))
    assert listed == codes


# ---------------------------------------------------------------------------------------- messages


def messages() -> Iterator[str]:
    """Yield each text in the sources, with "…" in place of values."""
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    str(part.value) if isinstance(part, ast.Constant) else "…"
                    for part in node.values
                )


def test_headings_of_troubleshooting_are_messages() -> None:
    headings = re.findall(r"^### (.+)$", page("troubleshooting.md"), re.MULTILINE)
    assert len(headings) >= 20
    known = list(messages())
    unknown = [one for one in headings if not any(one.strip("`") in text for text in known)]
    assert not unknown


# --------------------------------------------------------------------------------------------- API


def home(package: str, name: str) -> str:
    """Return the module that defines a public name."""
    module = importlib.import_module(package)
    value = getattr(module, name)
    homes: dict[str, str] = getattr(module, "_HOMES", {})
    return homes.get(name) or str(getattr(value, "__module__", package))


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_is_in_the_reference(package: str) -> None:
    expected = {f"{home(package, one)}.{one}" for one in importlib.import_module(package).__all__}
    listed = re.findall(r"^::: (\S+)$", page(f"reference/api/{PACKAGES[package]}"), re.MULTILINE)
    assert set(listed) == expected
    assert len(listed) == len(expected)


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_name_has_a_docstring(package: str) -> None:
    for name in importlib.import_module(package).__all__:
        value = getattr(importlib.import_module(package), name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, name
            members = vars(value).items() if inspect.isclass(value) else ()
            for member, one in members:
                if inspect.isfunction(one) and not member.startswith("_"):
                    assert one.__doc__, f"{name}.{member}"


# -------------------------------------------------------------------------------------------- site


def test_each_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r"[\w/-]+\.md", (ROOT / "mkdocs.yml").read_text()))
    found = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert found == listed


def test_each_style_sheet_and_image_is_used_and_exists() -> None:
    listed = set(re.findall(r"stylesheets/[\w.]+", (ROOT / "mkdocs.yml").read_text()))
    assert {f"stylesheets/{path.name}" for path in (DOCS / "stylesheets").iterdir()} == listed
    shown = {
        (path.parent / name).resolve()
        for path in DOCS.rglob("*.md")
        for name in re.findall(r"!\[[^]]*\]\((\S+?)\)", path.read_text(encoding="utf-8"))
    }
    assert shown == set((DOCS / "images").resolve().iterdir())


def test_each_named_test_exists() -> None:
    for path, name in re.findall(
        r"`(tests/[\w/.]+)(?:::(\w+))?`", page("explanation/guarantees.md")
    ):
        assert (ROOT / path).exists(), path
        assert not name or f"def {name}(" in (ROOT / path).read_text(), name
