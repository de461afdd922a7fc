"""How and on what a stage is trained."""

from dataclasses import dataclass, field

from data_modules.config_roles import PERFORMANCE, REPORTING, counted_as
from kelip_lightning.distributed.accelerators import PRECISIONS, STRATEGIES, is_deepspeed

ACCELERATORS: tuple[str, ...] = ("auto", "cpu", "gpu")


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Hardware, numbers, and how often a stage logs."""

    precision: str = "auto"
    """auto (bf16-mixed where the hardware calculates in bfloat16, else 32), 32, bf16-mixed or bf16-true.

    DeepSpeed keeps the weights in bfloat16 under both of the latter, with a float32 copy that it updates; bf16-true
    without DeepSpeed has no such copy. The exponential of logit_scale, computed in float32, then has the up to 1.6 %
    of error that come from a bfloat16 exponent.
    """
    accelerator: str = "auto"
    """auto (a GPU if there is one), cpu or gpu; it decides what `precision: auto` is."""
    devices: int = field(default=1, metadata=PERFORMANCE)
    """Processes per node, one per GPU."""
    num_nodes: int = field(default=1, metadata=PERFORMANCE)
    """Machines that train together."""
    strategy: str = field(default="auto", metadata=counted_as(is_deepspeed))
    """How several processes share the work: auto (ddp if there are several), ddp, or deepspeed_stage_1, 2 or 3, which
    share out the optimizer's state, the gradients too, or the parameters too (needs the extra `deepspeed`). Whether it
    is DeepSpeed, which calculates otherwise in bfloat16, is identity; which of the others, or which stage, is not."""
    timeout_minutes: float = field(default=30.0, metadata=PERFORMANCE)
    """Minutes that a process waits for the others before it ends the run; one evaluation and one checkpoint of rank
    zero, for which the others wait, must take less."""
    accumulate: int = field(default=1, metadata=PERFORMANCE)
    """Chunks in which a device takes its share of the global batch, for less memory at one more forward pass; the
    loss and its gradient are those of the whole batch, whatever the number."""
    gradient_checkpointing: bool = field(default=False, metadata=PERFORMANCE)
    """Whether transformer blocks are computed again in the backward pass instead of keeping their activations."""
    compile: bool = field(default=False, metadata=PERFORMANCE)
    """Whether torch compiles the towers: minutes at the start, less time a step."""
    ema_decay: float | None = None
    """Decay per step of an exponential moving average of the weights, which is what a stage hands on; null: none."""
    log_every_n_steps: int = field(default=10, metadata=REPORTING)
    """Optimizer steps between log entries."""
    num_threads: int | None = field(default=None, metadata=PERFORMANCE)
    """CPU threads of the training process; null: as many as torch chooses."""
    deterministic: bool = field(default=True, metadata=PERFORMANCE)
    """Whether only algorithms are used that give the same numbers twice."""

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision = {self.precision!r} must be one of {', '.join(PRECISIONS)}")
        if self.accelerator not in ACCELERATORS:
            raise ValueError(f"accelerator = {self.accelerator!r} must be one of {', '.join(ACCELERATORS)}")
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy = {self.strategy!r} must be one of {', '.join(STRATEGIES)}")
        if self.timeout_minutes <= 0:
            raise ValueError(f"timeout_minutes = {self.timeout_minutes} must be above 0; torch's own is 30")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"ema_decay = {self.ema_decay} must lie strictly between 0 and 1; null: no average")

    @property
    def num_processes(self) -> int:
        """All that train together: devices x nodes."""
        return self.devices * self.num_nodes

    @property
    def num_chunks(self) -> int:
        """Pieces that a global batch is cut into: devices x nodes x chunks."""
        return self.num_processes * self.accumulate
