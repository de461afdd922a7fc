"""The experiments and their sections. The section classes of a package are in its `config.py`."""

import re
from dataclasses import dataclass, field

from data_modules.benchmarks.config import EvaluationConfig
from data_modules.config import ImageDataConfig, ImageTextDataConfig
from data_modules.config_roles import PERFORMANCE, REPORTING, above, at_least, between, check_ranges, counted_as
from data_modules.images.config import MaskedImageConfig, MultiCropConfig
from data_modules.text.config import TokenizerConfig
from kelip_lightning.callbacks.config import CheckpointConfig, NonFiniteConfig
from kelip_lightning.config.evaluation import EvaluationExperiment
from kelip_lightning.distributed.accelerators import AUTO, PRECISIONS, STRATEGIES, is_deepspeed
from kelip_lightning.losses.config import ContrastiveLossConfig
from kelip_lightning.models.config import (
    DualEncoderConfig,
    ImageEncoderConfig,
    MaskedAutoencoderConfig,
    SelfSupervisionConfig,
    TextEncoderConfig,
)
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig

ACCELERATORS: tuple[str, ...] = ("auto", "cpu", "gpu")
LOGGERS: tuple[str, ...] = ("csv", "wandb", "mlflow")
"""Loggers that a run may have beside TensorBoard."""


@dataclass(kw_only=True, slots=True)
class InitConfig:
    """Initial weights."""

    image_encoder: str | None = None
    """Folder `image_encoder/` exported by MAE pre-training; null: random initialisation."""
    lock_image_encoder: bool = False
    """Whether the image encoder is frozen (LiT, arXiv:2111.07991)."""
    lock_text_encoder: bool = False
    """Whether the text encoder is frozen."""


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
    devices: int | str = field(default=1, metadata=PERFORMANCE | at_least(1, word=AUTO))
    """Processes per node, one per GPU. auto: those that a launcher has started; else the most with equal shares of the
    batch, at most one per GPU of this machine, or, without a GPU, one per CPU core and 32 samples of a forward pass:
    several processes train faster than as many threads of one. OMP_NUM_THREADS limits the cores of the whole run."""
    num_nodes: int = field(default=1, metadata=PERFORMANCE | at_least(1))
    """Number of nodes."""
    strategy: str = field(default="auto", metadata=counted_as(is_deepspeed))
    """auto (ddp if there are several processes), ddp, or deepspeed_stage_1, 2 or 3, which partition the optimizer
    state, also the gradients, or also the parameters (needs the extra `deepspeed`). Only DeepSpeed or not is identity,
    since it differs in bfloat16 arithmetic."""
    timeout_minutes: float = field(default=30.0, metadata=PERFORMANCE | above(0))
    """Minutes that a process waits for the others before it stops the run; more than rank zero needs for a
    checkpoint."""
    accumulate: int = field(default=1, metadata=PERFORMANCE | at_least(1))
    """Number of chunks of a device's batch, to save memory at the cost of one more forward pass; loss and gradient
    are those of the whole batch."""
    gradient_checkpointing: bool = field(default=False, metadata=PERFORMANCE)
    """Whether activations of transformer blocks are recomputed in the backward pass to save memory."""
    compile: bool = field(default=False, metadata=PERFORMANCE)
    """Whether `torch.compile` compiles the encoders: for GPUs. On a CPU the start takes seconds to minutes longer, and
    steps are no faster (docs/performance.md)."""
    ema_decay: float | None = field(default=None, metadata=between(0, 1, "neither"))
    """Decay per step of an exponential moving average of the weights, which is exported; null: no average."""
    log_every_n_steps: int = field(default=10, metadata=REPORTING | at_least(1))
    """Optimizer steps between log entries."""
    progress_every_minutes: float = field(default=1.0, metadata=REPORTING | above(0))
    """Longest time between two progress lines, on stdout unless it is a terminal, and in the run's log.txt."""
    loggers: list[str] = field(default_factory=list, metadata=REPORTING)
    """Loggers beside TensorBoard and metrics.jsonl, which are always written: any of csv, wandb and mlflow (for the
    last two, install the extra of that name). docs/monitoring.md says where they write."""
    num_threads: int | None = field(default=None, metadata=PERFORMANCE | at_least(1))
    """CPU threads of a training process; null: torch's default, and of several processes that this command starts on a
    CPU an equal share of its cores. With one thread each they start at once, as forks of the first process."""
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
        for name in self.loggers:
            if name not in LOGGERS or self.loggers.count(name) > 1:
                raise ValueError(
                    f"loggers = [{', '.join(map(str, self.loggers))}] must hold each of {', '.join(LOGGERS)} at most "
                    "once; TensorBoard is always written, without being named"
                )

    @property
    def num_processes(self) -> int:
        """World size: devices x nodes."""
        return self.num_devices * self.num_nodes

    @property
    def num_devices(self) -> int:
        """Processes per node; 1 for auto, which `with_devices` replaces before anything is trained."""
        return self.devices if isinstance(self.devices, int) else 1

    @property
    def num_chunks(self) -> int:
        """Chunks of a global batch: devices x nodes x chunks per device."""
        return self.num_processes * self.accumulate


