"""All ranks begin at one place, or none does."""

import lightning.pytorch as pl

from kelip_lightning.distributed.consensus import gather_objects
from kelip_lightning.errors import CheckpointError
from kelip_lightning.runs.stage_folder import StageFolder


class SameStartCallback(pl.Callback):
    """Compares the ranks' stages and checkpoints before any rank loads one.

    Each rank looks for the newest checkpoint itself, before the processes can talk; a shared file system may show some
    of them an older state of the run for a while.

    Args:
        stage: Where this rank would begin.
    """

    def __init__(self, stage: StageFolder) -> None:
        super().__init__()
        self._stage = stage

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """The first hook of a fit, called when the processes can talk.

        Raises:
            CheckpointError: On every rank, if one would begin elsewhere.
        """
        checkpoint = self._stage.checkpoint
        starts = gather_objects(trainer, f"{self._stage.name} after step {checkpoint.step if checkpoint else 0}")
        for rank, start in enumerate(starts):
            if start != starts[0]:
                raise CheckpointError(
                    f"rank 0 would go on with {starts[0]}, and rank {rank}, which does not see the same files, with "
                    f"{start}; start the same command again when {self._stage.path} looks the same from every node"
                )
