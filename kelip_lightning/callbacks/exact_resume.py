"""Exact resuming: all ranks load one checkpoint, the loops continue at its step, and random streams are restored."""

import random
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from kelip_lightning.distributed.consensus import gather_objects
from kelip_lightning.errors import CheckpointError
from kelip_lightning.runs.folder import StageFolder

RandomState = dict[str, Any]
"""Plain values and tensors only, so that it can be loaded with `weights_only=True`."""


class ExactResumeCallback(pl.Callback):
    """Makes a resumed run continue with the batches and random numbers of one that was never interrupted.

    Random streams are restored before the first step, since building models and loaders consumes random numbers too.
    With another number of ranks, each rank is seeded from (seed, step, rank) instead.

    Args:
        stage: The folder, with the checkpoint from which this rank would start.
        seed: The stage's seed.
    """

    def __init__(self, stage: StageFolder, seed: int) -> None:
        super().__init__()
        self._stage, self._seed = stage, seed
        self._saved: list[RandomState] | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Compare the checkpoints of all ranks, the first hook in which ranks can communicate.

        Each rank has looked for the newest checkpoint itself, and a shared file system may be out of date on some.

        Raises:
            CheckpointError: On every rank, if one would start elsewhere.
        """
        checkpoint = self._stage.checkpoint
        starts = gather_objects(trainer, f"{self._stage.name} after step {checkpoint.step if checkpoint else 0}")
        for rank, start in enumerate(starts):
            if start != starts[0]:
                raise CheckpointError(
                    f"rank 0 would resume {starts[0]}, and rank {rank}, which does not see the same files, "
                    f"{start}; run the same command again when {self._stage.path} looks the same from every node"
                )

    def on_save_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Put every rank's random streams into the checkpoint."""
        checkpoint["random_states"] = gather_objects(trainer, capture_random_state(trainer.strategy.root_device))

    def on_load_checkpoint(self, trainer: pl.Trainer, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the random streams until the first step, and set the counters of Lightning's loops.

        Lightning counts batches, and its counts depend on the hook in which a checkpoint was written. Each of our
        optimizer steps takes one batch, so the counters follow from the number of steps.
        """
        self._saved = checkpoint["random_states"]
        step = int(checkpoint["global_step"])
        counts = dict.fromkeys(("ready", "started", "processed", "completed"), step)
        loop = checkpoint["loops"]["fit_loop"]
        loop["epoch_loop.batch_progress"] = {"total": counts, "current": dict(counts), "is_last_batch": False}
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Restore this rank's random streams before a resumed run's first step."""
        if self._saved is None:
            return
        if len(self._saved) == trainer.world_size:
            restore_random_state(self._saved[trainer.global_rank], trainer.strategy.root_device)
        else:
            seed_random_state(self._seed, trainer.global_step, trainer.global_rank)
        self._saved = None


def capture_random_state(device: torch.device) -> RandomState:
    """The state of the global generators of Python, NumPy, torch and the CUDA device."""
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
    """Seed the global generators from non-negative integers alone."""
    seeds = np.random.SeedSequence(list(words)).generate_state(3)
    random.seed(int(seeds[0]))
    np.random.seed(int(seeds[1]))
    torch.manual_seed(int(seeds[2]))  # the CUDA devices' too
