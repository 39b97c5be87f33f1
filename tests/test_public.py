"""The public interface, and what may not be imported before the flags are parsed."""

import subprocess
import sys
from pathlib import Path

import pytest

import kerakit
from kerakit.deploy import FORMAT_NAMES
from kerakit.deploy.export import FORMATS

PROJECT = Path(kerakit.__file__).parent / "project"


@pytest.mark.parametrize("name", kerakit.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(kerakit, name) is not None


def test_every_name_with_a_home_is_public() -> None:
    assert set(kerakit._HOMES) | {"ImageError", "JobError", "KerakitError", "UserError"} == set(
        kerakit.__all__
    )


def test_the_names_of_the_formats_are_complete() -> None:
    assert tuple(FORMATS) == FORMAT_NAMES
    assert all(FORMATS[name].name == name for name in FORMAT_NAMES)


@pytest.mark.parametrize("script", ["train.py", "deploy.py"])
def test_help_explains_every_flag_and_imports_nothing_heavy(script: str) -> None:
    listing = (
        "import runpy, sys, atexit;"
        "atexit.register(lambda: print('LOADED', *sorted({m.partition('.')[0] for m in sys.modules})));"
        f"sys.argv = ['{script}', '--help'];"
        f"sys.path.insert(0, '.'); runpy.run_path('{script}', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", listing], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert (
        loaded
        & {"numpy", "keras", "tensorflow", "jax", "cv2", "grain", "albumentations", "sklearn"}
        == set()
    )
    assert "--read_from" in done.stdout or "--save_to" in done.stdout
    flags = [line for line in done.stdout.splitlines() if "│ --" in line]
    assert len(flags) >= 6


def test_the_project_needs_the_engine_and_never_the_reverse() -> None:
    engine = [p for p in PROJECT.parent.rglob("*.py") if PROJECT not in p.parents]
    own = {p.stem for p in PROJECT.glob("*.py")} | {"models"}
    for path in engine:
        for line in path.read_text().splitlines():
            words = line.split()
            if words[:1] in (["import"], ["from"]):
                assert words[1].partition(".")[0] not in own, f"{path}: {line}"
            assert ".fit(" not in line, f"{path}: {line}"
            assert ".compile(" not in line or "re.compile(" in line, f"{path}: {line}"


@pytest.mark.parametrize("script", ["train.py", "deploy.py"])
def test_the_jobs_stay_short_enough_to_be_read(script: str) -> None:
    assert len((PROJECT / script).read_text().splitlines()) < 80
