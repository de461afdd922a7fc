"""The experiments and their sections. Each section class is defined in the module that it configures."""

import re
from dataclasses import dataclass, field

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from data_modules.config_roles import REPORTING, between, check_ranges, counted_as
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
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig


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


@dataclass(kw_only=True, slots=True)
class EvaluationExperiment:
    """Evaluation sets for a trained model: `kelip evaluate RUN FILE`."""

    evaluation: EvaluationConfig
    """Evaluation sets."""


Experiment = MaskedPretrainExperiment | ContrastiveExperiment | PretrainExperiment | EvaluationExperiment

SCHEMAS = (PretrainExperiment, ContrastiveExperiment, MaskedPretrainExperiment, EvaluationExperiment)


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.+=-]*", name):
        raise ValueError(f"name = {name!r} is a folder name: use letters, digits and - _ . + = only")
