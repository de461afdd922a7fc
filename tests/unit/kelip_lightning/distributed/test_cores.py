"""CPU cores of a run: affinity, the container's limit, OMP_NUM_THREADS."""

import math
import os
from pathlib import Path

import pytest

from kelip_lightning.distributed import cores
from kelip_lightning.distributed.cores import container_cores, usable_cores


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Six cores for this process, and no limits."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(cores, "container_cores", lambda: math.inf)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    return monkeypatch


def test_usable_cores__those_that_the_process_may_run_on(machine: pytest.MonkeyPatch) -> None:
    assert usable_cores() == 6
    machine.setattr(os, "cpu_count", lambda: 5)
    machine.delattr(os, "sched_getaffinity")  # as on macOS
    assert usable_cores() == 5


@pytest.mark.parametrize(("limit", "expected"), [("4", 4), ("16", 6), ("0", 1), ("", 6), ("4,2", 6)])
def test_usable_cores__at_most_omp_num_threads(machine: pytest.MonkeyPatch, limit: str, expected: int) -> None:
    machine.setenv("OMP_NUM_THREADS", limit)
    assert usable_cores() == expected


@pytest.mark.parametrize(("limit", "expected"), [(2.0, 2), (2.9, 2), (0.5, 1), (32.0, 6)])
def test_usable_cores__at_most_the_whole_cores_of_the_container(
    machine: pytest.MonkeyPatch, limit: float, expected: int
) -> None:
    machine.setattr(cores, "container_cores", lambda: limit)
    assert usable_cores() == expected


def groups(folder: Path, own: str, **files: str) -> tuple[Path, Path]:
    """The mount of the control groups with files of this text, and the file that names a process's own."""
    for name, text in files.items():
        file = folder / "cgroup" / name.replace("__", "/").replace("_D_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    (folder / "own").write_text(own, encoding="utf-8")
    return folder / "cgroup", folder / "own"


def test_container_cores__version_2_the_smallest_limit_of_a_group_and_those_above(tmp_path: Path) -> None:
    files = {
        "pod__cpu_D_max": "250000 100000\n",
        "pod__inner__cpu_D_max": "max 100000\n",
        "cpu_D_max": "400000 100000\n",
    }
    assert container_cores(*groups(tmp_path, "0::/pod/inner\n", **files)) == 2.5
    assert container_cores(*groups(tmp_path, "0::/\n", **files)) == 4.0, "a container's own group is its root"
    assert (
        container_cores(*groups(tmp_path, "0::/other\n", pod__cpu_D_max="max 100000\n", cpu_D_max="max 100000\n"))
        == math.inf
    )


def test_container_cores__version_1(tmp_path: Path) -> None:
    files = {"cpu__cpu_D_cfs_quota_us": "150000\n", "cpu__cpu_D_cfs_period_us": "50000\n"}
    files |= {"cpu__docker__cpu_D_cfs_quota_us": "-1\n", "cpu__docker__cpu_D_cfs_period_us": "100000\n"}
    own = "5:cpu,cpuacct:/docker\n3:cpuset:/docker\n1:name=systemd:/docker\n"
    assert container_cores(*groups(tmp_path, own, **files)) == 3.0


def test_container_cores__none_without_control_groups(tmp_path: Path) -> None:
    assert container_cores(tmp_path / "cgroup", tmp_path / "own") == math.inf
    assert container_cores(*groups(tmp_path, "0::/pod\n")) == math.inf
