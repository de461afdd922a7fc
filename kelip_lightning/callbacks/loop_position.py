"""Where a resumed run stands in Lightning's loops."""

from typing import Any

import lightning.pytorch as pl


class LoopPositionCallback(pl.Callback):
    """Tells Lightning's loops the step at which a resumed run goes on.

    Lightning counts batches, and what it has counted depends on the hook in which a checkpoint was written. Our
    position is the number of optimizer steps alone, each of which takes one batch, so the counters are computed from
    it: every batch of the steps done is complete, and no other has begun.
    """

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Set the counters before the loops take them over."""
        step = int(checkpoint["global_step"])
        counts = dict.fromkeys(("ready", "started", "processed", "completed"), step)
        loop = checkpoint["loops"]["fit_loop"]
        loop["epoch_loop.batch_progress"] = {"total": counts, "current": dict(counts), "is_last_batch": False}
        loop["epoch_loop.state_dict"]["_batches_that_stepped"] = step
