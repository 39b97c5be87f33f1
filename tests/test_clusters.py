"""The files of the guide "Clusters": complete, valid, with flags and exit codes that exist."""

from __future__ import annotations

import ast
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from kerakit.script import PREEMPTED
from projects import template_modules

GUIDE = Path(__file__).parents[1] / "docs" / "guides" / "clusters.md"
FILES = dict(re.findall(r'```\w+ title="([^"]+)"\n(.*?)```\n', GUIDE.read_text(), re.DOTALL))


def run_script(
    folder: Path, source: str, programs: dict[str, str], **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a shell script with other programs in place of those of a cluster."""
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{body}\n")
        (folder / name).chmod(0o755)
    return subprocess.run(
        ["bash", "-c", source],
        env={"PATH": f"{folder}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_flags_of_each_file_exist() -> None:
    with template_modules() as load:
        known = set(load("config").TrainConfig.model_fields)
    job = yaml.safe_load(FILES["job.yaml"].split("---")[1])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    lines = [
        *FILES["train.sbatch"].splitlines(),
        *yaml.safe_load(FILES["sky.yaml"])["run"].split("\n"),
    ]
    commands = [shlex.split(line) for line in lines if " train.py " in line]
    commands.append([*container["command"], *container["args"]])
    assert len(commands) == 3
    for words in commands:
        flags = [word.removeprefix("--") for word in words if word.startswith("--")]
        assert {"save_to", "resume"} <= set(flags) <= known
        assert words[words.index("--resume") + 1] == "auto"
    assert '*config["flags"], "--resume", "auto"]' in FILES["ray_train.py"]
    ast.parse(FILES["ray_train.py"])


@pytest.mark.parametrize(("code", "is_requeued"), [(0, False), (2, False), (PREEMPTED, True)])
def test_the_slurm_script_requeues_a_preempted_job(
    code: int, is_requeued: bool, tmp_path: Path
) -> None:
    programs = {"srun": f"exit {code}", "scontrol": 'echo "$@"'}
    done = run_script(tmp_path, FILES["train.sbatch"], programs, SLURM_JOB_ID="7")
    assert done.returncode == code
    assert done.stdout == ("requeue 7\n" if is_requeued else "")


def test_skypilot_recovers_a_preempted_job() -> None:
    recovery = yaml.safe_load(FILES["sky.yaml"])["resources"]["job_recovery"]
    assert recovery["recover_on_exit_codes"] == [PREEMPTED]


def test_the_variables_of_skypilot_become_those_of_keras(tmp_path: Path) -> None:
    script = yaml.safe_load(FILES["sky.yaml"])["run"]
    done = run_script(
        tmp_path,
        script,
        {"python": "env"},
        SKYPILOT_NODE_IPS="10.0.0.1\n10.0.0.2",
        SKYPILOT_NUM_NODES="2",
        SKYPILOT_NODE_RANK="1",
    )
    assert {
        "KERAS_DISTRIBUTION_JOB_ADDRESSES=10.0.0.1:1234",
        "KERAS_DISTRIBUTION_NUM_PROCESSES=2",
        "KERAS_DISTRIBUTION_PROCESS_ID=1",
    } <= set(done.stdout.splitlines())


def test_the_kubernetes_job_is_consistent() -> None:
    service, job = yaml.safe_load_all(FILES["job.yaml"])
    name, spec = job["metadata"]["name"], job["spec"]
    pod = spec["template"]["spec"]
    assert service["metadata"]["name"] == pod["subdomain"]
    assert service["spec"]["selector"] == {"batch.kubernetes.io/job-name": name}
    (container,) = pod["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert variables["KERAS_DISTRIBUTION_NUM_PROCESSES"] == str(spec["completions"])
    assert spec["completions"] == spec["parallelism"]
    host = variables["KERAS_DISTRIBUTION_JOB_ADDRESSES"].partition(":")[0]
    assert host == f"{name}-0.{pod['subdomain']}"
    codes = {
        code: rule["action"]
        for rule in spec["podFailurePolicy"]["rules"]
        for code in rule.get("onExitCodes", {}).get("values", ())
    }
    assert codes == {PREEMPTED: "Ignore", 2: "FailJob"}
    assert {mount["name"] for mount in container["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
