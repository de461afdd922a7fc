"""Two processes of torchrun, srun and DeepSpeed's launcher train the same weights as one process."""

import base64
import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.paths import ROOT

SECONDS = 240
KELIP = [sys.executable, "-m", "kelip_lightning"]
MAE_PRETRAINING = [
    "mae",
    "experiments/emoji/mae.yaml",
    "image_encoder.width=32",
    "image_encoder.depth=1",
    "image_encoder.num_heads=2",
    "masked_autoencoder.decoder_width=24",
    "masked_autoencoder.decoder_depth=1",
    "data.global_batch_size=8",
    "data.num_workers=0",
    "optimizer.name=adamw",
    "schedule.max_steps=2",
    "schedule.warmup_steps=0",
    "trainer.precision=32",
    "trainer.accelerator=cpu",
]

pytestmark = [pytest.mark.slow, pytest.mark.distributed]


def run_all(commands: Sequence[tuple[list[str], dict[str, str]]]) -> None:
    """Run commands together, each with its environment; all must succeed."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    plain |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(words, cwd=ROOT, env=plain | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for words, own in commands
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=SECONDS)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()


def mae_command(folder: Path, num_processes: int) -> list[str]:
    return [*MAE_PRETRAINING, f"output_dir={folder}", f"trainer.devices={num_processes}"]


def exported_encoder(folder: Path) -> dict[str, Tensor]:
    (file,) = folder.glob("*/mae/image_encoder/model.safetensors")
    return load_file(file)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


@pytest.fixture(scope="module")
def by_one_process(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    folder = tmp_path_factory.mktemp("one")
    run_all([([*KELIP, *mae_command(folder, 1)], {})])
    return exported_encoder(folder)


def assert_same(folder: Path, expected: dict[str, Tensor]) -> None:
    """Two ranks that did not average their gradients would have trained on half a batch each."""
    torch.testing.assert_close(exported_encoder(folder), expected, rtol=1e-4, atol=1e-6)


def test_torchrun(runs_folder: Path, by_one_process: dict[str, Tensor]) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2"]
    launcher += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "-m", "kelip_lightning"]
    run_all([([*launcher, *mae_command(runs_folder, 2)], {})])
    assert_same(runs_folder, by_one_process)


def test_srun(runs_folder: Path, by_one_process: dict[str, Tensor]) -> None:
    """The variables that srun gives its tasks."""
    job = {
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NAME": "kelip",
        "SLURM_NTASKS": "2",
        "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NNODES": "1",
        "SLURM_NODEID": "0",
        "SLURM_NODELIST": "127.0.0.1",
        "MASTER_PORT": free_port(),
    }
    tasks = [job | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(2)]
    run_all([([*KELIP, *mae_command(runs_folder, 2)], task) for task in tasks])
    assert_same(runs_folder, by_one_process)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed, an optional package")
def test_deepspeed_s_launcher(runs_folder: Path, by_one_process: dict[str, Tensor]) -> None:
    """The commands of its pdsh runner for two nodes of one process each, both on this host."""
    world = base64.urlsafe_b64encode(json.dumps({"node0": [0], "node1": [0]}).encode()).decode()
    port, rank_script = free_port(), str(ROOT / "experiments" / "kelip_b32" / "slurm" / "deepspeed_rank.sh")
    nodes = [
        [
            *(sys.executable, "-m", "deepspeed.launcher.launch", f"--world_info={world}", f"--node_rank={rank}"),
            *("--master_addr=127.0.0.1", f"--master_port={port}", "--no_python", "--no_local_rank"),
            *(rank_script, *KELIP, *mae_command(runs_folder, 1), "trainer.num_nodes=2"),
        ]
        for rank in range(2)
    ]
    run_all([(node, {}) for node in nodes])
    assert_same(runs_folder, by_one_process)
