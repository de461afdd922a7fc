"""The part of a LightningDataModule that both stages share: where training stands, and the ranks' shares."""

from typing import Any

import lightning.pytorch as pl

from data_modules.order.sampling import Order, RankBatchSampler


class StageDataModule(pl.LightningDataModule):
    """A data module whose whole state is one integer: the number of optimizer steps trained on."""

    def __init__(self, *, seed: int, max_steps: int) -> None:
        super().__init__()
        self.seed = seed
        self.max_steps = max_steps
        self.start_step = 0

    def build_sampler(self, order: Order) -> RankBatchSampler:
        """This rank's share of every remaining global batch."""
        trainer = self.trainer
        return RankBatchSampler(
            order,
            start_step=self.start_step,
            max_steps=self.max_steps,
            rank=trainer.global_rank if trainer else 0,
            world_size=trainer.world_size if trainer else 1,
        )

    def __getstate__(self) -> dict[str, Any]:
        """For loader processes: less what they do not ask for, the order with its tables above all."""
        left_out = {"order", "dataset"}
        return {name: value for name, value in self.__dict__.items() if name not in left_out} | {"trainer": None}

    def state_dict(self) -> dict[str, Any]:
        """The next step: counted from the steps trained on, not from the batches fetched."""
        return {"next_step": self.trainer.global_step if self.trainer else self.start_step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the saved step."""
        self.start_step = int(state_dict["next_step"])
