"""What a step benchmark measures: the model's sizes, and the experiment that trains it."""

from dataclasses import asdict, dataclass, field, replace
from enum import Enum
from typing import Any

from data_modules.config import ImageTextDataConfig
from data_modules.config_roles import at_least, check_ranges
from data_modules.images.config import MultiCropConfig
from data_modules.sources.config import SourceConfig
from data_modules.text.config import CaptionConfig, TokenizerConfig
from kelip_lightning.benchmarks.step.captions import Captions
from kelip_lightning.callbacks.config import CheckpointConfig
from kelip_lightning.config.experiment import ContrastiveExperiment, TrainerConfig
from kelip_lightning.distributed.accelerators import LightningPrecision
from kelip_lightning.interchange.formats.architecture import Architecture
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig

PAD_ID = 0
NEVER = 10**9
"""Steps between log entries: none is logged, so the steps are those between two entries."""


class ModelName(Enum):
    """vit_b32: CLIP ViT-B/32 with its vocabulary; emoji: as experiments/emoji; tiny: for tests."""

    vit_b32 = "vit_b32"
    emoji = "emoji"
    tiny = "tiny"


MODELS: dict[ModelName, Architecture] = {
    ModelName.vit_b32: Architecture(
        image=ImageEncoderConfig(image_size=224, patch_size=32, width=768, depth=12, num_heads=12),
        text=TextEncoderConfig(width=512, depth=12, num_heads=8),
        embed_dim=512,
        vocab_size=49_408,
        context_length=77,
        eot_id=49_407,
        pad_id=PAD_ID,
    ),
    ModelName.emoji: Architecture(
        image=ImageEncoderConfig(image_size=64, patch_size=16, width=192, depth=4, num_heads=3),
        text=TextEncoderConfig(width=192, depth=2, num_heads=3),
        embed_dim=128,
        vocab_size=4000,
        context_length=16,
        eot_id=3999,
        pad_id=PAD_ID,
    ),
    ModelName.tiny: Architecture(
        image=ImageEncoderConfig(image_size=32, patch_size=8, width=32, depth=2, num_heads=2),
        text=TextEncoderConfig(width=32, depth=2, num_heads=2),
        embed_dim=16,
        vocab_size=300,
        context_length=32,
        eot_id=299,
        pad_id=PAD_ID,
    ),
}
LOCAL_SIZE = {ModelName.vit_b32: 96, ModelName.emoji: 32, ModelName.tiny: 16}
"""Side of a local crop in pixels."""

EMOJI_SOURCE = SourceConfig(
    files=[f"package:emoji/{design}.parquet" for design in ("twemoji", "fluent", "fluent_flat", "emojione")],
    captions={"ko": "name_ko", "en": "name_en"},
    keywords={"ko": "keywords_ko", "en": "keywords_en"},
    where={"split": ["train"], "skin_tone": ["false"]},
)
"""The source `plain` of experiments/emoji."""
EMOJI_CAPTIONS = CaptionConfig(
    name=0.6,
    name_keywords=0.2,
    keywords=0.2,
    max_keywords=3,
    plain=0.8,
    templates_file="package:assets/emoji_captions.yaml",
)
"""The captions of experiments/emoji."""


@dataclass(kw_only=True, slots=True)
class StepSetting:
    """Model, batch and arithmetic of the steps, the same for every contestant."""

    model: ModelName = ModelName.vit_b32
    """Sizes of the towers."""
    depth_factor: int = field(default=1, metadata=at_least(1))
    """Factor on the number of blocks of both towers."""
    batch: int = field(default=64, metadata=at_least(2))
    """Pairs of a step."""
    captions: Captions = Captions.cc3m_like
    """Distribution of caption lengths."""
    global_crops: int = field(default=1, metadata=at_least(1))
    """Global crops per image; 2 or more only without open_clip, which has no multi-crop."""
    local_crops: int = field(default=0, metadata=at_least(0))
    """Local crops per image; 1 or more only without open_clip, which has no multi-crop."""
    precision: LightningPrecision = "32-true"
    """Arithmetic: 32-true or bf16-mixed."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int | None = field(default=None, metadata=at_least(1))
    """CPU threads of torch; null: torch's default."""
    compile: bool = False
    """Whether torch.compile compiles the networks of every contestant."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def is_multi_crop(self) -> bool:
        """Whether an image has more than one crop."""
        return self.global_crops + self.local_crops > 1


def plain_values(setting: StepSetting) -> dict[str, Any]:
    """Field -> value, of choices the name."""
    return {key: value.name if isinstance(value, Enum) else value for key, value in asdict(setting).items()}


def architecture_of(setting: StepSetting) -> Architecture:
    """The sizes of the model."""
    sizes, factor = MODELS[setting.model], setting.depth_factor
    return replace(
        sizes,
        image=replace(sizes.image, depth=factor * sizes.image.depth),
        text=replace(sizes.text, depth=factor * sizes.text.depth),
    )


def experiment_of(setting: StepSetting, num_steps: int) -> ContrastiveExperiment:
    """The contrastive experiment of these sizes, with AdamW and clipping as by default, of which `num_steps` are taken.

    Nothing is logged or saved.
    """
    sizes = architecture_of(setting)
    return ContrastiveExperiment(
        name="benchmark",
        data=ImageTextDataConfig(
            sources={"emoji": EMOJI_SOURCE}, captions=EMOJI_CAPTIONS, global_batch_size=setting.batch, num_workers=0
        ),
        transform=MultiCropConfig(
            image_size=sizes.image.image_size,
            num_global_crops=setting.global_crops,
            local_size=LOCAL_SIZE[setting.model],
            num_local_crops=setting.local_crops,
        ),
        tokenizer=TokenizerConfig(vocab_size=sizes.vocab_size, context_length=sizes.context_length),
        image_encoder=sizes.image,
        text_encoder=sizes.text,
        dual_encoder=DualEncoderConfig(embed_dim=sizes.embed_dim),
        optimizer=OptimizerConfig(),
        schedule=schedule_of(num_steps),
        trainer=trainer_of(setting),
        checkpoint=CheckpointConfig(every_n_steps=None),
    )


def schedule_of(num_steps: int) -> ScheduleConfig:
    """One step longer than what is taken, since the last step of a stage is logged and saved."""
    return ScheduleConfig(max_steps=num_steps + 1)


def trainer_of(setting: StepSetting) -> TrainerConfig:
    """The trainer's section."""
    return TrainerConfig(
        precision=setting.precision.removesuffix("-true"),
        accelerator="gpu" if setting.device == "cuda" else "cpu",
        compile=setting.compile,
        log_every_n_steps=NEVER,
        num_threads=setting.threads,
    )
