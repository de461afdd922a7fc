"""What the stages read: data modules and evaluation sets, from an experiment's own sections."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from data_modules.benchmarks.evaluation_sets import EvaluationSets, build_evaluation_sets
from data_modules.image import ImageDataModule
from data_modules.image_text import ImageTextDataModule
from data_modules.order.sampling import Draw
from data_modules.sources.rows import PairSource
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.training.run_tokenizer import keep_tokenizer, kept_tokenizer


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
    experiment: ContrastiveExperiment, sources: Sequence[PairSource] | None = None, run: RunFolder | None = None
) -> ImageTextDataModule:
    """The data module of stage 2, its tokenizer ready.

    Args:
        experiment: The stage.
        sources: Its sources, opened, before any language rule; none: they are opened here.
        run: Whose tokenizer it is: read from its folder, or made and written there by the first process; none: the
            tokenizer is trained, or read from the configured file, and not kept.

    Raises:
        DataError: A file is missing, damaged, or not as configured.
        RunFolderError: The run's tokenizer was exchanged.
    """
    kept = None if run is None else kept_tokenizer(run, experiment.tokenizer)
    data = ImageTextDataModule(
        experiment.data,
        experiment.transform,
        kept or experiment.tokenizer,
        seed=experiment.seed,
        max_steps=experiment.schedule.max_steps,
        sources=sources,
    )
    if run is not None and kept is None:
        keep_tokenizer(run, data.tokenizer)
    return data


def read_contrastive_inputs(
    experiment: ContrastiveExperiment, run: RunFolder, sources: Sequence[PairSource] | None = None
) -> ContrastiveInputs:
    """Open the pair set unless it is given, make or read the run's tokenizer, decode the evaluation sets.

    Raises:
        DataError: A file is missing, damaged, or not as configured.
        RunFolderError: The run's tokenizer was exchanged.
    """
    data = build_image_text_data(experiment, sources, run)
    sets = build_evaluation_sets(experiment.evaluation, experiment.image_encoder.image_size)
    return ContrastiveInputs(data=data, sets=sets)


def shown_images(data: ImageDataModule, count: int) -> tuple[Tensor, Tensor]:
    """`count` fixed crops with their noise: the first of the order's first batch."""
    ids = data.order.batch(0)[:count]
    draws = [Draw(0, int(sample_id)) for sample_id in ids]
    batch = data.collate([data.dataset[draw] for draw in draws])
    return batch.images, batch.noise
