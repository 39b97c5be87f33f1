"""The layers of the engine, and the public interface that the template uses.

Imports are read with ``ast``, those inside functions too. Imports for type checking alone (``if
TYPE_CHECKING``) count for the layers, since a lower layer must not know the types of a higher one,
except for the protocol ``Task``, which exists to be known below; they don't count for circles,
since they never run.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from itertools import chain
from pathlib import Path

import pytest

import kerakit

PACKAGE = Path(kerakit.__file__).parent
PROJECT = PACKAGE / "project"
VARIANTS = PACKAGE / "project_tasks"

LAYERS = (
    {"kerakit", "ground", "device"},
    {"tflite", "report"},
    {"data", "models"},
    {"tasks"},
    {"deploy"},
    {"training"},
    {"commands"},
)
"""From low to high. "ground" are the modules of kerakit itself, except those of COMMANDS."""

COMMANDS = {"cli", "__main__", "new_project", "update"}
"""Modules of the command ``kerakit``, above everything."""

FORBIDDEN = {("training", "deploy")}
"""Downward imports that are forbidden as well: (importer, imported)."""

PUBLIC = (
    "kerakit",
    "kerakit.data",
    "kerakit.tasks",
    "kerakit.training",
    "kerakit.deploy",
    "kerakit.models",
)
"""The packages whose ``__all__`` is the public interface."""


@dataclass(frozen=True)
class Import:
    """One import of a module, or of a name from it."""

    line: int
    module: str
    name: str | None
    only_types: bool


@cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def engine() -> dict[str, Path]:
    """Return the path of each module of the engine by its name."""
    paths = sorted(
        path for path in PACKAGE.rglob("*.py") if not {PROJECT, VARIANTS} & {*path.parents}
    )
    return {module_name(path): path for path in paths}


ENGINE = engine()
FILES = [pytest.param(path, id=str(path.relative_to(PACKAGE))) for path in ENGINE.values()]
PROJECT_FILES = [
    pytest.param(path, id=str(path.relative_to(PACKAGE)))
    for path in sorted([*PROJECT.rglob("*.py"), *VARIANTS.rglob("*.py")])
]


def imports(path: Path) -> Iterator[Import]:
    """Yield all imports of a file; ``importlib.import_module`` of a constant is one."""

    def visit(node: ast.AST, only_types: bool) -> Iterator[Import]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for statement in node.body:
                yield from visit(statement, True)
            for statement in node.orelse:
                yield from visit(statement, only_types)
            return
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, None, only_types)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                package = path.relative_to(PACKAGE.parent).parts[: -node.level]
                module = ".".join((*package, *filter(None, [node.module])))
            for alias in node.names:
                yield Import(node.lineno, module, alias.name, only_types)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("import_module")
            and isinstance(node.args[0], ast.Constant)
        ):
            yield Import(node.lineno, str(node.args[0].value), None, only_types)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, only_types)

    yield from visit(parse(path), False)


def homes(package: str) -> dict[str, str]:
    """Return the home module of each public name that ``package`` imports on first use."""
    return getattr(importlib.import_module(package), "_HOMES", {})


def imported_module(one: Import) -> str | None:
    """Return the module of the engine that an import loads, None for other packages."""
    root = one.module.partition(".")[0]
    if root != "kerakit":
        return None
    inner = f"{one.module}.{one.name}"
    if inner in ENGINE:
        return inner
    if one.name is not None and one.module in PUBLIC:
        return homes(one.module).get(one.name, one.module)
    return one.module


def part(module: str) -> str:
    """Return the part of the engine that holds a module: "data" for ``kerakit.data.reader``."""
    names = module.split(".")
    if names == ["kerakit"]:
        return "kerakit"
    if (PACKAGE / names[1]).is_dir():
        return names[1]
    return "commands" if names[1] in COMMANDS else "ground"


def level(name: str) -> int:
    """Return the layer of a part."""
    found = [i for i, parts in enumerate(LAYERS) if name in parts]
    assert found, f"{name} is not in LAYERS of {Path(__file__).name}: add it"
    return found[0]


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(PACKAGE.parents[1])}:{line}"


# ---------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("path", FILES)
def test_no_module_imports_a_higher_layer(path: Path) -> None:
    importer = part(module_name(path))
    wrong = []
    for one in imports(path):
        module = imported_module(one)
        if module is None or (one.only_types and one.name == "Task"):
            continue
        imported = part(module)
        if level(imported) > level(importer) or (importer, imported) in FORBIDDEN:
            wrong.append(f"{where(path, one.line)}: {importer} imports {module}")
    assert not wrong, "\n".join(wrong)


def test_no_import_circle() -> None:
    """Neither between modules, nor between the parts of one layer."""
    modules: dict[str, set[str]] = {name: set() for name in ENGINE}
    parts: dict[str, set[str]] = {name: set() for names in LAYERS for name in names}
    for name, path in ENGINE.items():
        for one in imports(path):
            module = imported_module(one)
            if module in ENGINE and module != name and not one.only_types:
                modules[name].add(module)
                if part(module) != part(name):
                    parts[part(name)].add(part(module))
    # The package kerakit itself holds the version and the public names of the ground.
    parts["kerakit"].clear()
    for graph in (modules, parts):
        circle = find_circle(graph)
        assert not circle, "circle: " + " → ".join(circle)


def find_circle(graph: dict[str, set[str]]) -> list[str]:
    """Return the nodes of one circle of a graph, the first one again at the end; [] if none."""
    finished: set[str] = set()

    def search(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in finished:
            return []
        for following in sorted(graph[node]):
            if circle := search(following, [*path, node]):
                return circle
        finished.add(node)
        return []

    return next((circle for node in sorted(graph) if (circle := search(node, []))), [])


def test_a_circle_is_found() -> None:
    assert find_circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]
    assert find_circle({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


@pytest.mark.parametrize("path", FILES)
def test_the_engine_never_imports_the_project(path: Path) -> None:
    own = {file.stem for file in PROJECT.glob("*.py")} | {"models", "kerakit.project"}
    wrong = [
        f"{where(path, one.line)}: imports {one.module}"
        for one in imports(path)
        if one.module.partition(".")[0] in own
        or f"{one.module}.{one.name}".startswith("kerakit.project")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES)
def test_the_engine_calls_neither_compile_nor_fit(path: Path) -> None:
    wrong = [
        f"{where(path, node.lineno)}: {ast.unparse(node.func)}(...)"
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("compile", "fit")
        and ast.unparse(node.func) not in ("re.compile", "regression.fit")  # of scikit-learn
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", sorted((PACKAGE / "device").glob("*.py")), ids=lambda p: p.name)
def test_files_for_the_device_need_numpy_and_pillow_alone(path: Path) -> None:
    siblings = {file.stem for file in path.parent.glob("*.py")}
    allowed = set(sys.stdlib_module_names) | siblings | {"numpy", "PIL"}
    runtimes = {"ai_edge_litert", "tflite_runtime", "tensorflow"}
    wrong = [
        f"{where(path, one.line)}: imports {one.module}"
        for one in imports(path)
        if one.module.partition(".")[0] not in allowed | runtimes
        and not one.module.startswith("kerakit.device")
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", FILES + PROJECT_FILES)
def test_each_import_is_a_declared_dependency(path: Path) -> None:
    """The dependencies and extras of pyproject.toml."""
    project = tomllib.loads((PACKAGE.parents[1] / "pyproject.toml").read_text())["project"]
    declared = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    names = {re.split(r"[^\w-]", line)[0].lower().replace("_", "-") for line in declared}
    names |= {"torch", "tflite-runtime", "pytest"}  # chosen by the user; the template's own test
    siblings = {"models"} | {
        file.stem for file in (*path.parent.glob("*.py"), *PROJECT.glob("*.py"))
    }
    wrong = []
    for one in imports(path):
        root = one.module.partition(".")[0]
        if root in siblings | set(sys.stdlib_module_names) | {"kerakit"}:
            continue
        found = packages_distributions().get(root, [root])
        if not names & {name.lower().replace("_", "-") for name in (*found, f"{root}-skinny")}:
            wrong.append(f"{where(path, one.line)}: {root} ({', '.join(found)})")
    assert not wrong, "\n".join(wrong)


packages_distributions = cache(metadata.packages_distributions)


@pytest.mark.parametrize("module", sorted(ENGINE))
def test_no_name_twice_in_the_path_of_a_module(module: str) -> None:
    names = module.split(".")
    assert len(set(names)) == len(names)


# ------------------------------------------------------------------------------ public interface


def public_names() -> Iterator[tuple[str, str]]:
    """Yield (package, name) of the public interface, without importing what the names stand for."""
    for package in PUBLIC:
        tree = parse(ENGINE[package])
        for node in tree.body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for name in ast.literal_eval(node.value):
                    yield package, name


NAMES = list(public_names())


@pytest.mark.parametrize("package", PUBLIC)
def test_each_package_lists_its_public_names(package: str) -> None:
    module = importlib.import_module(package)
    names = [name for listed, name in NAMES if listed == package]
    assert names, f"{package} has no __all__"
    assert set(homes(package)) <= set(names), "_HOMES has names that are not in __all__"
    typed = {
        one.name: one.module for one in imports(ENGINE[package]) if one.only_types and one.name
    }
    lazy = {name: home for name, home in homes(package).items() if name in typed}
    assert lazy == {name: typed[name] for name in lazy}
    assert set(homes(package)) <= set(typed), "names of _HOMES that type checkers cannot see"
    assert set(names) <= set(dir(module)) | set(vars(module))


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_each_public_name_has_a_home_and_an_example(package: str, name: str) -> None:
    module = importlib.import_module(package)
    assert hasattr(module, name), f"{package}.{name} cannot be imported"
    home, doc = find_docstring(homes(package).get(name, package), name)
    assert ">>> " in doc, f"{package}.{name}: no >>> example in its docstring ({home})"


def find_docstring(module: str, name: str) -> tuple[str, str]:
    """Return the module that defines ``name``, and the docstring of the definition.

    The docstring of a constant is the string after its assignment.
    """
    path = ENGINE.get(module)
    assert path is not None, f"{name} has its home in {module}, which does not exist"
    body = parse(path).body
    for node, after in zip(body, [*body[1:], None], strict=True):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, ast.get_docstring(node) or ""
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        targets += [getattr(node, "name", None)]  # the `type` statement
        if name in [target.id for target in targets if isinstance(target, ast.Name)]:
            return module, constant_docstring(after)
    for one in imports(path):
        if one.name == name and one.module in ENGINE:
            return find_docstring(one.module, name)
    raise AssertionError(f"{module} does not define {name}")


def constant_docstring(node: ast.stmt | None) -> str:
    """Return the string that ``node``, the statement after an assignment, consists of, or ""."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        return str(node.value.value)
    return ""


