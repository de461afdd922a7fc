"""How the cost of our step grows with batch, depth, crops and masked patches, beside counted operations.

Each case is a step of ours; a case with a reference is compared with it, by time and by counted operations per sample.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch

from data_modules.config import ImageDataConfig
from data_modules.images.config import MaskedImageConfig
from data_modules.records import Batch, ImageBatch
from kelip_lightning.benchmarks.processes import Progress, in_fresh_process
from kelip_lightning.benchmarks.step.batches import NUM_BATCHES, make_batches
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.ceiling import count_step
from kelip_lightning.benchmarks.step.clock import StepClock
from kelip_lightning.benchmarks.step.setting import (
    EMOJI_SOURCE,
    ModelName,
    StepSetting,
    architecture_of,
    experiment_of,
    schedule_of,
    trainer_of,
)
from kelip_lightning.benchmarks.step.trainer_steps import StopCallback, build_module, fit
from kelip_lightning.callbacks.config import CheckpointConfig
from kelip_lightning.config.experiment import MaskedPretrainExperiment
from kelip_lightning.models.config import MaskedAutoencoderConfig
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.planning.flops import count_flops
from kelip_lightning.planning.stage_plan import Stage
from kelip_lightning.training.stages import build_masked_pretrain_module

BATCH_FACTORS = (2, 4, 8)
MASKED_FACTOR = 4
"""Factor on the batch of the MAE cases, whose steps are short."""
MASK_RATIO = 0.75
GLOBAL_CROPS, LOCAL_CROPS = 2, 4
DECODERS = {
    ModelName.vit_b32: MaskedAutoencoderConfig(),
    ModelName.emoji: MaskedAutoencoderConfig(decoder_width=96, decoder_depth=2, decoder_num_heads=3),
    ModelName.tiny: MaskedAutoencoderConfig(decoder_width=16, decoder_depth=1, decoder_num_heads=2),
}
"""Of vit_b32 He et al.'s, of emoji the experiment's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A kind of step."""

    name: str
    reference: str | None
    """The case it is compared with; `None`: it is a reference itself."""
    setting: StepSetting
    mask_ratio: float | None = None
    """Of a step of MAE pre-training; `None`: contrastive."""
    tolerance: float | None = None
    """Largest relative difference of the two ratios that is called equal; `None`: there is no claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthRound:
    """One process."""

    number: int
    order: list[str]
    seconds: dict[str, float] = field(default_factory=dict)
    """Case -> seconds per pair or image."""
    flops: dict[str, float] = field(default_factory=dict)
    """Case -> counted operations per pair or image."""


def growth_cases(setting: StepSetting) -> list[Case]:
    """All cases; `setting` has the smallest batch, and one crop."""
    base = f"batch {setting.batch}"
    cases = [Case(name=base, reference=None, setting=setting)]
    for factor in BATCH_FACTORS:
        larger = replace(setting, batch=factor * setting.batch)
        cases.append(Case(name=f"batch {larger.batch}", reference=base, setting=larger))
    cases.append(Case(name="depth x 2", reference=base, setting=replace(setting, depth_factor=2)))
    masked = replace(setting, batch=MASKED_FACTOR * setting.batch)
    # A loss needs a masked patch.
    almost_none = 1 / architecture_of(setting).image.num_patches
    cases.append(Case(name="MAE, 1 patch", reference=None, setting=masked, mask_ratio=almost_none))
    name = f"MAE, {MASK_RATIO:.0%}"
    cases.append(Case(name=name, reference="MAE, 1 patch", setting=masked, mask_ratio=MASK_RATIO, tolerance=0.15))
    only_global = replace(setting, global_crops=GLOBAL_CROPS)
    reference = f"{GLOBAL_CROPS} + 0 crops"
    cases.append(Case(name=reference, reference=None, setting=only_global))
    crops = replace(only_global, local_crops=LOCAL_CROPS)
    cases.append(Case(name=f"{GLOBAL_CROPS} + {LOCAL_CROPS} crops", reference=reference, setting=crops))
    return cases


