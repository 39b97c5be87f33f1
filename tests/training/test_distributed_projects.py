"""The real train.py in several processes: phases, kills, signals, errors, resumes."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fork_server import Child, ForkServer
from kerakit import Run
from projects import Project, copy_project, edit
from resuming import FLAGS, add_tiny_model, assert_equal
from worlds import TOLERANCE, free_port, variables

pytestmark = pytest.mark.slow

END_SECONDS = 120
"""Time in which all processes end after one was lost."""

SCENARIOS = {
    "phases": ("--jitter", "--learning_rate", "auto"),
    "scratch": ("--strategy", "scratch", "--ema", 0.9, "--mixup", 0.2, "--class_weights"),
}

LOG = '''
class Steps(keras.callbacks.Callback):
    """Writes the loss of each step and the images of each batch."""

    def __init__(self):
        super().__init__()
        self._rank = os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID", "0")

    def on_train_batch_end(self, batch, logs=None):
        with open(f"{os.environ['STEPS']}-{self._rank}.txt", "a") as file:
            print(batch, float(logs["loss"]).hex(), file=file)


def get(
'''


class Group:
    """Starts train.py in up to two processes that train together."""

    def __init__(self, project: Project, folder: Path) -> None:
        self.project = project
        common = {"MAX_FRACTION": "inf", "TMPDIR": str(folder), **variables(0, 1, 0)}
        self._servers = [ForkServer(**common) for _ in range(2)]
        self._count = 0

    def start(self, name: str, size: int, *flags: object) -> list[Child]:
        """Start a training; its steps are written to files named by the start."""
        return self.start_script(
            "train.py", name, size, "--save_to", f"progress/{name}", *FLAGS, *flags
        )

    def start_script(
        self, script: str, name: str, size: int, *flags: object, devices: int = 1
    ) -> list[Child]:
        """Start a script in several processes."""
        self._count += 1
        port, folder = free_port(), self.project.path
        children = []
        for rank, server in enumerate(self._servers[:size]):
            path = folder / f"{name}-{self._count}-{rank}.txt"
            path.touch()
            found = {**variables(rank, size, port, devices), "STEPS": f"steps-{name}"}
            children.append(server.start(folder, path, script, *flags, environment=found))
        return children

    def finish(self, name: str, size: int, *flags: object) -> list[str]:
        """Train to the end; return the outputs."""
        children = self.start(name, size, *flags)
        for child in children:
            assert child.wait() == 0, child.output
        return [child.output for child in children]

    def run(self, name: str) -> Run:
        """Return a run of the project."""
        return Run(self.project.path / "progress" / name)

    def steps(self, name: str, rank: int = 0) -> list[str]:
        """Return the steps that a process has written."""
        path = self.project.path / f"steps-{name}-{rank}.txt"
        return path.read_text().splitlines() if path.exists() else []

    def wait_for_steps(self, name: str, count: int, children: list[Child]) -> None:
        """Wait until process 1 has done so many steps."""
        while len(self.steps(name, 1)) < count:
            assert all(child.is_running() for child in children), children[0].output
            time.sleep(0.05)

    def close(self) -> None:
        """End the servers."""
        for server in self._servers:
            server.close()


@pytest.fixture(scope="module")
def group(
    tmp_path_factory: pytest.TempPathFactory, project_once: Project, photos_once: Path
) -> Iterator[Group]:
    """A project with the tiny model that records its steps."""
    folder = tmp_path_factory.mktemp("group")
    project = add_tiny_model(copy_project(project_once.path, folder / "project", photos_once))
    path = project.path / "callbacks.py"
    edit(path, "def get(\n", LOG.lstrip("\n"))
    edit(path, "    callbacks += trackers\n", "    callbacks += [*trackers, Steps()]\n")
    edit(path, "from collections.abc", "import os\nfrom collections.abc")
    made = Group(project, folder)
    yield made
    made.close()


def losses(lines: list[str]) -> list[float]:
    return [float.fromhex(line.split()[1]) for line in lines]


def assert_close(one: Run, other: Run) -> None:
    """Check that the histories of two runs agree within float tolerance."""
    first, second = (run.read_history() for run in (one, other))
    assert len(first) == len(second) > 0
    for row, expected in zip(first, second, strict=True):
        assert row.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(float(row[name]), float(value), rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_lost_process_ends_the_other_and_the_run_is_resumed(group: Group, scenario: str) -> None:
    """By two processes: to the bit. By one: the same order of samples, and losses close to it."""
    flags, size = SCENARIOS[scenario], 2
    one, two, cut, fewer = (f"{scenario}-{name}" for name in ("one", "two", "cut", "fewer"))
    group.finish(one, 1, *flags)
    outputs = group.finish(two, size, *flags)
    assert "2 processes were started" in outputs[0]
    assert not re.search("epoch|report|best", outputs[1])
    assert group.steps(two, 0) == group.steps(two, 1)
    np.testing.assert_allclose(losses(group.steps(two)), losses(group.steps(one)), rtol=TOLERANCE)
    assert_close(group.run(two), group.run(one))
    for name, lost in ((cut, 1), (fewer, 0)):
        children = group.start(name, size, *flags)
        group.wait_for_steps(name, 30, children)
        children[lost].kill(signal.SIGKILL)
        start = time.monotonic()
        assert children[1 - lost].wait(END_SECONDS) != 0
        assert time.monotonic() - start < END_SECONDS
        if lost == 1:
            assert "error: another process was lost" in children[0].output
        assert children[lost].wait() == -signal.SIGKILL
    group.finish(cut, size, "--resume", "auto", *flags)
    assert_equal(group.run(two), group.run(cut))
    group.finish(fewer, 1, "--resume", "auto", *flags)
    assert_close(group.run(fewer), group.run(two))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 33), (signal.SIGINT, 130)])
def test_a_signal_for_one_stops_all_after_the_same_step(
    group: Group, number: signal.Signals, code: int
) -> None:
    name = f"signal-{code}"
    children = group.start(name, 2, *SCENARIOS["scratch"], "--num_epochs", 1000)
    group.wait_for_steps(name, 20, children)
    children[1].kill(number)
    assert [child.wait() for child in children] == [code, code], children[1].output
    assert "To resume, repeat your command with --resume" in children[0].output
    assert group.steps(name, 0) == group.steps(name, 1)
    assert group.run(name).state.is_dir()


def test_an_error_in_one_process_ends_all(group: Group) -> None:
    """With the message of the one that failed, and its exit code."""
    path, folder = group.project.path / "callbacks.py", group.project.path.parent
    before = set(folder.glob("kerakit-1-*"))  # of a process that was killed by JAX
    text = path.read_text()
    condition = 'if batch == 5 and self._rank == "1":'
    fail = f'        {condition}\n            raise kerakit.UserError("no")\n'
    try:
        edit(path, '        with open(f"{os', f'{fail}        with open(f"{{os')
        children = group.start("failed", 2, *SCENARIOS["scratch"])
        start = time.monotonic()
        assert [child.wait(END_SECONDS) for child in children] == [2, 2]
        assert time.monotonic() - start < END_SECONDS
    finally:
        path.write_text(text)
    assert "error: no" in children[1].output
    assert "error: process 0 ends, because process 1 has failed" in children[0].output
    assert set(folder.glob("kerakit-1-*")) == before


def evaluate(
    group: Group, name: str, size: int, devices: int = 1
) -> tuple[list[Child], dict[str, bytes]]:
    """Evaluate a run by so many processes; return them, and what they wrote."""
    run = group.run(name)
    run.evaluation.unlink(missing_ok=True)
    flags = ("--read_from", f"progress/{name}")
    found = group.start_script("evaluate.py", name, size, *flags, devices=devices)
    for child in found:
        assert child.wait() == 0, child.output
    files = [run.evaluation, run.page, *sorted(run.plots.iterdir())]
    return found, {file.name: file.read_bytes() for file in files}


def test_two_processes_evaluate_as_one(group: Group) -> None:
    """The same files: each predicts whole batches, of which the last one is smaller."""
    name, folder = "evaluated", group.project.path.parent
    before = set(folder.glob("kerakit-1-*"))
    group.finish(name, 1, "--strategy", "scratch", "--num_epochs", 2)
    (one,), expected = evaluate(group, name, 1)
    both, files = evaluate(group, name, 2)
    assert files == expected
    assert one.output in both[0].output
    assert "2 processes were started" in both[0].output
    assert "Evaluated" not in both[1].output
    assert set(folder.glob("kerakit-1-*")) == before
    _, divided = evaluate(group, name, 2, devices=2)
    assert divided.keys() == expected.keys()
    metrics, found = (json.loads(one["evaluation.json"])["metrics"] for one in (expected, divided))
    assert found == pytest.approx(metrics, rel=1e-5)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_lost_process_ends_the_evaluation(group: Group, lost: int) -> None:
    name, path = f"lost-{lost}", group.project.path / "datagen.py"
    group.finish(name, 1, "--strategy", "scratch", "--num_epochs", 1)
    text = path.read_text()
    rank = 'os.environ.get("KERAS_DISTRIBUTION_PROCESS_ID")'
    try:
        edit(
            path,
            "        return image, annot\n",
            f"""        if {rank} == "{lost}":
            os.kill(os.getpid(), 9)
        return image, annot
""",
        )
        edit(
            path,
            "from __future__ import annotations\n",
            "from __future__ import annotations\nimport os\n",
        )
        flags = ("--read_from", f"progress/{name}")
        children = group.start_script("evaluate.py", name, 2, *flags)
        assert children[lost].wait(END_SECONDS) == -signal.SIGKILL, children[lost].output
        start = time.monotonic()
        assert children[1 - lost].wait(END_SECONDS) != 0
        assert time.monotonic() - start < END_SECONDS
        if lost == 1:
            assert "error: another process was lost" in children[0].output
            assert "Repeat your command." in children[0].output
    finally:
        path.write_text(text)
    assert not group.run(name).evaluation.exists()


def test_another_backend_than_jax_is_an_error_of_several_processes(group: Group) -> None:
    environment = {**variables(0, 2, free_port()), "KERAS_BACKEND": "torch"}
    output = group.project.path / "refused.txt"
    server = group._servers[0]
    child = server.start(
        group.project.path,
        output,
        "train.py",
        "--save_to",
        "progress/no",
        environment=environment,
    )
    assert child.wait() == 2
    assert "set KERAS_BACKEND=jax" in child.output
