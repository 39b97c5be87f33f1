"""Push to and prediction from the Hugging Face Hub: the real client, and a server like the hub."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants
from PIL import Image

from digits import Exported
from hub_server import READ_TOKEN, TOKEN, Hub, Repo, serve_hub
from kerakit import JobError, UserError
from kerakit.deploy import ExportFolder, fetch_export, push_export
from projects import Project, Result, run_command

# The client's own upload of large files, with its own HTTP library.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")

Kerakit = Callable[..., Result]


CLOSED = "http://127.0.0.1:9"
"""An endpoint without a server."""


def set_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """Let the client in this process use another hub; it reads HF_ENDPOINT when it is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + template)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """An empty hub that the client in this process uses, with the token of a writer."""
    with serve_hub() as hub:
        set_endpoint(monkeypatch, hub.url)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield hub


@pytest.fixture
def kerakit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Kerakit:
    """A function that runs a command in this process."""

    def run(*words: object) -> Result:
        return run_command(monkeypatch, capfd, tmp_path, *words)

    return run


@pytest.fixture
def export(exported_digits: Exported, tmp_path: Path) -> Path:
    """A copy of an export, with files of its owner."""
    folder = Path(shutil.copytree(exported_digits.folder, tmp_path / "deploy/digits"))
    (folder / ".env").write_text("PASSWORD=1")
    (folder / "device/notes.txt").write_text("mine")
    return folder


@pytest.fixture
def photo(exported_digits: Exported, tmp_path: Path) -> Path:
    Image.fromarray(exported_digits.held_out[0]).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def test_the_files_of_an_export_are_pushed_in_one_commit(
    hub: Hub, kerakit: Kerakit, export: Path
) -> None:
    done = kerakit("push", export, "hf:ada/digits", "--private")
    assert done.code == 0, done.err
    assert f"{hub.url}/ada/digits" in done.out
    repo = hub.repos["ada/digits"]
    assert repo.private
    files = json.loads((export / "report.json").read_text())["files"]
    assert sorted(repo.files) == sorted(files)
    assert all(repo.files[name] == (export / name).read_bytes() for name in files)
    assert "device/predict.py" in files
    assert len(repo.commits) == 1

    # A later export lacks a file; others of the repository stay.
    repo.files["LICENSE"] = repo.files["model.onnx"] = b"other"
    report = json.loads((export / "report.json").read_text())
    report["files"].remove("device/golden.npz")
    (export / "report.json").write_text(json.dumps(report))
    assert kerakit("push", export, "hf:ada/digits").code == 0
    _, deleted = repo.commits[1]
    assert deleted == ["device/golden.npz", "model.onnx"]
    assert repo.files["LICENSE"] == b"other"


def test_the_repository_is_public_unless_asked(hub: Hub, export: Path) -> None:
    push_export(ExportFolder(export), "hf:ada/digits")
    assert not hub.repos["ada/digits"].private


