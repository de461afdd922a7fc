"""Short runs of two processes under each stage of ZeRO, through the command line.

Not in the test's own file: processes that are spawned import this one by its name.
"""

import os
import socket
import sys
from pathlib import Path

import torch
from torch import multiprocessing

from kelip_lightning.cli import main

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
    "evaluation.captions.captions=null",
    "evaluation.classification.subgroups=null",
    *(f"evaluation.retrieval.{name}=null" for name in ("unseen_design", "unseen_combinations", "flags")),
    "evaluation.retrieval.unseen_concepts.gallery={split: [unseen_concepts]}",
    "optimizer.name=adamw",
    "trainer.precision=32",
    "trainer.accelerator=cpu",
    "trainer.devices=2",
    "trainer.accumulate=2",
    f"trainer.checkpoint_every_n_steps={STEPS}",
]


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


def train_each_stage(folder: Path) -> None:
    """Write folder/zero-1, zero-2 and zero-3."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_work, (port, str(folder)), nprocs=2)
