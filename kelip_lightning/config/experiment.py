"""The experiments: which sections make one. Each section class stands beside the thing that it configures."""

import re
from dataclasses import dataclass, field

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from data_modules.config_roles import REPORTING, counted_as
from data_modules.image import ImageDataConfig
from data_modules.image_text import ImageTextDataConfig
from data_modules.images.transforms.masked_image import MaskedImageConfig
from data_modules.images.transforms.multi_crop import MultiCropConfig
from data_modules.text.tokenizer import TokenizerConfig
from kelip_lightning.callbacks.checkpointing import CheckpointConfig
from kelip_lightning.callbacks.non_finite import NonFiniteConfig
from kelip_lightning.config.trainer import TrainerConfig
from kelip_lightning.losses.contrastive import ContrastiveLossConfig
from kelip_lightning.models.dual_encoder import DualEncoderConfig
from kelip_lightning.models.image_encoder import ImageEncoderConfig
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderConfig
from kelip_lightning.models.self_supervision import SelfSupervisionConfig
from kelip_lightning.models.text_encoder import TextEncoderConfig
from kelip_lightning.optim.optimizers import OptimizerConfig, ScheduleConfig


@dataclass(kw_only=True, slots=True)
class InitConfig:
    """Where weights come from before the first step."""

    image_encoder: str | None = None
    """Folder `image_encoder/` that MAE pre-training wrote; null: fresh weights."""
    lock_image_encoder: bool = False
    """Whether the image encoder keeps the weights it starts with (LiT, arXiv:2111.07991)."""
    lock_text_encoder: bool = False
    """Whether the text encoder keeps the weights it starts with."""


@dataclass(kw_only=True, slots=True)
class MaskedPretrainExperiment:
    """Stage 1, MAE pre-training of the image encoder: `kelip mae`."""

    name: str = field(metadata=REPORTING)
    """Name of the run: its folder is output_dir/name."""
    output_dir: str = field(default="runs", metadata=REPORTING)
    """Folder that holds the run folders."""
    seed: int = 0
    """Seed of everything random, >= 0."""
    data: ImageDataConfig
    """Images and batches."""
    transform: MaskedImageConfig = field(default_factory=MaskedImageConfig)
    """From an image to a crop."""
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    """The encoder that is handed over."""
    masked_autoencoder: MaskedAutoencoderConfig = field(default_factory=MaskedAutoencoderConfig)
    """Masking and decoder."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    schedule: ScheduleConfig
    """Length and learning-rate schedule."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Hardware and precision."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written, and which are kept."""
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    """What happens when a loss or gradient is not finite."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_seed(self.seed)


@dataclass(kw_only=True, slots=True)
class ContrastiveExperiment:
    """Stage 2, contrastive training on image–text pairs: `kelip contrastive`."""

    name: str = field(metadata=REPORTING)
    """Name of the run: its folder is output_dir/name."""
    output_dir: str = field(default="runs", metadata=REPORTING)
    """Folder that holds the run folders."""
    seed: int = 0
    """Seed of everything random, >= 0."""
    data: ImageTextDataConfig
    """Pairs, captions and batches."""
    transform: MultiCropConfig = field(default_factory=MultiCropConfig)
    """From an image to its crops."""
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    """The joint Korean and English tokenizer."""
    image_encoder: ImageEncoderConfig = field(default_factory=ImageEncoderConfig)
    """The image tower; architecture as in MAE pre-training."""
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    """The text tower."""
    dual_encoder: DualEncoderConfig = field(default_factory=DualEncoderConfig)
    """The joint space and its temperature."""
    loss: ContrastiveLossConfig = field(default_factory=ContrastiveLossConfig)
    """How crops and captions make the loss."""
    self_supervision: SelfSupervisionConfig = field(
        default_factory=SelfSupervisionConfig, metadata=counted_as(lambda section: section if section.is_on else None)
    )
    """A loss between two views of an image beside it; with method none, the default, no other key of it counts."""
    init: InitConfig = field(default_factory=InitConfig)
    """Weights to start from."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """Optimizer and learning rate."""
    schedule: ScheduleConfig
    """Length and learning-rate schedule."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """Hardware and precision."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """When checkpoints are written, and which are kept."""
    non_finite: NonFiniteConfig = field(default_factory=NonFiniteConfig)
    """What happens when a loss or gradient is not finite."""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig, metadata=REPORTING)
    """Evaluation sets, and how often they are used."""

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_seed(self.seed)


@dataclass(kw_only=True, slots=True)
class PretrainExperiment:
    """Both stages in one run, with the hand-over between them: `kelip pretrain`.

    Overrides whose first key is none of these fields go to every stage that has the key.
    """

    name: str = field(metadata=REPORTING)
    """Name of the run, for both stages."""
    output_dir: str = field(default="runs", metadata=REPORTING)
    """Folder that holds the run folders, for both stages."""
    mae: MaskedPretrainExperiment | None = None
    """MAE pre-training; null: contrastive training from fresh weights."""
    contrastive: ContrastiveExperiment
    """Contrastive training; starts from the MAE stage's encoder."""

    def __post_init__(self) -> None:
        _check_name(self.name)


@dataclass(kw_only=True, slots=True)
class EvaluationExperiment:
    """Evaluation sets alone, for a model that is already trained: `kelip evaluate RUN FILE`."""

    evaluation: EvaluationConfig
    """Evaluation sets."""


Experiment = MaskedPretrainExperiment | ContrastiveExperiment | PretrainExperiment | EvaluationExperiment

SCHEMAS = (PretrainExperiment, ContrastiveExperiment, MaskedPretrainExperiment, EvaluationExperiment)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ValueError(
            f"name = {name!r} becomes a folder: use letters, digits and - _ . + =, without spaces or slashes"
        )


def _check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed = {seed} must be at least 0 and below 2**32")
