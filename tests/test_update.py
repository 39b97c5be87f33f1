"""``kerakit update`` keeps every edit of a project, from the version before and from this one."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kerakit import UserError, __version__, update
from kerakit.merge import merge_texts
from kerakit.update import create_project, read_template, update_project
from projects import FOCAL_LOSS, Project, edit

MODEL = """
def construct(input_shape, num_classes):
    import keras

    layers = [keras.layers.Rescaling(1 / 255), keras.layers.Flatten(name="features")]
    head = keras.layers.Dense(num_classes, activation="softmax")
    return keras.Sequential([keras.Input(input_shape), *layers, head])
"""


@pytest.fixture
def old_project(tmp_path: Path, photos: Path) -> Project:
    """A project of version 0.1.0 with an edited augmentation, loss, configuration, and a model."""
    path = tmp_path / "old"
    with zipfile.ZipFile(update._PAST_TEMPLATES / "0.1.0.zip") as archive:
        archive.extractall(path)
    edit(path / "config.py", 'Path(__file__).parent / "data"', f"Path({str(photos)!r})")
    edit(path / "config.py", "TRAIN_RATIO_DEFAULT = 0.8", "TRAIN_RATIO_DEFAULT = 0.75")
    edit(path / "callbacks.py", "PATIENCE = 10", "PATIENCE = 4")
    edit(path / "datagen.py", "brightness=0.15 * s", "brightness=0.3 * s")
    erasing = "A.Erasing(scale=(0.02, 0.1), p=0.2 * s),"
    edit(path / "datagen.py", erasing, f"{erasing} A.InvertImg(p=1.0),")
    with (path / "loss.py").open("a") as file:
        file.write(FOCAL_LOSS)
    (path / "models" / "mine.py").write_text(MODEL)
    (path / "notes.txt").write_text("mine")
    return Project(path)


def test_a_project_of_the_version_before_trains_with_its_edits(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    assert update_project(old_project.path) == []
    output = capsys.readouterr().out
    assert re.search(r"merge +loss\.py", output)
    assert re.search(r"remove +phases\.py", output)
    datagen = (old_project.path / "datagen.py").read_text()
    assert "A.InvertImg(p=1.0)" in datagen
    assert "data.Recolor(" in datagen
    assert "brightness=0.3 * s" in datagen
    assert "TRAIN_RATIO_DEFAULT = 0.75" in (old_project.path / "config.py").read_text()
    assert "PATIENCE = 4" in (old_project.path / "callbacks.py").read_text()
    assert (old_project.path / "models" / "mine.py").read_text() == MODEL
    assert (old_project.path / "notes.txt").read_text() == "mine"
    result = old_project.train("--model", "mine", "--loss", "focal", "--jitter")
    assert result.code == 0, result.err
    assert update_project(old_project.path) == []
    assert "0 file(s)" in capsys.readouterr().out


def test_what_cannot_be_merged_is_explained(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(old_project.path / "config.py", "    small_cnn,\n)", "    small_cnn,\n    mine,\n)")
    edit(old_project.path / "phases.py", "HEAD_EPOCHS = 20", "HEAD_EPOCHS = 30")
    assert update_project(old_project.path) == ["config.py"]
    output = capsys.readouterr().out
    assert "MODELS" in output
    assert "train.py" in output[output.index("phases.py") :].splitlines()[1]
    assert "HEAD_EPOCHS = 30" in (old_project.path / "phases.py").read_text()


def test_a_dry_run_shows_the_differences_and_changes_nothing(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {p: p.read_bytes() for p in old_project.path.rglob("*") if p.is_file()}
    update_project(old_project.path, dry_run=True)
    output = capsys.readouterr().out
    assert "+++ updated/train.py" in output
    assert {p: p.read_bytes() for p in old_project.path.rglob("*") if p.is_file()} == files


def test_an_edit_of_the_same_line_is_marked_as_git_marks_it(
    old_project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(old_project.path / "train.py", "def main(args: config.TrainConfig)", "def main(flags)")
    command = [sys.executable, "-m", "kerakit", "update", str(old_project.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "train.py" in done.stderr
    text = (old_project.path / "train.py").read_text()
    assert "def main(flags)" in text[text.index("<<<<<<< project") : text.index("=======")]
    assert ">>>>>>> template" in text


def test_deleted_and_unrelated_files_stay_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    create_project(tmp_path)
    (tmp_path / "evaluate.py").unlink()
    edit(tmp_path / "search.py", "HIGHER_IS_BETTER = True", "HIGHER_IS_BETTER = False")
    (tmp_path / "new.py").write_text("mine = 1\n")
    newer = tmp_path.parent / "newer"
    shutil.copytree(update.TEMPLATE, newer)
    with (newer / "evaluate.py").open("a") as file:
        file.write("# newer\n")
    (newer / "new.py").write_text("theirs = 1\n")
    (newer / "search.py").unlink()
    monkeypatch.setattr(update, "read_template", _reader_of(newer))
    assert update_project(tmp_path) == []
    assert not (tmp_path / "evaluate.py").exists()
    assert (tmp_path / "new.py").read_text() == "mine = 1\n"
    assert "HIGHER_IS_BETTER = False" in (tmp_path / "search.py").read_text()
    assert capsys.readouterr().out.count("keep ") == 3


def _reader_of(newer: Path) -> object:
    return lambda folder=None: read_template(folder or newer)


def test_a_folder_that_is_not_a_project_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "config.py").write_text("DEBUG = True\n")
    with pytest.raises(UserError, match="kerakit new"):
        update_project(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.py"]


def test_the_version_is_recorded(tmp_path: Path) -> None:
    create_project(tmp_path)
    assert (tmp_path / ".kerakit" / "version").read_text().strip() == __version__


# -------------------------------------------------------------------------------------------- merge

NAMES = st.sampled_from(["ALPHA", "BETA", "GAMMA", "DELTA"])
MODULES = st.dictionaries(NAMES, st.integers(0, 9), min_size=1)


def source(constants: dict[str, int], comment: str = "") -> str:
    return "".join(f"{comment}{name} = {value}\n" for name, value in constants.items())


@given(base=MODULES, changes=MODULES, comment=st.sampled_from(["", "# a comment\n"]))
def test_changed_constants_and_added_statements_survive_a_rewrite(
    base: dict[str, int], changes: dict[str, int], comment: str
) -> None:
    ours = {**base, **changes}
    theirs = source(base, comment="# rewritten\n")
    text, is_clean = merge_texts(source(ours, comment), source(base, comment), theirs)
    assert is_clean
    values = {
        node.targets[0].id: node.value.value  # type: ignore[attr-defined]
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
    }
    assert values == ours
    assert "# rewritten" in text


@given(ours=st.text("ab\n"), base=st.text("ab\n"), theirs=st.text("ab\n"))
def test_a_merge_without_edits_on_one_side_is_the_other_side(
    ours: str, base: str, theirs: str
) -> None:
    assert merge_texts(ours, base, base) == (ours, True)
    assert merge_texts(base, base, theirs) == (theirs, True)


def test_a_reformatted_call_keeps_changed_arguments() -> None:
    base = "x = [f(1, key=2), g(3)]\n"
    ours = "x = [f(1, key=5), g(3), h(4)]\n"
    theirs = "# new\nx = [\n    m.f(\n        1,\n        key=2,\n    ),\n    g(3),\n]\n"
    text, is_clean = merge_texts(ours, base, theirs)
    assert is_clean
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse("x = [m.f(1, key=5), g(3), h(4)]"))
    assert text.startswith("# new\n")


# --------------------------------------------------------------------------- what must not be lost


def test_edits_that_depend_on_their_order_stay_in_it() -> None:
    base = "import sys\nimport keras\nA = 1\n"
    theirs = f"# new\n{base}"
    ours = (
        base.replace("import sys", "import os\nos.environ['K'] = '1'\nimport sys") + "A = A + 3\n"
    )
    text, is_clean = merge_texts(ours, base, theirs)
    assert is_clean
    assert ast.dump(ast.parse(text)) == ast.dump(ast.parse(ours))
    ours = f"from __future__ import annotations\n{base}"
    assert merge_texts(ours, base, theirs.replace("A", "import os\nA"))[0].index("__future__") < 20


@pytest.mark.parametrize(
    "ours",
    [
        "# \0\nA = 1\n",  # git refuses binary files
        'S = """\n<<<<<<< HEAD\na\n=======\nb\n>>>>>>> x\n"""\nA = 1\n',
        "A = 'x\u2028y'\nB = 9\n\x0c\ndef f():\n    return 3\n",
        "A = 1; Q = 7\n",
        "X = (\n    'a'\n    'd'\n)\n",
    ],
)
def test_unusual_texts_are_kept(ours: str) -> None:
    base = "A = 1\nX = (\n    'a'\n    'b'\n)\n"
    text, _ = merge_texts(ours, base, "# new\nA = 1\nX = 'ab'\nZ = 2\n")
    for line in ours.split("\n"):
        assert line in text


def test_an_addition_to_a_changed_expression_is_a_conflict() -> None:
    base, ours, theirs = (f"def f():\n    return {value}\n" for value in ("1", "1 * 2", "3"))
    text, is_clean = merge_texts(ours, base, theirs)
    assert not is_clean
    assert ours.splitlines()[1] in text


with zipfile.ZipFile(update._PAST_TEMPLATES / "0.1.0.zip") as _archive:
    PAST = {name: _archive.read(name).decode() for name in _archive.namelist()}
PAIRS = [
    (name, base, new)
    for name, new in read_template().items()
    if name.endswith(".py") and (base := PAST.get(name)) is not None and base != new
]
ADDED = ["import u{}", "U{} = 4", "def u{}():\n    return {}", "# u{}", "u{}(3)"]


@given(st.data())
def test_an_edit_anywhere_is_in_the_result(data: st.DataObject) -> None:
    _, base, new = data.draw(st.sampled_from(PAIRS))
    lines = base.split("\n")
    edits = st.tuples(st.integers(0, len(lines) - 1), st.sampled_from([*ADDED, None]))
    numbers = [f"{700_000 + i}" for i in range(4)]
    for number, (index, added) in zip(
        numbers, data.draw(st.lists(edits, max_size=4)), strict=False
    ):
        indent = lines[index][: len(lines[index]) - len(lines[index].lstrip())]
        if added is None:
            lines[index] += f"  # u{number}"
        else:
            lines[index] = "\n".join(
                [
                    *(indent + part.format(number, number) for part in added.split("\n")),
                    lines[index],
                ]
            )
    ours = "\n".join(lines)
    text, is_clean = merge_texts(ours, base, new)
    for number in numbers:
        assert (number in ours) == (number in text)
    if is_clean and _is_python(ours):
        assert _is_python(text)


def _is_python(text: str) -> bool:
    try:
        ast.parse(text)
    except SyntaxError:
        return False
    return True


def _newer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(update.TEMPLATE, folder)
    with (folder / "loss.py").open("a") as file:
        file.write("\nNEWER = 1\n")
    monkeypatch.setattr(update, "read_template", _reader_of(folder))


def test_line_ends_links_and_permissions_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    create_project(project)
    text = (project / "loss.py").read_bytes().replace(b"\n", b"\r\n")
    elsewhere = tmp_path / "elsewhere.py"
    elsewhere.write_bytes(text)
    elsewhere.chmod(0o755)
    (project / "loss.py").unlink()
    (project / "loss.py").symlink_to(elsewhere)
    _newer(tmp_path / "newer", monkeypatch)
    assert update_project(project) == []
    assert (project / "loss.py").is_symlink()
    assert elsewhere.stat().st_mode & 0o777 == 0o755
    assert elsewhere.read_bytes() == text + b"\r\nNEWER = 1\r\n"


@pytest.mark.parametrize("case", ["not UTF-8", "newer", "template", "conflicts"])
def test_an_update_that_could_lose_something_is_refused(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    create_project(project)
    if case == "not UTF-8":
        (project / "loss.py").write_bytes("# Größe\n".encode("latin-1"))
    elif case == "newer":
        (project / ".kerakit" / "version").write_text("99.0\n")
    elif case == "template":
        shutil.rmtree(project / ".kerakit" / "template")
    else:
        (project / "loss.py").write_text(
            "<<<<<<< project\n||||||| base\n=======\n>>>>>>> template\n"
        )
    _newer(tmp_path / "newer", monkeypatch)
    files = {path: path.read_bytes() for path in project.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=case):
        update_project(project)
    assert {path: path.read_bytes() for path in project.rglob("*") if path.is_file()} == files


def test_an_interrupted_update_keeps_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    create_project(project)
    (project / "loss.py").write_text((project / "loss.py").read_text() + "MINE = 1\n")
    _newer(tmp_path / "newer", monkeypatch)
    base = read_template(project / ".kerakit" / "template")
    with monkeypatch.context() as patch:
        patch.setattr(update, "move_into_place", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            update_project(project)
    assert read_template(project / ".kerakit" / "template") == base
    assert update_project(project) == []
    text = (project / "loss.py").read_text()
    assert text.count("MINE = 1") == text.count("NEWER = 1") == 1


def _interrupt(new: Path, path: Path) -> None:
    raise KeyboardInterrupt


def test_a_loss_that_is_defined_above_its_entry_is_kept() -> None:
    with zipfile.ZipFile(update._PAST_TEMPLATES / "0.1.0.zip") as archive:
        base = archive.read("loss.py").decode()
    empty = "LOSSES: dict[str, Callable[[Any, Any], Any]] = {}"
    function = "def mine(targets, predictions):\n    return keras.ops.mean(predictions)\n\n\n"
    ours = base.replace(empty, function + empty.replace("{}", '{"mine": mine}'))
    assert ours != base
    text, is_clean = merge_texts(ours, base, read_template()["loss.py"])
    assert is_clean
    assert "def mine(targets, predictions):" in text
    assert '= {"mine": mine}' in text
    compile(text, "loss.py", "exec")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("version", b"", "version is damaged: '' is not a version"),
        ("version", b"9" * 5_000, "is not a version"),
        ("version", b"\xff\xfe0.1.0", "is not a version"),
        ("template/config.py", b"x = '\xff'\n", "config.py is damaged: not UTF-8"),
    ],
)
def test_a_damaged_base_of_the_merge_is_named(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    create_project(tmp_path)
    (tmp_path / ".kerakit" / name).write_bytes(content)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=message):
        update_project(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
