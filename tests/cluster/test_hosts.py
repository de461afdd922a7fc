"""torchrun across two hosts, with docs/cluster.md's own command: training, a host that disappears, two folders."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import yaml

from kelip_lightning.distributed.torchrun import ending_seconds
from tests.cluster.hosts import ADDRESSES, Hosts, missing, two_hosts
from tests.cluster.slow_link import SlowLink, missing_tun
from tests.faults.experiment import write_experiment
from tests.faults.processes import end_tree, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.skipif(missing() is not None, reason=str(missing()))]

SECONDS = 180
STEPS = 30
TIMEOUT_MINUTES = 0.3
SLACK_SECONDS = 25
"""For an interpreter on a busy machine."""


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with two_hosts(tmp_path_factory.mktemp("hosts")) as both:
        yield both


def write_run(folder: Path, steps: int = STEPS) -> Path:
    """Contrastive training of a few steps."""
    whole = yaml.safe_load(write_experiment(folder).read_text(encoding="utf-8"))
    content = whole["contrastive"] | {"name": "tiny", "output_dir": str(folder / "runs")}
    content["schedule"]["max_steps"] = steps
    content["evaluation"]["every_n_steps"] = steps
    content["data"]["num_workers"] = 1
    (folder / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "run.yaml"


def arguments(file: Path, nodes: int, *words: str) -> list[str]:
    size = [f"trainer.num_nodes={nodes}", f"trainer.devices={2 // nodes}"]
    return ["contrastive", str(file), *size, "trainer.strategy=ddp", *words]


def weights(folder: Path, name: str) -> bytes:
    return (folder / "runs" / name / "contrastive" / "dual_encoder" / "model.safetensors").read_bytes()


def exit_codes(running: "Sequence[subprocess.Popen[str]]") -> list[int]:
    """Of commands that end by themselves; nothing of them is left, whatever happens."""
    try:
        return [one.wait(SECONDS) for one in running]
    finally:
        for one in running:
            end_tree(one)


def logs(folder: Path) -> str:
    return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')}" for file in sorted(folder.glob("*.log")))


@pytest.mark.parametrize("by_address", [False, True])
def test_two_hosts__train_what_one_trains(hosts: Hosts, tmp_path: Path, by_address: bool) -> None:
    file = write_run(tmp_path)
    endpoint = f"{ADDRESSES['host1'] if by_address else 'host1'}:29500"
    running = [
        hosts.torchrun(host, *arguments(file, 2, "name=both"), endpoint=endpoint, cwd=tmp_path) for host in ADDRESSES
    ]
    codes = exit_codes(running)
    assert codes == [0, 0], logs(tmp_path)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2", "--standalone"]
    alone = hosts.start("host1", *launcher, "-m", "kelip_lightning", *arguments(file, 1, "name=one"), cwd=tmp_path)
    assert alone.wait(SECONDS) == 0, logs(tmp_path)
    assert weights(tmp_path, "both") == weights(tmp_path, "one")


@pytest.mark.parametrize("by_address", [False, True])
def test_names_that_are_loopback__gloo_is_given_the_interface(tmp_path: Path, by_address: bool) -> None:
    """As Debian writes /etc/hosts. An address as endpoint needs an option, since torchrun compares names."""
    file = write_run(tmp_path, steps=6)
    endpoint = f"{ADDRESSES['host1'] if by_address else 'host1'}:29500"
    with two_hosts(tmp_path, own_names_are_loopback=True) as hosts:
        running = [
            hosts.torchrun(
                host, *arguments(file, 2), endpoint=endpoint,
                options=[f"--rdzv-conf=is_host={str(host == 'host1').lower()}"] * by_address, cwd=tmp_path,
            )
            for host in ADDRESSES
        ]  # fmt: skip
        codes = exit_codes(running)
    assert codes == [0, 0], logs(tmp_path)
    assert "GLOO_SOCKET_IFNAME = cable" in logs(tmp_path)


@pytest.mark.skipif(missing_tun() is not None, reason=str(missing_tun()))
def test_latency_and_loss__change_no_weight(tmp_path: Path) -> None:
    found = []
    for name, link in (("cable", None), ("slow", SlowLink(delay=0.02, loss=0.01))):
        (folder := tmp_path / name).mkdir()
        file = write_run(folder, steps=10)
        with two_hosts(folder, link=link) as hosts:
            running = [hosts.torchrun(host, *arguments(file, 2), cwd=folder) for host in ADDRESSES]
            codes = exit_codes(running)
        assert codes == [0, 0], logs(folder)
        found.append(weights(folder, "tiny"))
        if link is not None:
            assert link.lost > 0, f"none of {link.sent} packets was lost"
    assert found[0] == found[1]


def test_a_cable_that_is_pulled__ends_both_hosts_in_the_stated_time(hosts: Hosts, tmp_path: Path) -> None:
    file = write_run(tmp_path, steps=100_000)
    words = arguments(file, 2, f"trainer.timeout_minutes={TIMEOUT_MINUTES}", "checkpoint.every_n_steps=20")
    running = [hosts.torchrun(host, *words, cwd=tmp_path) for host in ADDRESSES]
    checkpoints = tmp_path / "runs" / "tiny" / "contrastive" / "checkpoints"
    try:
        wait_until(lambda: any(checkpoints.glob("step=*")) or any(one.poll() is not None for one in running), "a step")
        hosts.cut("host2")
        begun = time.monotonic()
        sentence = "stops, because another process of the run died"
        wait_until(lambda: logs(tmp_path).count(sentence) >= len(running), "the sentence of both", 60)
        stated = 60 * TIMEOUT_MINUTES + ending_seconds()  # docs/cluster.md
        for one in running:  # the other's torchrun would wait for a quarter of an hour
            assert one.wait(begun + stated + SLACK_SECONDS - time.monotonic()) != 0
    finally:
        for one in running:
            end_tree(one)
        hosts.connect("host2")
    assert any(checkpoints.glob("step=*"))


def test_two_folders__are_refused_with_a_sentence(hosts: Hosts, tmp_path: Path) -> None:
    folders = [tmp_path / host for host in ADDRESSES]
    running = []
    for host, folder in zip(ADDRESSES, folders, strict=True):
        folder.mkdir()
        running.append(hosts.torchrun(host, *arguments(write_run(folder), 2), cwd=folder))
    codes = exit_codes(running)
    assert 0 not in codes, logs(folders[0]) + logs(folders[1])
    said = logs(folders[0]) + logs(folders[1])
    assert "is not one folder on all hosts" in said, said
    assert "host1" in said
    assert "host2" in said
