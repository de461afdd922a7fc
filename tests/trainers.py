"""A Trainer for tests."""

from typing import Any

import lightning.pytorch as pl


def quiet_trainer(max_steps: int, world: int = 1, **options: Any) -> pl.Trainer:
    """A Trainer on the CPU without logger, checkpoints and console output, unless an option says otherwise."""
    defaults = {
        "accelerator": "cpu",
        "devices": world,
        "max_steps": max_steps,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }
    return pl.Trainer(**defaults | options)
