"""Devices, precision and logging of a stage."""

from dataclasses import dataclass, field

from data_modules.config_roles import PERFORMANCE, REPORTING, above, at_least, between, check_ranges, counted_as
from kelip_lightning.distributed.precision import PRECISIONS
from kelip_lightning.distributed.strategies import STRATEGIES, is_deepspeed

ACCELERATORS: tuple[str, ...] = ("auto", "cpu", "gpu")


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Devices, precision and logging."""

    precision: str = "auto"
    """auto (bf16-mixed where the device supports bfloat16, else 32), 32, bf16-mixed or bf16-true.

    With both bf16 values DeepSpeed keeps the weights in bfloat16 with a float32 master copy; bf16-true without
    DeepSpeed has no master copy. The logit scale, whose logarithm is then bfloat16, has an error of up to 1.6 %.
    """
    accelerator: str = "auto"
    """auto (a GPU if there is one), cpu or gpu; decides `precision: auto`."""
    devices: int = field(default=1, metadata=PERFORMANCE | at_least(1))
    """Processes per node, one per GPU."""
    num_nodes: int = field(default=1, metadata=PERFORMANCE | at_least(1))
    """Number of nodes."""
    strategy: str = field(default="auto", metadata=counted_as(is_deepspeed))
    """auto (ddp if there are several processes), ddp, or deepspeed_stage_1, 2 or 3, which partition the optimizer
    state, also the gradients, or also the parameters (needs the extra `deepspeed`). Only DeepSpeed or not is identity,
    since it differs in bfloat16 arithmetic."""
    timeout_minutes: float = field(default=30.0, metadata=PERFORMANCE | above(0))
    """Minutes that a process waits for the others before it stops the run; more than one evaluation or checkpoint of
    rank zero takes."""
    accumulate: int = field(default=1, metadata=PERFORMANCE | at_least(1))
    """Number of chunks of a device's batch, to save memory at the cost of one more forward pass; loss and gradient
    are those of the whole batch."""
    gradient_checkpointing: bool = field(default=False, metadata=PERFORMANCE)
    """Whether activations of transformer blocks are recomputed in the backward pass to save memory."""
    compile: bool = field(default=False, metadata=PERFORMANCE)
    """Whether `torch.compile` compiles the encoders: minutes at the start, faster steps."""
    ema_decay: float | None = field(default=None, metadata=between(0, 1, "neither"))
    """Decay per step of an exponential moving average of the weights, which is exported; null: no average."""
    log_every_n_steps: int = field(default=10, metadata=REPORTING | at_least(1))
    """Optimizer steps between log entries."""
    num_threads: int | None = field(default=None, metadata=PERFORMANCE | at_least(1))
    """CPU threads of the training process; null: torch's default."""
    deterministic: bool = field(default=True, metadata=PERFORMANCE)
    """Whether to use deterministic algorithms."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision = {self.precision!r} must be one of {', '.join(PRECISIONS)}")
        if self.accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator = {self.accelerator!r} must be one of {', '.join(ACCELERATORS)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy = {self.strategy!r} must be one of {', '.join(STRATEGIES)}")

    @property
    def num_processes(self) -> int:
        """World size: devices x nodes."""
        return self.devices * self.num_nodes

    @property
    def num_chunks(self) -> int:
        """Chunks of a global batch: devices x nodes x chunks per device."""
        return self.num_processes * self.accumulate
