"""A Slurm for each file of tests, and a small experiment that its jobs train."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.jobs import SECONDS, STEPS, submit, weights
from tests.cluster.slurm import Slurm, running_slurm
from tests.faults.experiment import write_experiment
from tests.paths import ROOT


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with running_slurm(tmp_path_factory.mktemp("slurm") / "cluster") as running:
        yield running


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an experiment of some seconds, and the programs that the scripts call."""
    folder = tmp_path_factory.mktemp("jobs")
    whole = yaml.safe_load(write_experiment(folder).read_text(encoding="utf-8"))
    content = whole["contrastive"] | {"name": "tiny", "output_dir": str(folder / "runs")}
    content["data"]["num_workers"] = 1
    content["schedule"]["max_steps"] = STEPS
    content["checkpoint"] = {"every_n_steps": 50}
    content["evaluation"]["every_n_steps"] = STEPS
    content["trainer"]["strategy"] = "ddp"
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    for name, module in (("kelip", "kelip_lightning"), ("torchrun", "torch.distributed.run")):
        file = folder / name
        file.write_text(f'#!/bin/sh\nexport PYTHONPATH="{ROOT}"\nexec "{sys.executable}" -m {module} "$@"\n')
        file.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def expected(slurm: Slurm, place: Path) -> bytes:
    """The weights of an undisturbed run."""
    job = submit(slurm, place, "whole")
    job.wait("COMPLETED", SECONDS)
    assert job.restarts == 0
    return weights(place, "whole")
