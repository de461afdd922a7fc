"""Sizes of a first experiment by stated rules: images and machine give the model, pairs and memory batch and steps."""

import math
from dataclasses import dataclass, replace

from data_modules.config import ImageTextDataConfig
from data_modules.images.config import MultiCropConfig
from data_modules.preparation.survey.survey import DataSurvey
from data_modules.sources.config import SourceConfig
from data_modules.text.config import TokenizerConfig
from kelip_lightning.config.experiment import ContrastiveExperiment, TrainerConfig
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.optim.config import ScheduleConfig
from kelip_lightning.planning.memory import count_state, rank_memory, stage_loss_memory
from kelip_lightning.planning.stage_plan import make_stage_plan
from kelip_lightning.scaffolding.machine import Machine

EPOCHS = 30
"""Passes over the pairs (CLIP: 32), within the budget of the machine."""
BUDGET = {False: 200_000, True: 100_000_000}
"""Whether there is a GPU -> pairs that contrastive training sees, but at least one pass over all."""
MAX_BATCH = {False: 256, True: 4096}
BATCHES_PER_EPOCH = 8
"""A batch is at most this part of the pairs: a larger one would hold too many twice where it runs across an epoch's end
(`data.allow_repeats`), B / (6 N) of the pairs of such a batch of B, which is B / N of all batches."""
MIN_BATCH, MIN_STEPS = 2, 20
_GPU_SIZES = ((160, 224, 32, 96), (96, 128, 16, 64), (0, 64, 8, 32))
_CPU_SIZES = ((48, 64, 16, 32), (0, 32, 8, 16))
"""Smallest median of the short sides -> image size, patch size, size of local crops, in pixels."""
_LARGE_SET = 1_000_000
"""Pairs from which a GPU gets ViT-B."""
_MAX_TOKENS = 77


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Dimensions of both encoders and of the decoder of MAE pre-training."""

    name: str
    width: int
    depth: int
    num_heads: int
    text_width: int
    text_depth: int
    text_heads: int
    embed_dim: int
    decoder_width: int
    decoder_depth: int
    decoder_heads: int


SMALL = Model(
    name="that of the emoji experiments",
    width=192,
    depth=4,
    num_heads=3,
    text_width=192,
    text_depth=2,
    text_heads=3,
    embed_dim=128,
    decoder_width=96,
    decoder_depth=2,
    decoder_heads=3,
)
VIT_S = Model(
    name="ViT-S",
    width=384,
    depth=12,
    num_heads=6,
    text_width=384,
    text_depth=6,
    text_heads=6,
    embed_dim=256,
    decoder_width=256,
    decoder_depth=4,
    decoder_heads=8,
)
VIT_B = Model(
    name="ViT-B",
    width=768,
    depth=12,
    num_heads=12,
    text_width=512,
    text_depth=12,
    text_heads=8,
    embed_dim=512,
    decoder_width=512,
    decoder_depth=8,
    decoder_heads=16,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """The sizes of both stages."""

    has_gpu: bool
    image_size: int
    patch_size: int
    local_size: int
    model: Model
    batch_size: int
    """Pairs of a step."""
    max_steps: int
    mae_batch_size: int
    """Images of a step of MAE pre-training."""
    mae_max_steps: int
    vocab_size: int
    context_length: int
    num_workers: int

    @property
    def num_global_crops(self) -> int:
        """2, the default of multi-crop."""
        return 2

    @property
    def num_local_crops(self) -> int:
        """4 with a GPU (the default), 1 on a CPU as in the emoji experiments."""
        return 4 if self.has_gpu else 1


def choose_sizing(survey: DataSurvey, machine: Machine) -> Sizing:
    """Sizes for this data on this machine."""
    has_gpu = machine.num_gpus > 0
    tiers = _GPU_SIZES if has_gpu else _CPU_SIZES
    image_size, patch_size, local_size = next(rest for least, *rest in tiers if survey.sizes.median >= least)
    pairs, images = training_pairs(survey), training_images(survey)
    batch = _power_of_two(min(MAX_BATCH[has_gpu], pairs // BATCHES_PER_EPOCH))
    mae_batch = _power_of_two(min(MAX_BATCH[has_gpu], images // BATCHES_PER_EPOCH))
    sizing = Sizing(
        has_gpu=has_gpu,
        image_size=image_size,
        patch_size=patch_size,
        local_size=local_size,
        model=_model(has_gpu, pairs),
        batch_size=batch,
        max_steps=0,
        mae_batch_size=mae_batch,
        mae_max_steps=0,
        vocab_size=4000 if pairs < 100_000 else 16_000 if pairs < 1_000_000 else 32_000,
        context_length=_context_length(survey.caption_characters(95)),
        num_workers=max(1, min(16, machine.cores // machine.num_gpus - 1)) if has_gpu else 1,
    )
    return _with_steps(_fitted(sizing, machine), pairs, images)


def training_pairs(survey: DataSurvey) -> int:
    """Pairs that are left for training."""
    return round(survey.num_pairs * (1 - survey.held_out.share))


def training_images(survey: DataSurvey) -> int:
    """Images that are left for training."""
    return round(survey.num_images * (1 - survey.held_out.share))


def _model(has_gpu: bool, pairs: int) -> Model:
    if not has_gpu:
        return SMALL
    return VIT_B if pairs >= _LARGE_SET else VIT_S


def _power_of_two(limit: int) -> int:
    return 1 << max(MIN_BATCH, limit).bit_length() - 1


def _context_length(characters: int) -> int:
    """Tokens for a caption of so many characters, at one token each, start and end included."""
    return min(_MAX_TOKENS, max(16, -(-(characters + 2) // 8) * 8))


def _with_steps(sizing: Sizing, pairs: int, images: int) -> Sizing:
    def steps(samples: int, batch: int, budget: int) -> int:
        one_pass = 1.05 * samples  # a count by sample may be too small, and a run must see every pair
        return max(MIN_STEPS, math.ceil(max(one_pass, min(EPOCHS * samples, budget)) / batch))

    budget = BUDGET[sizing.has_gpu]
    return replace(
        sizing,
        max_steps=steps(pairs, sizing.batch_size, budget),
        mae_max_steps=steps(images, sizing.mae_batch_size, budget // 2),
    )


def _fitted(sizing: Sizing, machine: Machine) -> Sizing:
    """With the largest batch that fits the GPUs by the estimate of `kelip plan`, halved until it does."""
    while sizing.has_gpu and sizing.batch_size > 32 * machine.num_gpus and not _fits(sizing, machine):
        half = sizing.batch_size // 2
        sizing = replace(sizing, batch_size=half, mae_batch_size=min(sizing.mae_batch_size, half))
    return sizing


def _fits(sizing: Sizing, machine: Machine) -> bool:
    stage = _stage(sizing, machine)
    plan = make_stage_plan(stage, None)
    loss = stage_loss_memory(stage, plan, stage.data.global_batch_size)
    return rank_memory(stage, plan, count_state(stage), loss, "ddp", machine.gpu_bytes).fits


def _stage(sizing: Sizing, machine: Machine) -> ContrastiveExperiment:
    """The contrastive stage with a source that is not opened."""
    model = sizing.model
    source = SourceConfig(files=["pairs.parquet"], captions={"ko": "caption"})
    return ContrastiveExperiment(
        name="sizing",
        data=ImageTextDataConfig(sources={"pairs": source}, global_batch_size=sizing.batch_size),
        transform=MultiCropConfig(
            image_size=sizing.image_size,
            num_global_crops=sizing.num_global_crops,
            local_size=sizing.local_size,
            num_local_crops=sizing.num_local_crops,
        ),
        tokenizer=TokenizerConfig(vocab_size=sizing.vocab_size, context_length=sizing.context_length),
        image_encoder=ImageEncoderConfig(
            image_size=sizing.image_size,
            patch_size=sizing.patch_size,
            width=model.width,
            depth=model.depth,
            num_heads=model.num_heads,
        ),
        text_encoder=TextEncoderConfig(width=model.text_width, depth=model.text_depth, num_heads=model.text_heads),
        dual_encoder=DualEncoderConfig(embed_dim=model.embed_dim),
        schedule=ScheduleConfig(max_steps=1),
        trainer=TrainerConfig(precision="bf16-mixed", accelerator="cpu", devices=machine.num_gpus),
    )
