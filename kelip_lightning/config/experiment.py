"""The experiments and their sections. The section classes of a package are in its `config.py`."""

import re
from dataclasses import dataclass, field
from typing import Any

from data_modules.benchmarks.config import EvaluationConfig, ProbeConfig
from data_modules.config import ImageDataConfig, ImageTextDataConfig
from data_modules.config_roles import (
    PERFORMANCE,
    REPORTING,
    RUN_PATH,
    above,
    at_least,
    between,
    check_ranges,
    counted_as,
)
from data_modules.images.config import MaskedImageConfig, MultiCropConfig
from data_modules.text.config import TokenizerConfig
from kelip_lightning.callbacks.config import CheckpointConfig, NonFiniteConfig, ProjectorConfig
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
    """Initial weights, and which of them are trained."""

    image_encoder: str | None = field(default=None, metadata=RUN_PATH)
    """Folder `image_encoder/` exported by MAE pre-training, relative to the working directory; null: random
    initialisation."""
    model: str | None = field(default=None, metadata=counted_as(lambda name: name is not None))
    """A model to begin from, with its encoders, projections, temperature and tokenizer: a finished run, a folder that
    `kelip export` or `kelip consolidate` wrote, a folder or Hugging Face repository in the layout of the official
    KELIP, of open_clip or of `transformers.CLIPModel`, or ViT-B/32. The keys of `image_encoder`, `text_encoder`,
    `dual_encoder` and `tokenizer` that are left out are the model's (docs/interchange.md). A folder is relative to the
    working directory; its content counts, by model_sha256, not where it is."""
    model_sha256: str | None = None
    """SHA-256 of the model's weight file followed by its tokenizer.json; null: filled in when the experiment is loaded.
    A given one is checked."""
    lock_image_encoder: bool = False
    """Whether the image encoder is frozen (LiT, arXiv:2111.07991); its projection is trained."""
    lock_text_encoder: bool = False
    """Whether the text encoder is frozen; its projection is trained."""
    unlock_image_blocks: int = field(default=0, metadata=at_least(0))
    """Last blocks of a locked image encoder that are trained, and the norm after them; patch embedding, class token,
    positions and earlier blocks stay locked. As open_clip's --lock-image-unlocked-groups with one more, since there the
    first group is the projection."""
    unlock_text_blocks: int = field(default=0, metadata=at_least(0))
    """Last blocks of a locked text encoder that are trained, and the norm after them; token embedding, positions and
    earlier blocks stay locked. As open_clip's --lock-text-unlocked-layers with one more."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.model is None and self.model_sha256 is not None:
            raise ValueError("model_sha256 needs model, whose content it states; give both or neither")
        if self.model is not None and self.image_encoder is not None:
            raise ValueError(
                f"model = {self.model} has an image encoder of its own, so image_encoder = {self.image_encoder} would "
                "have no effect; remove one of the two"
            )
        for tower in ("image", "text"):
            number = getattr(self, f"unlock_{tower}_blocks")
            if number and not getattr(self, f"lock_{tower}_encoder"):
                raise ValueError(
                    f"unlock_{tower}_blocks = {number} has no effect on an encoder that is not locked; set "
                    f"lock_{tower}_encoder=true, or unlock_{tower}_blocks=0"
                )

    @property
    def locks(self) -> dict[str, Any]:
        """Arguments of `models.locking.lock_encoders`."""
        names = ("lock_image_encoder", "lock_text_encoder", "unlock_image_blocks", "unlock_text_blocks")
        return {name: getattr(self, name) for name in names}


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
    probe: ProbeConfig = field(default_factory=ProbeConfig, metadata=REPORTING)
    """Labelled images on which k-NN and a linear probe judge the image encoder, and interval."""

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
    projector: ProjectorConfig = field(default_factory=ProjectorConfig, metadata=REPORTING)
    """Embeddings of the last evaluation for TensorBoard's projector."""

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
USES: dict[type[object], str] = {
    PretrainExperiment: "has both stages, for `kelip pretrain`",
    ContrastiveExperiment: "is an experiment of contrastive training alone, for `kelip contrastive`",
    MaskedPretrainExperiment: "is an experiment of MAE pre-training alone, for `kelip mae`",
    EvaluationExperiment: "holds evaluation sets alone, for `kelip evaluate MODEL FILE`",
}
"""What a file of a schema is and what uses it, for messages."""
STAGE_SCHEMAS: dict[str, type[MaskedPretrainExperiment] | type[ContrastiveExperiment]] = {
    "mae": MaskedPretrainExperiment,
    "contrastive": ContrastiveExperiment,
}
"""Stage -> class of its settings, in training order."""


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ValueError(f"name = {name!r} is a folder name: use letters, digits and - _ . + = only")
