"""MLflow and Weights & Biases: real libraries, real trainings, no server."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from kerakit.errors import UserError
from kerakit.run import Run
from kerakit.training import TRACKER_NAMES
from kerakit.training.trackers import TRACKERS, Status, Tracker, get_trackers, tracking
from projects import Project, template_modules

STATUS: dict[str, tuple[str, int]] = {
    "completed": ("FINISHED", 0),
    "failed": ("FAILED", 1),
    "interrupted": ("KILLED", 130),
}


# ------------------------------------------------------------------------------- without a service


class Fragile(Tracker):
    """A service that is gone at the start, or after two epochs."""

    title = "Fragile"

    def __init__(self, run: Run, starts: bool = True) -> None:
        super().__init__(run)
        self.starts = starts
        self.calls: list[Any] = []

    def start(self, name: str, settings: dict[str, Any]) -> None:
        self.calls.append((name, settings))
        if not self.starts:
            raise ConnectionError("no server\nat this address")

    def log(self, epoch: int, metrics: dict[str, float]) -> None:
        self.calls.append((epoch, metrics))
        if epoch == 2:
            raise ConnectionError("the server has gone")

    def log_files(self, files: list[Path], best: str) -> None:
        self.calls.append(([path.name for path in files], best))

    def finish(self, status: Status) -> None:
        self.calls.append(status)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run").create()
    run.config.write_text('{"model": "small_cnn"}')
    return run


def test_a_service_that_fails_costs_no_training(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    tracker = Fragile(run)
    with tracking([tracker]):
        for epoch in range(4):
            tracker.on_epoch_end(epoch, {"loss": 1 / (epoch + 1)})
    assert tracker.calls == [
        (str(run.path), {"model": "small_cnn"}),
        (1, {"loss": 1.0}),
        (2, {"loss": 0.5}),
        (["config.json"], "none"),
        "completed",
    ]
    warning = capsys.readouterr().err
    assert "Fragile" in warning
    assert "the server has gone" in warning
    assert len(warning.splitlines()) == 1


def test_a_service_that_does_not_start_is_an_error_and_ends_those_that_did(run: Run) -> None:
    first, second = Fragile(run), Fragile(run, starts=False)
    with (
        pytest.raises(UserError, match=r"Fragile .* no server\."),
        tracking([first, second]),
    ):
        raise AssertionError("not reached")
    assert first.calls[-1] == second.calls[-1] == "failed"


def test_a_missing_package_is_explained_and_nothing_is_touched(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with (
        template_modules(project.path) as load,
        pytest.raises(UserError, match="'mlflow-skinny"),
    ):
        load("callbacks").get(project.path / "run", track=("mlflow",))
    assert not (project.path / "run").exists()


def test_train_checks_trackers_before_it_imports_keras(project: Project) -> None:
    source = (
        "import sys, runpy, atexit; sys.modules['wandb'] = None; "
        "atexit.register(lambda: print('keras' in sys.modules)); "
        "sys.argv = 'train.py --save_to run --track wandb --data_dir gone'.split(); "
        "runpy.run_path('train.py', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "False\n")
    assert "error: --track wandb needs a package that is not installed: pip install" in done.stderr


def test_the_folder_of_offline_runs_is_no_package(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "kerakit_offline_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(TRACKERS, "kerakit_offline_runs", Fragile)
    with pytest.raises(UserError, match="kerakit_offline_runs"):
        get_trackers(("kerakit_offline_runs",), run)


def test_the_names_of_the_trackers_are_complete() -> None:
    assert tuple(TRACKERS) == TRACKER_NAMES


# ------------------------------------------------------------------------------ the real libraries


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)


def history(project: Project, name: str) -> list[dict[str, float]]:
    with (project.path / "progress" / name / "history.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


# Each in a process of its own: their imports raise warnings of their dependencies.
MLFLOW = """
import json, mlflow

client = mlflow.MlflowClient()
(run,) = client.search_runs(["0"])
metrics = {
    name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
    for name in run.data.metrics
}
files = [
    a.path
    for folder in ("", "plots")
    for a in client.list_artifacts(run.info.run_id, folder)
    if not a.is_dir
]
texts = {
    name: mlflow.artifacts.load_text(f"{run.info.artifact_uri}/{name}")
    for name in files
    if not name.endswith(".png")
}
print(
    json.dumps(
        {
            "name": run.info.run_name,
            "status": run.info.status,
            "settings": run.data.params,
            "metrics": metrics,
            "best": run.data.tags["best_checkpoint"],
            "files": sorted(files),
            "texts": texts,
        }
    )
)
"""

WANDB = '''
import json, struct
from pathlib import Path
from wandb.proto.wandb_internal_pb2 import Record


def records(content, at=7, block=32768):
    """Read LevelDB's log format: blocks of pieces of records: CRC, length, kind, content."""
    whole = b""
    while at < len(content):
        if at % block > block - 7:
            at += block - at % block
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        whole += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            yield Record.FromString(whole)
            whole = b""