def test_a_prediction_from_the_hub_is_that_of_the_folder(
    hub: Hub, kerakit: Kerakit, export: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push_export(ExportFolder(export), "hf:ada/digits")
    hostile = b"raise SystemExit('code of the repository ran')"
    for name in ("predict.py", "device/predict.py", "config.json", "sitecustomize.py"):
        hub.repos["ada/digits"].files[name] = hostile
    local = kerakit("predict", export, photo, "--top", 3)
    remote = kerakit("predict", "hf:ada/digits", photo, "--top", 3)
    assert (local.code, remote.code) == (0, 0), local.err + remote.err
    assert remote.out == local.out
    data = {"labels.txt", "model.tflite", "preprocessing.json", "report.json", "task.json"}
    assert set(hub.downloads) == data
    hub.downloads.clear()
    assert kerakit("predict", "hf:ada/digits@main", photo, "--top", 3).out == local.out
    assert hub.downloads == []

    # In a process of its own, as a user sets it up.
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(photo.parent / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    command = [sys.executable, "-m", "kerakit", "predict", "hf:ada/digits", str(photo)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == local.out.splitlines()[:2]

    # Without the network, from the cache.
    set_endpoint(monkeypatch, CLOSED)
    offline = kerakit("predict", "hf:ada/digits", photo, "--top", 3)
    assert (offline.code, offline.out) == (0, local.out), offline.err
    assert "is read from the cache" in offline.err
    unknown = kerakit("predict", "hf:ada/other", photo)
    assert unknown.code == 1
    assert "cannot read hf:ada/other" in unknown.err
    assert "Traceback" not in unknown.err


def test_what_cannot_be_pushed_is_said(
    hub: Hub, kerakit: Kerakit, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def expect(code: int, text: str, folder: Path = export, to: str = "hf:ada/digits") -> None:
        done = kerakit("push", folder, to)
        assert done.code == code, done.err
        assert text in done.err
        assert "Traceback" not in done.err
        assert TOKEN not in done.err

    expect(2, "Expected hf:user/name.\n", to="ada/digits")
    for to in ("hf:ada", "hf:../digits", "hf:./digits", "hf:ada/-", "hf:a--b/c"):
        expect(2, "Expected hf:user/name", to=to)
    expect(2, "Expected hf:user/name", to="hf:ada/digits.git")
    expect(2, "Expected hf:user/name alone", to="hf:ada/digits@v2")
    expect(2, "holds no export of deploy.py", export / "device")
    assert hub.requests == []
    hub.broken = "commit"
    expect(1, "cannot push to hf:ada/digits: HfHubHTTPError")
    assert hub.repos["ada/digits"].files == {}
    hub.broken = ""
    monkeypatch.setenv("HF_TOKEN", READ_TOKEN)
    expect(2, "has no permission")
    monkeypatch.setenv("HF_TOKEN", "hf_expired")
    expect(2, "the token is not valid")
    monkeypatch.delenv("HF_TOKEN")
    expect(2, "there is no token. Run `hf auth login`")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    page, path = export / "report.html", f"{tempfile.gettempdir()}/"
    content = page.read_text()
    page.write_text(f"{content}QUJD{path}QUJD")  # Base64 of an image may contain it by chance.
    assert kerakit("push", export, "hf:ada/digits").code == 0
    page.write_text(f'{content}"{path}photo.jpg"')
    expect(2, "report.html contains a path of this machine")
    page.write_text(content)
    (export / "task.json").unlink()
    expect(2, "task.json, a file of the export, is missing")
    shutil.copy(export / "device/task.json", export)
    (export / "labels.txt").write_text(f"{Path.home()}/photos\n")
    expect(2, "contains a path of this machine")
    (export / "labels.txt").unlink()
    (export / "labels.txt").symlink_to("/etc/hostname")
    expect(2, "labels.txt, a file of the export, is missing")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    shutil.copy(export / "device/labels.txt", export / "labels.new")
    (export / "labels.new").replace(export / "labels.txt")
    expect(2, "hf:ada/digits needs a package that is not installed: pip install")


def test_a_hub_that_is_not_reached(
    hub: Hub, kerakit: Kerakit, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_endpoint(monkeypatch, CLOSED)
    done = kerakit("push", export, "hf:ada/digits")
    assert done.code == 1
    assert "cannot push to hf:ada/digits: ConnectError" in done.err


def test_hostile_repositories_are_errors(
    hub: Hub, kerakit: Kerakit, export: Path, photo: Path
) -> None:
    good = {name: (export / name).read_bytes() for name in ("model.tflite", "labels.txt")}
    good["task.json"] = (export / "task.json").read_bytes()

    def expect(text: str, listed: dict[str, int] | None = None, **changes: bytes | None) -> None:
        name = f"ada/x{len(hub.repos)}"
        files = {**good, **{key.replace("__", "."): one for key, one in changes.items()}}
        hub.repos[name] = Repo(
            private=False, files={key: one for key, one in files.items() if one is not None}
        )
        hub.listed = listed or {}
        done = kerakit("predict", f"hf:{name}", photo)
        assert done.code == 2, done.out + done.err
        assert text in done.err, done.err
        assert "Traceback" not in done.err

    expect("has no model.tflite. Expected hf:user/name of an export.", model__tflite=None)
    expect("task.json is damaged", task__json=b"{")
    expect("does not fit", task__json=b'{"task": "detection", "classes": ["a"], "outputs": []}')
    expect("expected one of classification", task__json=b'{"task": "os.system", "classes": ["a"]}')
    expect("has 1 lines", labels__txt=b"one\n")
    expect("cannot use", model__tflite=b"TFL3 no model")
    expect("larger than 2048 MiB", {"model.tflite": 2**40})
    expect("larger than 64 MiB", {"task.json": 2**40})
    incomplete: dict[str, object] = {"status": "incomplete", "from": "../../outside"}
    incomplete |= {"versions": {"kerakit": "1"}, "new": ["labels.txt"]}
    expect("is incomplete", report__json=json.dumps(incomplete).encode())
    outside = "../../../outside.tflite"
    hub.repos["ada/up"] = Repo(private=False, files={outside: good["model.tflite"]})
    hub.listed = {}
    assert kerakit("predict", f"hf:ada/up/{outside}", photo).code == 2
    with pytest.raises(UserError, match=r"has no model\.tflite"):
        fetch_export("hf:ada/up")
    assert not list(photo.parent.parent.glob("outside*"))
    hub.repos["ada/up"].private = True
    with pytest.raises(UserError, match="no such repository"):
        fetch_export("hf:ada/gone")
    hub.broken = "revision"
    with pytest.raises(JobError, match="cannot read hf:ada/up"):
        fetch_export("hf:ada/up@main")


def test_a_file_and_a_private_repository(
    hub: Hub, kerakit: Kerakit, export: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {name: (export / name).read_bytes() for name in ("labels.txt", "task.json")}
    files["model_small.tflite"] = (export / "model.tflite").read_bytes()
    hub.repos["ada/digits"] = Repo(private=True, files=files)
    assert kerakit("predict", "hf:ada/digits/model_small.tflite", photo).code == 0
    done = kerakit("predict", "hf:ada/digits", photo)
    assert done.code == 2
    assert "use hf:ada/digits/model_small.tflite" in done.err
    monkeypatch.delenv("HF_TOKEN")
    done = kerakit("predict", "hf:ada/digits/model_small.tflite", photo)
    assert done.code == 2
    assert "it is private and your token does not allow it" in done.err


@pytest.mark.parametrize(
    "names",
    ["h5", pytest.param("h5,saved_model,float32,int8,onnx,openvino", marks=pytest.mark.slow)],
)
def test_an_export_contains_no_path_of_this_machine(
    hub: Hub, trained: Project, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    run, folder = trained.path / "progress/test", trained.path / "deploy/absolute"
    formats = ("--formats", names, "--push", "hf:ada/fruit", "--max_drop", 1)
    done = trained.call("deploy.py", "--read_from", run, "--save_to", folder, *formats)
    assert done.code == 0, done.err
    assert f"Pushed to {hub.url}/ada/fruit" in done.out
    files = hub.repos["ada/fruit"].files
    assert {"model.h5", "README.md", "report.html"} <= set(files)
    for name, content in files.items():
        assert str(trained.path.parent).encode() not in content, name
    report = json.loads(files["report.json"])
    assert report["run"] == "progress/test"
    assert (report["data"]["name"], report["data"]["train"]) == ("photos", 48)
    card = huggingface_hub.ModelCard(files["README.md"].decode())
    assert "| training images | 48 |" in card.text
    monkeypatch.delenv("HF_TOKEN")
    again = ("--read_from", "progress/test", "--save_to", "deploy/again", "--push", "hf:ada/fruit")
    done = trained.call("deploy.py", *again)
    assert done.code == 2
    assert "there is no token" in done.err
    assert not (trained.path / "deploy/again").exists()
