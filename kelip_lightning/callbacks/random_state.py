"""The random streams of Python, NumPy, torch and the CUDA device: kept in a checkpoint, put back on resuming."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from kelip_lightning.distributed.consensus import gather_objects

RandomState = dict[str, Any]
"""Plain values and tensors only, so that a checkpoint can be loaded without running code from it."""


def capture_random_state(device: torch.device) -> RandomState:
    """The state of every global stream of this process."""
    numpy = dict(np.random.get_state(legacy=False))
    words = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": numpy | {"state": {"key": words, "pos": numpy["state"]["pos"]}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random_state(state: RandomState, device: torch.device) -> None:
    """The inverse of `capture_random_state`."""
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    words = state["numpy"]["state"]
    np.random.set_state(state["numpy"] | {"state": {**words, "key": words["key"].numpy().astype(np.uint32)}})
    torch.set_rng_state(state["torch"].cpu())
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)


def seed_random_state(*words: int) -> None:
    """New streams that depend on nothing but some non-negative integers."""
    seeds = np.random.SeedSequence(list(words)).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    torch.manual_seed(int(seeds[2]))  # the CUDA devices' too


class RandomStateCallback(pl.Callback):
    """Carries the random streams of every rank through checkpoints.

    Streams are put back before the first step of the resumed run draws from them, since building models and loaders
    draws too. On another number of ranks the old streams have no owner: each rank gets a new one from
    (seed, step, rank).

    Args:
        seed: The stage's seed.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._saved: list[RandomState] | None = None

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put every rank's streams into the checkpoint."""
        checkpoint["random_states"] = gather_objects(trainer, capture_random_state(trainer.strategy.root_device))

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the streams until the first step."""
        self._saved = checkpoint["random_states"]

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Before a resumed run's first step, put this rank's streams back."""
        if self._saved is None:
            return
        if len(self._saved) == trainer.world_size:
            restore_random_state(self._saved[trainer.global_rank], trainer.strategy.root_device)
        else:
            seed_random_state(self._seed, trainer.global_step, trainer.global_rank)
        self._saved = None
