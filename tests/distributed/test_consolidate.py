"""Runs of two processes under ZeRO: their checkpoints become one folder, equal to what the run itself exported."""

import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from kelip_lightning.cli import main
from kelip_lightning.models.dual_encoder_file import load_dual_encoder
from kelip_lightning.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
EXPERIMENT = str(ROOT / "experiments" / "emoji" / "contrastive.yaml")
STEPS = 3
SMALL = [
    "data.global_batch_size=16",
    "data.num_workers=0",
    "image_encoder.width=16",
    "image_encoder.num_heads=2",
    "image_encoder.depth=1",
    "text_encoder.width=16",
    "text_encoder.num_heads=2",
    "text_encoder.depth=1",
    "tokenizer.vocab_size=300",
    f"schedule.max_steps={STEPS}",
    "schedule.warmup_steps=1",
    "evaluation.every_n_steps=2",
    "evaluation.captions=null",
    "evaluation.classification=null",
    *(f"evaluation.retrieval.{name}=null" for name in ("unseen_design", "unseen_combinations", "flags")),
    "evaluation.retrieval.unseen_concepts.gallery={split: [unseen_concepts]}",
    "optimizer.name=adamw",
    "trainer.precision=32",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.accumulate=2",
    f"trainer.checkpoint_every_n_steps={STEPS}",
]

pytest.importorskip("deepspeed", reason="needs the extra deepspeed")


def _work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    for stage in (1, 2, 3):
        overrides = [f"output_dir={folder}", f"name=zero-{stage}", f"trainer.strategy=deepspeed_stage_{stage}"]
        if main(["contrastive", EXPERIMENT, *SMALL, *overrides]):
            os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # DeepSpeed's threads now and then abort an interpreter that shuts down


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_work, (port, str(folder)), nprocs=2)
    return folder


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_consolidate__equals_the_export_of_the_run(runs: Path, tmp_path: Path, stage: int) -> None:
    run = RunFolder(runs / f"zero-{stage}")
    assert main(["consolidate", str(run.path), "--output", str(tmp_path / "weights")]) == 0
    found, exported = load_dual_encoder(tmp_path / "weights"), load_dual_encoder(run.dual_encoder)
    assert found.model.state_dict().keys() == exported.model.state_dict().keys()
    for name, value in exported.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, msg=f"{name} differs")
    assert found.tokenizer.to_json() == exported.tokenizer.to_json()


@pytest.mark.slow
@pytest.mark.distributed
def test_stages__train_the_same_model(runs: Path) -> None:
    """Which parts of the state the ranks share out changes no number but by rounding."""
    folders = [RunFolder(runs / f"zero-{stage}").dual_encoder for stage in (1, 2, 3)]
    states = [load_dual_encoder(folder).model.state_dict() for folder in folders]
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=f"{name} differs")