@dataclass(kw_only=True, slots=True)
class MaskedPretrainExperiment:
    """Stage 1, MAE pre-training of the image encoder: `kelip mae`."""

    name: str = field(metadata=REPORTING)
    """Name of the run; its folder is output_dir/name."""
    output_dir: str = field(default="runs", metadata=REPORTING)
    """Parent of the run folders."""
    seed: int = field(default=0, metadata=between(0, 2**32 - 1))
    """Random seed."""
    data: ImageDataConfig
    """Images and batches."""
    transform: MaskedImageConfig = field(default_factory=MaskedImageConfig)
    """Crop and augmentation."""
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    """The image encoder, which is exported."""
    masked_autoencoder: MaskedAutoencoderConfig = field(default_factory=MaskedAutoencoderConfig)
    """Masking and decoder."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    schedule: ScheduleConfig
    """Number of steps and learning-rate schedule."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Devices, precision, logging."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and which are kept."""
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    """What to do about a loss or gradient that is not finite."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_name(self.name)


@dataclass(kw_only=True, slots=True)
class ContrastiveExperiment:
    """Stage 2, contrastive training on image–text pairs: `kelip contrastive`."""

    name: str = field(metadata=REPORTING)
    """Name of the run; its folder is output_dir/name."""
    output_dir: str = field(default="runs", metadata=REPORTING)
    """Parent of the run folders."""
    seed: int = field(default=0, metadata=between(0, 2**32 - 1))
    """Random seed."""
    data: ImageTextDataConfig
    """Pairs, captions and batches."""
    transform: MultiCropConfig = field(default_factory=MultiCropConfig)
    """Crops and augmentation."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The joint Korean and English tokenizer."""
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    """The image encoder; the same architecture as in MAE pre-training."""
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    """The text encoder."""
    dual_encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    """Projections to the joint embedding space, and temperature."""
    loss: ContrastiveLossConfig = field(default_factory=ContrastiveLossConfig)
    """The contrastive loss over crops and captions."""
    self_supervision: SelfSupervisionConfig = field(
        default_factory=SelfSupervisionConfig, metadata=counted_as(lambda section: section if section.is_on else None)
    )
    """An additional loss between two views of an image; with method none, its other keys have no effect."""
    init: InitConfig = field(default_factory=InitConfig)
    """Initial weights."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    schedule: ScheduleConfig
    """Number of steps and learning-rate schedule."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Devices, precision, logging."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written and which are kept."""
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    """What to do about a loss or gradient that is not finite."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig, metadata=REPORTING)
    """Evaluation sets and interval."""

    def __post_init__(self) -> None:
        check_ranges(self)
        _check_name(self.name)


@dataclass(kw_only=True, slots=True)
class PretrainExperiment:
    """Both stages in one run; the second starts from the exported image encoder: `kelip pretrain`.

    An override of a key that is not a field of this class applies to every stage that has the key.
    """

    name: str = field(metadata=REPORTING)
    """Name of the run, for both stages."""
    output_dir: str = field(default="runs", metadata=REPORTING)
    """Parent of the run folders, for both stages."""
    mae: MaskedPretrainExperiment | None = None
    """MAE pre-training; null: contrastive training from random weights."""
    contrastive: ContrastiveExperiment
    """Contrastive training; starts from the image encoder of the MAE stage."""

    def __post_init__(self) -> None:
        _check_name(self.name)


Experiment = MaskedPretrainExperiment | ContrastiveExperiment | PretrainExperiment | EvaluationExperiment

SCHEMAS = (PretrainExperiment, ContrastiveExperiment, MaskedPretrainExperiment, EvaluationExperiment)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ValueError(f"name = {name!r} is a folder name: use letters, digits and - _ . + = only")
