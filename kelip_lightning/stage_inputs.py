"""What the stages read: data modules and evaluation sets, from an experiment's own sections."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from data_modules.evaluation_sets import EvaluationSets, build_evaluation_sets
from data_modules.image import ImageDataModule
from data_modules.image_text import ImageTextDataModule
from data_modules.sampling import Draw
from data_modules.sources.protocol import PairSource
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveInputs:
    """Everything that stage 2 reads, opened and checked."""

    data: ImageTextDataModule
    """Its tokenizer is trained or read."""
    sets: EvaluationSets


def build_image_data(
    experiment: MaskedPretrainExperiment, sources: Sequence[PairSource] | None = None
) -> ImageDataModule:
    """The data module of stage 1; opens its sources unless they are given."""
    return ImageDataModule(
        experiment.data,
        experiment.transform,
        num_patches=(experiment.transform.image_size // experiment.image_encoder.patch_size) ** 2,
        seed=experiment.seed,
        max_steps=experiment.schedule.max_steps,
        sources=sources,
    )


def build_image_text_data(
    experiment: ContrastiveExperiment, sources: Sequence[PairSource] | None = None
) -> ImageTextDataModule:
    """The data module of stage 2; opens its sources unless they are given, trains or reads its tokenizer at once."""
    return ImageTextDataModule(
        experiment.data,
        experiment.transform,
        experiment.tokenizer,
        seed=experiment.seed,
        max_steps=experiment.schedule.max_steps,
        sources=sources,
    )


def read_contrastive_inputs(
    experiment: ContrastiveExperiment, sources: Sequence[PairSource] | None = None
) -> ContrastiveInputs:
    """Open the pair set unless it is given, train or read the tokenizer, decode the evaluation sets.

    Raises:
        DataError: A file is missing, damaged, or not as configured.
    """
    data = build_image_text_data(experiment, sources)
    sets = build_evaluation_sets(experiment.evaluation, experiment.image_encoder.image_size)
    return ContrastiveInputs(data=data, sets=sets)


def shown_images(data: ImageDataModule, count: int) -> tuple[Tensor, Tensor]:
    """`count` fixed crops with their noise: the first of the order's first batch."""
    ids = data.order.batch(0)[:count]
    draws = [Draw(0, int(sample_id)) for sample_id in ids]
    batch = data.collate([data.dataset[draw] for draw in draws])
    return batch.images, batch.noise
