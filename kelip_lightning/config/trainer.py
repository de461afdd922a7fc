"""How and on what a stage is trained."""

from dataclasses import dataclass

from kelip_lightning.precision import PRECISIONS

ACCELERATORS: tuple[str, ...] = ("auto", "cpu", "gpu")


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Hardware, numbers, and how often a stage logs."""

    precision: str = "auto"
    """auto (bf16-mixed where the hardware calculates in bfloat16, else 32), 32, bf16-mixed or bf16-true."""
    accelerator: str = "auto"
    """auto (a GPU if there is one), cpu or gpu."""
    devices: int = 1
    """Processes per node, one per GPU."""
    num_nodes: int = 1
    """Machines that train together."""
    strategy: str = "auto"
    """How several processes share the work, in Lightning's words: auto, ddp, deepspeed_stage_2, ..."""
    accumulate: int = 1
    """Micro-batches per optimizer step; a contrastive pair sees the negatives of its own micro-batch only."""
    log_every_n_steps: int = 10
    """Optimizer steps between log entries."""
    num_threads: int | None = None
    """CPU threads of the training process; null: as many as torch chooses."""
    deterministic: bool = True
    """Whether only algorithms are used that give the same numbers twice."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision = {self.precision!r} must be one of {', '.join(PRECISIONS)}")
        if self.accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator = {self.accelerator!r} must be one of {', '.join(ACCELERATORS)}")

    @property
    def num_micro_batches(self) -> int:
        """Pieces that a global batch is cut into: devices x nodes x accumulation steps."""
        return self.devices * self.num_nodes * self.accumulate
