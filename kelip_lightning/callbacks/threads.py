"""The CPU threads of a training process."""

import lightning.pytorch as pl
import torch
from threadpoolctl import threadpool_limits


class ThreadsCallback(pl.Callback):
    """Sets the number of CPU threads, in the first hook: Lightning's launcher may have set a number of its own before.

    Args:
        number: Threads of this process.
    """

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Set the number, of torch and of the BLAS libraries that NumPy and SciPy have loaded."""
        torch.set_num_threads(self._number)
        threadpool_limits(self._number, user_api="blas")