def run_growth(
    cases: Sequence[Case], lengths: CaptionLengths, *, rounds: int, warmup: int, steps: int, progress: Progress
) -> list[GrowthRound]:
    """All rounds, each in a fresh process; the order of the cases rotates.

    Raises:
        BenchmarkError: A process died.
    """
    done = []
    for number in range(rounds):
        threads = cases[0].setting.threads
        done.append(in_fresh_process(threads, measure_growth, cases, lengths, number, warmup, steps))
        milliseconds = ", ".join(f"{case.name}: {1000 * done[-1].seconds[case.name]:.2f}" for case in cases)
        progress(f"round {number + 1} of {rounds}, ms per sample; {milliseconds}")
    return done


def measure_growth(cases: Sequence[Case], lengths: CaptionLengths, number: int, warmup: int, steps: int) -> GrowthRound:
    """One round, in this process; `number`, from 0, is the seed of the batches."""
    shift = number % len(cases)
    ordered = [*cases[shift:], *cases[:shift]]
    found = GrowthRound(number=number, order=[one.name for one in ordered])
    for case in ordered:
        clock = StepClock(torch.device(case.setting.device), warmup, steps)
        experiment, module, batches, flops = prepare_case(case, lengths, number, clock.num_steps)
        fit(experiment, module, batches, clock.num_steps, StopCallback(clock))
        timed = [flops[step % len(flops)] for step in range(warmup, clock.num_steps)]
        samples = case.setting.batch * steps
        found.seconds[case.name] = clock.times().seconds / samples
        found.flops[case.name] = sum(timed) / samples
    return found


def prepare_case(
    case: Case, lengths: CaptionLengths, seed: int, num_steps: int
) -> tuple[Stage, StageModule, Sequence[Batch], list[int]]:
    """Experiment, module and batches of a case, and counted operations of a step on each batch."""
    setting = case.setting
    if case.mask_ratio is None:
        contrastive, pairs = build_module(setting, num_steps), make_batches(setting, lengths, seed)
        return experiment_of(setting, num_steps), contrastive, pairs, count_step(setting, contrastive.model, pairs)
    experiment = masked_experiment_of(setting, case.mask_ratio, num_steps)
    flops = setting.batch * count_flops(experiment).training
    images = make_image_batches(setting, seed)
    return experiment, build_masked_pretrain_module(experiment), images, [flops] * len(images)


def masked_experiment_of(setting: StepSetting, mask_ratio: float, num_steps: int) -> MaskedPretrainExperiment:
    """The MAE experiment of these sizes; as `experiment_of`."""
    image = architecture_of(setting).image
    return MaskedPretrainExperiment(
        name="benchmark",
        data=ImageDataConfig(sources={"emoji": EMOJI_SOURCE}, global_batch_size=setting.batch, num_workers=0),
        transform=MaskedImageConfig(image_size=image.image_size),
        image_encoder=image,
        masked_autoencoder=replace(DECODERS[setting.model], mask_ratio=mask_ratio),
        schedule=schedule_of(num_steps),
        trainer=trainer_of(setting),
        checkpoint=CheckpointConfig(every_n_steps=None),
    )


def make_image_batches(setting: StepSetting, seed: int) -> list[ImageBatch]:
    """`NUM_BATCHES` batches of random pixels and masks, as the loader of MAE pre-training makes them."""
    image, random = architecture_of(setting).image, torch.Generator().manual_seed(seed)
    shape = (setting.batch, 3, image.image_size, image.image_size)
    batches = []
    for number in range(NUM_BATCHES):
        ids = torch.arange(number * setting.batch, (number + 1) * setting.batch)
        batches.append(
            ImageBatch(
                images=torch.randint(0, 256, shape, dtype=torch.uint8, generator=random),
                noise=torch.rand(setting.batch, image.num_patches, generator=random),
                sample_ids=ids,
                sample_seeds=ids,
            )
        )
    return batches