def test_the_template_has_files() -> None:
    assert PROJECT_FILES


@pytest.mark.parametrize("path", PROJECT_FILES)
def test_the_template_imports_public_names_only(path: Path) -> None:
    wrong = list(private_uses(parse(path), path))
    assert not wrong, "\n".join(wrong)


def private_uses(tree: ast.Module, path: Path) -> Iterator[str]:
    """Yield the uses of names of kerakit that are not public, by import or by attribute."""
    public = (
        {f"{package}.{name}" for package, name in NAMES} | set(PUBLIC) | {"kerakit.__version__"}
    )
    bound: dict[str, str] = {}  # the local names of kerakit and its packages
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "kerakit":
                    bound[alias.asname or "kerakit"] = alias.name if alias.asname else "kerakit"
                    if alias.name not in PUBLIC:
                        yield f"{where(path, node.lineno)}: import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kerakit":
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in PUBLIC:
                    bound[alias.asname or alias.name] = full
                if full not in public:
                    yield f"{where(path, node.lineno)}: from {node.module} import {alias.name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            root, _, rest = ast.unparse(node).partition(".")
            # The Float of `kerakit.List.Float` belongs to a public name and is not checked.
            if root in bound and isinstance(node.value, ast.Name | ast.Attribute):
                full = f"{bound[root]}.{rest}"
                if full.rpartition(".")[0] in PUBLIC and full not in public:
                    yield f"{where(path, node.lineno)}: {full}"


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import kerakit\nkerakit.Run", 0),
        ("import kerakit\nkerakit.List.Float", 0),
        ("import kerakit\nkerakit.run.Run", 1),
        ("from kerakit import Run", 0),
        ("from kerakit.run import Run", 1),
        ("from kerakit import files", 1),
        ("import kerakit.files", 1),
        ("def f():\n    from kerakit.files import sha256", 1),
        ("import kerakit.data as d\nd._private", 1),
        ("import numpy\nnumpy.data._x", 0),
    ],
)
def test_private_uses_are_found(source: str, wrong: int) -> None:
    assert len(list(private_uses(ast.parse(source), PROJECT / "x.py"))) == wrong