(folder,) = Path("wandb").glob("offline-run-*")
(file,) = folder.glob("*.wandb")
found = {"metrics": {}, "files": []}
for record in records(file.read_bytes()):
    if record.HasField("run"):
        found["name"] = record.run.display_name
        found["settings"] = {
            item.key: json.loads(item.value_json) for item in record.run.config.update
        }
    if record.HasField("history"):
        row = {
            item.key or item.nested_key[0]: json.loads(item.value_json)
            for item in record.history.item
        }
        for name in row.keys() - {"_step", "_runtime", "_timestamp", "_wandb"}:
            found["metrics"].setdefault(name, []).append((row["_step"], row[name]))
    if record.HasField("summary"):
        summary = {
            item.key or item.nested_key[0]: json.loads(item.value_json)
            for item in record.summary.update
        }
        found["best"] = summary.get("best_checkpoint", found.get("best"))
    if record.HasField("files"):
        found["files"] += [item.path for item in record.files.files]
    if record.HasField("exit"):
        found["status"] = record.exit.exit_code
copies = folder / "files"
found["files"] = sorted(
    name
    for name in set(found["files"])
    if (copies / name).is_file() and not (copies / name).is_symlink()
)
found["texts"] = {
    name: (copies / name).read_text()
    for name in ("config.json", "history.csv")
    if (copies / name).exists()
}
print(json.dumps(found))
'''


def stored(project: Project, source: str) -> dict[str, Any]:
    """Return what a library stored of the one run."""
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=project.path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def expect(project: Project, name: str, status: str) -> None:
    """Compare what both libraries stored with the run folder."""
    rows = history(project, name)
    metrics = {key: [[row["epoch"], row[key]] for row in rows] for key in rows[0] if key != "epoch"}
    folder = project.path / "progress" / name
    settings = json.loads((folder / "config.json").read_text())
    best = json.loads((folder / "ckpt" / "index.json").read_text())[0]["file"]
    for library, source in enumerate((MLFLOW, WANDB)):
        found = stored(project, source)
        assert found["status"] == STATUS[status][library]
        assert found["name"] == f"progress/{name}"
        # Ctrl-C may come after the last epoch is in history.csv and before it is logged.
        possible = [metrics] + [{key: values[:-1] for key, values in metrics.items()}] * (
            status == "interrupted"
        )
        assert found["metrics"] in possible
        assert found["best"] == f"progress/{name}/ckpt/{best}"
        assert found["texts"] == {
            file: (folder / file).read_text() for file in ("config.json", "history.csv")
        }
        pictures = {f"plots/{path.name}" for path in (folder / "plots").glob("*.png")}
        assert pictures | {"config.json", "history.csv"} <= set(found["files"])
        # MLflow keeps every value as text.
        expected = (
            {key: str(value) for key, value in settings.items()} if library == 0 else settings
        )
        assert {
            key: value for key, value in found["settings"].items() if key != "_wandb"
        } == expected


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_all_phases_are_one_run(project: Project) -> None:
    small = (
        "--model",
        "efficientnet_lite0",
        "--input_size",
        "32,32",
        "--num_epochs",
        2,
        "--head_epochs",
        3,
        "--strategy",
        "finetune",
    )
    result = project.run(
        "train.py", "--save_to", "progress/test", *small, "--track", "mlflow,wandb"
    )
    assert result.code == 0, result.err
    epochs = [row["epoch"] for row in history(project, "test")]
    assert epochs[-1] == 3 + 2
    assert epochs == sorted(set(epochs))
    expect(project, "test", "completed")


LOSS = """

def worse(targets, predictions):
    steps.assign_add(1.0)
    loss = keras.losses.sparse_categorical_crossentropy(targets, predictions)
    return loss / keras.ops.cast(steps < 30, "float32")


steps = keras.Variable(0.0, trainable=False)
LOSSES["worse"] = worse
"""


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_a_training_that_fails_is_a_run_that_failed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    # MLflow's file store, for old users; elsewhere in these tests it uses SQLite.
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (project.path / "mlruns").as_uri())
    with (project.path / "loss.py").open("a") as file:
        file.write(LOSS)
    result = project.train(
        "--num_epochs", 30, "--loss", "worse", "--batch_size", 8, "--track", "mlflow,wandb"
    )
    assert result.code == 1, result.out + result.err
    assert "loss" in result.err
    expect(project, "test", "failed")


@pytest.mark.slow
@pytest.mark.usefixtures("offline")
def test_ctrl_c_ends_the_tracked_run(project: Project) -> None:
    command = [
        sys.executable,
        "train.py",
        "--save_to",
        "progress/test",
        "--model",
        "small_cnn",
        "--input_size",
        "16,12",
    ]
    process = subprocess.Popen(
        [*command, "--num_epochs", "10000", "--track", "mlflow,wandb"],
        cwd=project.path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    path = project.path / "progress" / "test" / "history.csv"
    limit = time.monotonic() + 120
    while not (path.exists() and len(history(project, "test")) >= 2) and time.monotonic() < limit:
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    expect(project, "test", "interrupted")
