"""Trainings on several devices and by several processes: as on one device by one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kerakit import UserError, nested, world
from kerakit.data import BatchGenerator, DataReader, Mix
from kerakit.training.launch import Launch, find_launch
from kerakit.world import World
from projects import HIDE_TENSORFLOW
from worlds import TOLERANCE, free_port, variables

# --------------------------------------------------------------------------------- who reads what


@pytest.fixture
def alone() -> Iterator[None]:
    """The world of this process is restored at the end."""
    yield
    world.join(World())


@pytest.mark.parametrize("batch_size", [4, 7, 12, 64])
@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.usefixtures("alone")
def test_the_parts_of_all_processes_are_the_batches_of_one(
    photos: Path, batch_size: int, is_mixed: bool
) -> None:
    """For 1 to 4 processes, with 1 or 2 devices each: each sample once, in one order, to the bit.

    A batch that the devices do not divide is whole in each process.
    """
    reader = DataReader(photos)
    mix = Mix(len(reader.class_names), mixup=0.2, cutmix=1) if is_mixed else None
    generator = BatchGenerator(reader, "train", batch_size, (16, 12), seed=7, mix=mix, threads=1)
    whole = [generator.load_batch(i) for i in range(len(generator))]
    assert sum(len(images) for images, _ in whole) == len(generator.index)
    for size, devices in ((1, 1), (2, 2), (2, 4), (3, 3), (4, 4), (4, 8)):
        parts = []
        for rank in range(size):
            world.join(World(rank, size, devices))
            generator.epoch = 0
            parts.append([generator.local_batch(i) for i in range(len(generator))])
            generator.close()
        for i, (images, targets) in enumerate(whole):
            count = generator.batch_count(i)
            assert count == len(images)
            own = [part[i] for part in parts]
            if count % devices:
                for one in own:
                    assert one[0].tobytes() == images.tobytes()
                    assert one[1].tobytes() == targets.tobytes()
            else:
                together = nested.concatenate(own)
                assert together[0].tobytes() == images.tobytes()
                assert together[1].tobytes() == targets.tobytes()


# -------------------------------------------------------------------------------------- launchers


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, None),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, Launch("SLURM", 8, 3)),
        (
            {
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS_PER_NODE": "1",
                "CUDA_VISIBLE_DEVICES": "0,1,2",
            },
            Launch("SLURM", 2, 1, None, (0, 1, 2)),
        ),
        (
            {
                "OMPI_COMM_WORLD_SIZE": "2",
                "OMPI_COMM_WORLD_RANK": "1",
                "OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1",
                "CUDA_VISIBLE_DEVICES": "1",
            },
            Launch("Open MPI", 2, 1, None, (0,)),
        ),
        (
            {"PMI_SIZE": "2", "PMI_RANK": "0", "JAX_COORDINATOR_ADDRESS": "node1:9"},
            Launch("MPI", 2, 0, "node1:9"),
        ),
        (
            {
                "KERAS_DISTRIBUTION_NUM_PROCESSES": "4",
                "JOB_COMPLETION_INDEX": "3",
                "KERAS_DISTRIBUTION_JOB_ADDRESSES": "job-0.service:1234,job-1.service:1234",
            },
            Launch("KERAS_DISTRIBUTION variables", 4, 3, "job-0.service:1234"),
        ),
    ],
)
def test_processes_of_launchers_are_found(
    environment: dict[str, str], expected: Launch | None
) -> None:
    assert find_launch(environment) == expected


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"WORLD_SIZE": "2", "RANK": "0"}, "Set JAX_COORDINATOR_ADDRESS=HOST:PORT"),
        ({"PMI_SIZE": "2", "PMI_RANK": "2"}, "PMI_RANK is 2; expected 0 to 1"),
        ({"PMI_SIZE": "two"}, "PMI_SIZE is 'two'; expected a number"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is not set. Expected a number"),
        (
            {"KERAS_DISTRIBUTION_NUM_PROCESSES": "2"},
            "KERAS_DISTRIBUTION_PROCESS_ID, or JOB_COMPLETION_INDEX of a Kubernetes Job, is not",
        ),
    ],
)
def test_a_launch_that_cannot_work_is_an_error(environment: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        find_launch(environment)


# --------------------------------------------------------------------------------- real processes


def fit(photos: Path, folder: Path, size: int, devices: int) -> list[dict[str, Any]]:
    """Run distributed_fit.py in so many processes; return what they print."""
    port = free_port()
    (folder.parent / "sitecustomize.py").write_text(
        HIDE_TENSORFLOW
    )  # imports take half of the time without it
    path = os.pathsep.join(filter(None, (str(folder.parent), os.environ.get("PYTHONPATH"))))
    processes = [
        subprocess.Popen(
            [
                *(sys.executable, str(Path(__file__).with_name("distributed_fit.py"))),
                *(str(photos), str(folder)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path, **variables(rank, size, port, devices)},
        )
        for rank in range(size)
    ]
    printed = [one.communicate(timeout=120) for one in processes]
    for one, (_, error) in zip(processes, printed, strict=True):
        assert one.returncode == 0, error
    return [json.loads(output.splitlines()[-1]) for output, _ in printed]


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_two_processes_are_as_one(photos: Path, tmp_path: Path, devices: int) -> None:
    """Losses, metrics and weights; a last batch that the devices do not divide; files of one."""
    folder = tmp_path / "run"
    for name in ("00", "01", "02"):
        (photos / "apple" / f"{name}.png").unlink()
    (one,) = fit(photos, tmp_path / "one", 1, 1)
    first, second = fit(photos, folder, 2, devices)
    assert one["devices"] == 1
    assert first["devices"] == second["devices"] == 2 * devices
    assert one["sizes"][0] % 8 % 2
    for name in ("losses", "history", "weights"):
        assert first[name] == second[name]
    np.testing.assert_allclose(first["losses"], one["losses"], rtol=TOLERANCE)
    assert first["history"].keys() == one["history"].keys() > {"val_loss", "val_ece"}
    for name, values in one["history"].items():
        np.testing.assert_allclose(first["history"][name], values, rtol=TOLERANCE, atol=1e-6)
    assert first["save_to"] == str(folder)
    assert (folder / "history.csv").is_file()
    assert not Path(second["save_to"]).exists()
